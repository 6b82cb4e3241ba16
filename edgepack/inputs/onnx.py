"""ONNX files: read strictly, external data only from the model's own folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto

from edgepack.errors import ExternalDataError, NotAModel, UnsupportedOperator
from edgepack.model import Model

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
        raise NotAModel(f"{path} cannot be read: {error.strerror}") from error
    if not proto.graph.node or not proto.opset_import:
        raise NotAModel(f"{path} is not an ONNX model, or is cut off", "it holds no graph")
    check_operators(proto)
    check_external_data(proto, path)
    onnx.load_external_data_for_model(proto, str(path.parent))
    check_graph(proto, path)
    return Model.from_proto(proto, source=str(path))


def check_operators(proto: ModelProto) -> None:
    """Refuse operators that no known runtime implements, by name."""
    opset = {entry.domain or "": entry.version for entry in proto.opset_import}
    version = opset.get("", opset.get("ai.onnx", 0))
    if version and version < OLDEST_OPSET:
        raise NotAModel(f"opset {version} is too old", f"export it with opset {OLDEST_OPSET} or newer")
    functions = {(function.domain, function.name) for function in proto.functions}
    unknown: dict[str, str] = {}
    for graph in graphs(proto.graph):
        for node in graph.node:
            domain = "" if node.domain == "ai.onnx" else node.domain
            if (domain, node.op_type) in functions or domain in _KNOWN_DOMAINS:
                continue
            if domain or not onnx.defs.has(node.op_type, max_inclusive_version=max(version, 1)):
                unknown.setdefault(f"{domain}.{node.op_type}".lstrip("."), node.name or node.output[0])
    if unknown:
        named = ", ".join(f"{op} (node {node})" for op, node in list(unknown.items())[:5])
        raise UnsupportedOperator(
            f"the model holds operators that no runtime here knows: {named}",
            "replace them before export, or register them as ONNX functions",
        )


def check_external_data(proto: ModelProto, path: Path) -> None:
    """Weight files must lie in the model's folder, exist, and be long enough."""
    folder = path.resolve().parent
    for tensor in external_tensors(proto):
        entry = {item.key: item.value for item in tensor.external_data}
        location = entry.get("location", "")
        file = folder / location
        if not location or Path(location).is_absolute() or folder not in Path(os.path.realpath(file)).parents:
            raise ExternalDataError(
                f"weights of {tensor.name!r} lie outside the model's folder: {location!r}",
                "put the weight file beside the model; links that lead outside are refused too",
            )
        if not file.is_file():
            raise ExternalDataError(f"the weight file {location!r} is missing", f"it belongs beside {path.name}")
        try:
            end = int(entry.get("offset", 0)) + int(entry.get("length", 0))
        except ValueError as error:
            raise NotAModel(f"{path}: external data of {tensor.name!r} has no valid offset") from error
        if end > file.stat().st_size:
            raise ExternalDataError(
                f"the weight file {location!r} is cut off: {tensor.name!r} ends at byte {end:,}",
                "copy it again",
            )


def check_graph(proto: ModelProto, path: Path) -> None:
    if proto.ByteSize() >= 2**31 - 1:
        return  # the checker takes no message of 2 GiB; the runtime will judge
    try:
        onnx.checker.check_model(proto)
    except (onnx.checker.ValidationError, ValueError) as error:
        text = str(error).strip().splitlines()[0]
        raise NotAModel(f"{path} is not a valid ONNX model: {text}", "export it again") from error


def graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """The graph and every graph nested in it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from graphs(attribute.g)
            elif attribute.type == AttributeProto.GRAPHS:
                for inner in attribute.graphs:
                    yield from graphs(inner)


def external_tensors(proto: ModelProto) -> Iterator[TensorProto]:
    for graph in graphs(proto.graph):
        yield from (t for t in graph.initializer if t.data_location == TensorProto.EXTERNAL)
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.type == AttributeProto.TENSOR and attribute.t.data_location == TensorProto.EXTERNAL:
                    yield attribute.t
