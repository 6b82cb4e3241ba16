"""Models to measure a machine's peak with: a product and a convolution that are large enough to be arithmetic alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgepack.errors import EdgepackError
from edgepack.model import Model
from edgepack.target import Target

# 134 and 151 million: one to two milliseconds at 100 billion a second, and within the caches of a small board.
_ROWS, _DEPTH, _COLUMNS = 256, 1024, 512
_CHANNELS, _SIZE = 128, 32
PRODUCT_SHAPE, CONVOLUTION_SHAPE = (_ROWS, _DEPTH), (1, _CHANNELS, _SIZE, _SIZE)
PRODUCT_MACS, CONVOLUTION_MACS = _ROWS * _DEPTH * _COLUMNS, 9 * _CHANNELS * _CHANNELS * _SIZE * _SIZE


def write(target: Target, folder: Path) -> list[dict[str, Any]]:
    """Write the models into `folder` as the target takes them; what each is, with its file below `folder`."""
    found = []
    for precision in ("fp32", "int8"):
        for kind, shape, macs in (
            ("product", PRODUCT_SHAPE, PRODUCT_MACS),
            ("convolution", CONVOLUTION_SHAPE, CONVOLUTION_MACS),
        ):
            place = folder / f"{kind}-{precision}"
            place.mkdir(parents=True)
            try:
                file = target.lower(model(kind, integers=precision == "int8"), place)
            except EdgepackError:  # a form that the runtime here lacks has no peak
                shutil.rmtree(place)
                continue
            entry = {"precision": precision, "kind": kind, "macs": macs, "shape": list(shape)}
            found.append({**entry, "file": f"{place.name}/{file}"})
    return found


def model(kind: str, *, integers: bool) -> Model:
    """One layer from x to y, with Q/DQ around it where it is to be computed in integers."""
    random = np.random.default_rng(0)
    shape = (_COLUMNS, _DEPTH) if kind == "product" else (_CHANNELS, _CHANNELS, 3, 3)
    weight = random.uniform(-1, 1, shape).astype(np.float32)
    made = (_ROWS, _COLUMNS) if kind == "product" else CONVOLUTION_SHAPE
    given = PRODUCT_SHAPE if kind == "product" else CONVOLUTION_SHAPE
    # Of sums of products of numbers spread evenly over ±1.
    spread = 4 * np.sqrt(np.prod(shape[1:]) / 9)
    arrays: dict[str, np.ndarray] = {"b": np.zeros(shape[0], np.float32)}
    nodes: list[onnx.NodeProto] = []
    data, bias = "x", "b"
    if integers:
        arrays |= {
            "w": np.round(64 * weight).astype(np.int8),  # within 7 bits, which saturate nowhere
            "w_scale": np.full(shape[0], 1 / 64, np.float32),
            "w_zero": np.zeros(shape[0], np.int8),
            "b": np.zeros(shape[0], np.int32),
            "b_scale": np.full(shape[0], 1 / 64 / 127.5, np.float32),
            "x_scale": np.array(1 / 127.5, np.float32),
            "y_scale": np.array(spread / 127.5, np.float32),
            "zero": np.array(128, np.uint8),
            "b_zero": np.zeros(shape[0], np.int32),
        }
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "x_scale", "zero"], ["x_quantized"]),
            helper.make_node("DequantizeLinear", ["x_quantized", "x_scale", "zero"], ["x_dequantized"]),
            helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["w_dq"], axis=0),
            helper.make_node("DequantizeLinear", ["b", "b_scale", "b_zero"], ["b_dq"], axis=0),
        ]
        data, bias = "x_dequantized", "b_dq"
    else:
        arrays["w"] = weight
    inner, result = ("w_dq", "y_float") if integers else ("w", "y")
    if kind == "product":
        nodes.append(helper.make_node("Gemm", [data, inner, bias], [result], name="peak", transB=1))
    else:
        nodes.append(helper.make_node("Conv", [data, inner, bias], [result], name="peak", pads=[1, 1, 1, 1]))
    if integers:
        nodes.append(helper.make_node("QuantizeLinear", ["y_float", "y_scale", "zero"], ["y_quantized"]))
        nodes.append(helper.make_node("DequantizeLinear", ["y_quantized", "y_scale", "zero"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "peak",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, given)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, made)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return Model.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8))
