"""ONNX files: read strictly, external data only from the model's own folder."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, TensorProto

from edgepack.errors import EdgepackError, ExternalDataError, NotAModel, UnsupportedOperator
from edgepack.model import LARGEST_MESSAGE, Model

OLDEST_OPSET = 7
# Contributed operators that ONNX Runtime implements; a runtime that lacks one says so itself.
_KNOWN_DOMAINS = {"com.microsoft", "ai.onnx.ml", "com.microsoft.nchwc", "ai.onnx.preview.training"}


def load(path: Path) -> Model:
    """Read an ONNX file as it is, with its external data, and check it.

    Raises:
        NotAModel, ExternalDataError, UnsupportedOperator.
    """
    proto = ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except (DecodeError, ValueError) as error:
        raise NotAModel(
            f"{path} is not an ONNX model, or is cut off", "check its size against the original's"
        ) from error
    except OSError as error:
        raise NotAModel(f"{path} cannot be read: {error.strerror}", "check the path and its permissions") from error
    if not proto.graph.node or not proto.opset_import:
        raise NotAModel(f"{path} is not an ONNX model, or is cut off", "it holds no graph")
    try:
        check_operators(proto)
        read_external_data(proto, path)
        check_graph(proto, path)
        return Model.from_proto(proto, source=str(path))
    except (EdgepackError, MemoryError):
        raise
    except Exception as error:  # damage that still parses ends in exceptions of many kinds
        raise NotAModel(
            f"{path} is damaged: {type(error).__name__} while reading it", "copy or export it again"
        ) from error


def check_operators(proto: ModelProto) -> None:
    """Refuse operators that no known runtime implements, by name."""
    version = _opset(proto)
    if version and version < OLDEST_OPSET:
        raise NotAModel(f"opset {version} is too old", f"export it with opset {OLDEST_OPSET} or newer")
    functions = {(function.domain, function.name) for function in proto.functions}
    unknown: dict[str, str] = {}
    for body in bodies(proto):
        newest = max(_opset(body) if isinstance(body, FunctionProto) else version, 1)
        for node in (node for part in (body, *nested(body)) for node in part.node):
            domain = "" if node.domain == "ai.onnx" else node.domain
            if (domain, node.op_type) in functions or domain in _KNOWN_DOMAINS:
                continue
            if domain or not onnx.defs.has(node.op_type, max_inclusive_version=newest):
                unknown.setdefault(f"{domain}.{node.op_type}".lstrip("."), node.name or "".join(node.output[:1]))
    if unknown:
        named = ", ".join(f"{op} (node {node})" for op, node in list(unknown.items())[:5])
        raise UnsupportedOperator(
            f"the model holds operators that no runtime here knows: {named}",
            "replace them before export, or register them as ONNX functions",
        )


def _opset(holder: ModelProto | FunctionProto) -> int:
    """The version of ONNX's own operators in a model or a function; 0 where it imports none."""
    versions = {entry.domain or "": entry.version for entry in holder.opset_import}
    return versions.get("", versions.get("ai.onnx", 0))


def read_external_data(proto: ModelProto, path: Path) -> None:
    """Read the weight files, which must lie in the model's folder, exist, and be long enough.

    Raises:
        ExternalDataError, NotAModel.
    """
    folder = path.resolve().parent
    for tensor in external_tensors(proto):
        entry = {item.key: item.value for item in tensor.external_data}
        location = entry.get("location", "")
        file = _weight_file(folder, location, tensor.name, path)
        offset, length = _span(entry, tensor.name, path)
        try:
            with file.open("rb") as weights:
                size = weights.seek(0, os.SEEK_END)
                if offset + (length or 0) > size:
                    raise ExternalDataError(
                        f"the weight file {location!r} is cut off: {tensor.name!r} ends at byte "
                        f"{offset + (length or 0):,}",
                        "copy it again",
                    )
                weights.seek(offset)
                tensor.raw_data = weights.read(-1 if length is None else length)
        except OSError as error:
            raise ExternalDataError(
                f"the weight file {location!r} cannot be read: {error.strerror}", "check its permissions"
            ) from error
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]


def _weight_file(folder: Path, location: str, tensor: str, model: Path) -> Path:
    """The weight file with every link resolved, once: what is checked is what is read."""
    file = Path(os.path.realpath(folder / location)) if "\0" not in location else folder
    if not location or Path(location).is_absolute() or folder not in file.parents:
        raise ExternalDataError(
            f"weights of {tensor!r} lie outside the model's folder: {location!r}",
            "put the weight file beside the model; links that lead outside are refused too",
        )
    try:
        regular = stat.S_ISREG(file.stat().st_mode)
    except OSError:
        regular = False
    if not regular:
        raise ExternalDataError(f"the weight file {location!r} is missing", f"it belongs beside {model.name}")
    return file


def _span(entry: dict[str, str], tensor: str, model: Path) -> tuple[int, int | None]:
    """Where a tensor's bytes begin, and how many they are; None: all that follow."""
    try:
        offset, length = int(entry.get("offset", 0)), int(entry["length"]) if "length" in entry else None
    except ValueError:
        offset, length = -1, None
    if offset < 0 or (length or 0) < 0:
        raise NotAModel(f"{model}: external data of {tensor!r} has no valid offset or length", "export it again")
    return offset, length


def check_graph(proto: ModelProto, path: Path) -> None:
    # No message holds 2 GiB, or tells its size then; from a path the checker leaves the weights where they are.
    large = sum(len(tensor.raw_data) for tensor in proto.graph.initializer) >= LARGEST_MESSAGE
    try:
        onnx.checker.check_model(str(path) if large else proto)
    except (onnx.checker.ValidationError, ValueError) as error:
        text = str(error).strip().splitlines()[0]
        raise NotAModel(f"{path} is not a valid ONNX model: {text}", "export it again") from error


def bodies(proto: ModelProto) -> Iterator[GraphProto | FunctionProto]:
    """The main graph and the model's own functions."""
    yield proto.graph
    yield from proto.functions


def graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """The graph and every graph nested in it."""
    yield graph
    yield from nested(graph)


def nested(body: GraphProto | FunctionProto) -> Iterator[GraphProto]:
    """The graphs inside the control flow of a graph or function."""
    for node in body.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from graphs(attribute.g)
            elif attribute.type == AttributeProto.GRAPHS:
                for inner in attribute.graphs:
                    yield from graphs(inner)


def external_tensors(proto: ModelProto) -> Iterator[TensorProto]:
    """Every tensor whose bytes lie in a file of their own."""
    for part in (part for body in bodies(proto) for part in (body, *nested(body))):
        held = list(part.initializer) if isinstance(part, GraphProto) else []
        for node in part.node:
            for attribute in node.attribute:
                held += [attribute.t] if attribute.type == AttributeProto.TENSOR else attribute.tensors
        yield from (tensor for tensor in held if tensor.data_location == TensorProto.EXTERNAL)
