"""The version of each operator: the lowest that takes what is written, so that runtimes of 2023 still load it.

The rules are those of TensorFlow Lite's own converter (lite/tools/versioning/op_version.cc).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

# Version 2 first took int8.
_INT8_SECOND = frozenset(
    {"ADD", "MUL", "SUB", "CONV_2D", "AVERAGE_POOL_2D", "MAX_POOL_2D", "CONCATENATION", "SOFTMAX", "LOGISTIC", "TANH",
     "PAD", "PADV2", "MEAN", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "TRANSPOSE", "STRIDED_SLICE", "SLICE",
     "SPLIT_V", "DEQUANTIZE", "RELU", "RELU6", "BATCH_MATMUL", "GATHER", "MAXIMUM", "MINIMUM", "REDUCE_MAX",
     "REDUCE_MIN", "SUM", "ARG_MAX", "ARG_MIN", "SPACE_TO_DEPTH", "DEPTH_TO_SPACE", "UNPACK", "PACK", "ABS", "RSQRT",
     "GREATER", "LESS", "EQUAL", "NOT_EQUAL", "GREATER_EQUAL", "LESS_EQUAL", "MIRROR_PAD", "LOG_SOFTMAX", "EXP", "LOG",
     "REDUCE_PROD", "TOPK_V2", "GELU", "SQUARED_DIFFERENCE"}
)  # fmt: skip
_INT8_THIRD = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "TILE", "BROADCAST_TO", "REVERSE_V2", "CAST"})
_BOOL_THIRD = frozenset({"TRANSPOSE", "STRIDED_SLICE", "GATHER", "UNPACK"})
# With float activations and int8 weights of a scale a channel.
_MIXED = {"CONV_2D": 5, "FULLY_CONNECTED": 12}
# The version that first took more axes than four.
_FIVE_AXES = {"TRANSPOSE": 4, "SLICE": 5, "PAD": 4, "PADV2": 4, "STRIDED_SLICE": 4}
_FIVE_BROADCAST = {"SUB": 3, "DIV": 2, "MAXIMUM": 3, "MINIMUM": 3}


def version(kind: str, inputs: Sequence[Any], outputs: Sequence[Any], options: dict[str, Any]) -> int:
    """The version for an operator of that kind; inputs and outputs have a shape, a dtype and a quantization.

    Optional inputs that are left out are None.
    """
    given = [tensor for tensor in inputs if tensor is not None]
    types = {tensor.dtype.name for tensor in (*given, *outputs)}
    first = inputs[1] if kind == "SPLIT" else inputs[2] if kind == "TRANSPOSE_CONV" else given[0]
    dtype, rank = first.dtype, len(first.shape)
    if (
        dtype == np.float32
        and kind in _MIXED
        and inputs[1].dtype == np.int8
        and np.size(inputs[1].quantization.scale) > 1
    ):
        return _MIXED[kind]
    found = _special(kind, inputs, outputs, dtype, options)
    if dtype == np.int8:
        found = max(found, 3 if kind in _INT8_THIRD else 2 if kind in _INT8_SECOND else 1)
    if dtype == np.bool_ and kind in _BOOL_THIRD:
        found = max(found, 3)
    if rank > 4:
        found = max(found, _FIVE_AXES.get(kind, 1))
        if len({tensor.shape for tensor in given}) > 1:
            found = max(found, _FIVE_BROADCAST.get(kind, 1))
    if kind == "TRANSPOSE" and rank > 5:
        found = 6
    if kind == "CAST" and "int8" in types:
        found = 3
    return max(found, _of_type(kind, dtype))


def _special(
    kind: str, inputs: Sequence[Any], outputs: Sequence[Any], dtype: np.dtype[Any], options: dict[str, Any]
) -> int:
    if kind == "CONV_2D" and inputs[1].shape[3] != inputs[0].shape[3]:
        return 6
    if kind == "DEPTHWISE_CONV_2D":
        return 2 if options["dilationHFactor"] != 1 or options["dilationWFactor"] != 1 else 1
    if kind == "FULLY_CONNECTED":
        return 5 if options.get("keepNumDims") else 4 if dtype == np.int8 else 1
    if kind == "TRANSPOSE_CONV":
        return 3 if len(inputs) == 4 else 2 if dtype == np.int8 else 1
    if kind in ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"):
        aligned = kind == "RESIZE_NEAREST_NEIGHBOR" and options["alignCorners"]
        return 3 if options["halfPixelCenters"] or aligned else 1
    if kind == "BROADCAST_TO":
        return 2
    if kind == "MUL" and dtype == np.int8:
        return 3 if _factor(inputs, outputs) >= 1.0 else 2
    if kind == "SPLIT":
        return {"int8": 2, "int32": 3}.get(dtype.name, 1)
    return 1


def _of_type(kind: str, dtype: np.dtype[Any]) -> int:
    """What numbers other than float and int8 take."""
    if dtype == np.int64:
        return {"ADD": 4, "SUB": 4, "MUL": 5, "RANGE": 2}.get(kind, 1)
    if dtype == np.int32:
        return {"ABS": 5, "SIGN": 2}.get(kind, 1)
    return 1


def _factor(inputs: Sequence[Any], outputs: Sequence[Any]) -> float:
    one, other, answer = (float(tensor.quantization.scale) for tensor in (*inputs, *outputs))
    return one * other / answer
