"""The engine file of the stand-ins, and what both of them refuse. Runs where onnx and onnxruntime import."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

MAGIC = b"ptrt"
CACHE = b"timing cache of "
NOT_SUPPORTED = {"Frobnicate"}


class Refused(Exception):
    """What TensorRT says, as a list of log lines."""

    def __init__(self, *lines: str) -> None:
        super().__init__(lines[0])
        self.lines = lines


def unsupported(proto: onnx.ModelProto) -> tuple[int, onnx.NodeProto] | None:
    """The first node that the parser has no importer for."""
    for index, node in enumerate(proto.graph.node):
        known = onnx.defs.has(node.op_type, node.domain)
        if not known or node.op_type in NOT_SUPPORTED:
            return index, node
    return None


def check_graph(proto: onnx.ModelProto, major: int, flags: set[str]) -> None:
    """What the builder refuses in a graph whose operators it knows.

    Args:
        flags: of FP16, INT8, STRONGLY_TYPED.
    """
    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and len(node.input) > 2:
            zero = weights.get(node.input[2])
            if zero is not None and np.any(onnx.numpy_helper.to_array(zero)):
                raise Refused("Non-zero zero point is not supported. Please consider using symmetric quantization")
    typed = major >= 11 or "STRONGLY_TYPED" in flags
    if typed and flags & {"FP16", "INT8"}:
        raise Refused("Error Code 3: API Usage Error (strongly typed networks take no precision flags)")
    if typed:
        return
    if any(node.op_type == "QuantizeLinear" for node in proto.graph.node) and "INT8" not in flags:
        raise Refused(
            "Error Code 4: Internal Error (fp32 to int8: Int8 precision has been set for a layer or layer output, "
            "but int8 is not configured in the builder)"
        )
    half = any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in proto.graph.initializer)
    if half and "FP16" not in flags:
        raise Refused(
            "Error Code 4: Internal Error (fp16 precision has been set, but is not configured in the builder)"
        )


def open_inputs(proto: onnx.ModelProto) -> dict[str, list[int]]:
    """Shapes of the inputs that have an open dimension, -1 where it is."""
    weights = {tensor.name for tensor in proto.graph.initializer}
    found = {}
    for entry in proto.graph.input:
        dims = [dim.dim_value or -1 for dim in entry.type.tensor_type.shape.dim]
        if entry.name not in weights and -1 in dims:
            found[entry.name] = dims
    return found


def write(proto: onnx.ModelProto, version: str, gpu: str, profile: Mapping[str, Any], flags: set[str]) -> bytes:
    about = {"version": version, "gpu": gpu, "profile": dict(profile), "flags": sorted(flags)}
    return MAGIC + json.dumps(about).encode() + b"\n" + proto.SerializeToString()


def read(data: bytes, version: str) -> tuple[dict[str, Any], bytes]:
    """What an engine says of itself, and its model.

    Raises:
        Refused: it is damaged, or another TensorRT's.
    """
    if not data.startswith(MAGIC):
        raise Refused("Error Code 1: Serialization (Serialization assertion magicTagRead == kMAGIC_TAG failed.)")
    head, _, model = data[len(MAGIC) :].partition(b"\n")
    about = json.loads(head)
    if about["version"] != version:
        raise Refused(
            "Error Code 1: Serialization (Serialization assertion stdVersionRead == kSERIALIZATION_VERSION failed."
            f"Version tag does not match. Note: Current Version: {version}, Serialized Engine Version: "
            f"{about['version']})"
        )
    return about, model


def cache_is_good(data: bytes, version: str) -> bool:
    """Whether a timing cache is taken: none at all, or one of this version."""
    return not data or data == CACHE + version.encode()


def stored(dtype: str, major: int) -> str:
    """The dtype of an input or output in the engine: the ONNX parser makes INT32 of INT64 before 10."""
    return "int32" if major < 10 and dtype == "int64" else dtype


def dtype_of(entry: onnx.ValueInfoProto) -> str:
    return str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(entry.type.tensor_type.elem_type)))


def within(shape: list[int], profile: Mapping[str, list[int]]) -> bool:
    return len(shape) == len(profile["min"]) and all(
        low <= n <= high for low, n, high in zip(profile["min"], shape, profile["max"], strict=True)
    )
