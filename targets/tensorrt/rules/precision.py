"""Rules of types and shapes: what the board computes in, fp16 graphs, inputs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from edgepack.device import Device
from edgepack.lint import ADVICE, ERROR, Place, Rule
from edgepack.lint.qdq import at, operand, pairs, quantized_type, rounded
from edgepack.model import Model, constant

from .versions import older_than

_HALF_MAX = float(np.finfo(np.float16).max)
# They square or add up many numbers, which float16 holds badly. LayerNormalization and its like are computed in fp32
# by TensorRT itself, from 8.6 on.
_REDUCTIONS = frozenset(
    {
        "ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL2", "ReduceLogSumExp", "ReduceProd", "Pow",
        "BatchNormalization",
    }
)  # fmt: skip
_NORMALIZATIONS = frozenset({"LayerNormalization", "InstanceNormalization", "GroupNormalization"})


def no_int8(model: Model, device: Device) -> Iterator[Place]:
    if device.gpu is None or device.gpu.int8:
        return
    found = [node for node in pairs(model) if quantized_type(node) == ir.DataType.INT8]
    if found:
        what = f"{len(found)} QuantizeLinear and DequantizeLinear, and the GPU has no int8"
        yield at(found[0], rounded(found[0]), what)


def wide_input(model: Model, device: Device) -> Iterator[Place]:
    for tensor in model.inputs:
        if tensor.dtype == "float64":
            yield Place(node="", tensor=tensor.name, what="a float64 input, which TensorRT casts to float32")
        elif tensor.dtype in ("int64", "uint64") and older_than(device, "10.0"):
            yield Place(node="", tensor=tensor.name, what=f"an {tensor.dtype} input, which TensorRT casts to int32")


def open_dimension(model: Model, device: Device) -> Iterator[Place]:
    for tensor in model.inputs:
        if any(not isinstance(dim, int) for dim in tensor.shape):
            yield Place(node="", tensor=tensor.name, what=f"{tensor} is open and needs an optimization profile")


def half_overflow(model: Model, device: Device) -> Iterator[Place]:
    for tensor in model.tensors():
        if tensor.dtype == ir.DataType.FLOAT16 and np.isinf(tensor.numpy()).any():
            yield Place(node="", tensor=tensor.name or "", what="a float16 constant holds infinity")
    for node in model.nodes():
        if node.op_type == "Cast" and node.attributes.get_int("to", 0) == ir.DataType.FLOAT16:
            array = constant(operand(node, 0))
            if array is not None and array.dtype in (np.float32, np.float64):
                largest = float(np.max(np.abs(array), initial=0))
                if _HALF_MAX < largest < np.inf:
                    yield at(node, operand(node, 0), f"{largest:.3g} is beyond float16")


def half_reduction(model: Model, device: Device) -> Iterator[Place]:
    wanted = _REDUCTIONS | (_NORMALIZATIONS if older_than(device, "8.6") else frozenset())
    for node in model.nodes():
        if node.op_type in wanted and any(_is_half(value) for value in (*node.inputs, *node.outputs)):
            yield at(node, node.outputs[0], f"{node.op_type} in float16")


def _is_half(value: ir.Value | None) -> bool:
    """By its type where that is known, else by the constant that it is."""
    if value is None:
        return False
    if value.dtype is not None:
        return value.dtype == ir.DataType.FLOAT16
    array = constant(value)
    return array is not None and array.dtype == np.float16


RULES = (
    Rule(
        name="no-int8",
        severity=ERROR,
        why="TensorRT builds no int8 engine for a GPU without it",
        advice="take the float model: --precision fp16",
        source="support matrix of TensorRT: compute capabilities 5.3 and 6.2 have no int8",
        check=no_int8,
    ),
    Rule(
        name="wide-input",
        severity=ADVICE,
        why="TensorRT casts wide inputs down and clamps them",
        advice="declare the input as float32 or int32, which is what will be computed with",
        source="onnx-tensorrt, docs/operators.md: limited support for INT64 (before 10) and DOUBLE",
        check=wide_input,
    ),
    Rule(
        name="open-dimension",
        severity=ADVICE,
        why="an engine is built for a range of shapes, which somebody must name",
        advice="name least, usual and largest lengths: --input-shape NAME=1x16..1x64..1x128",
        source="Working with Dynamic Shapes: optimization profiles",
        check=open_dimension,
    ),
    Rule(
        name="half-overflow",
        severity=ADVICE,
        why="float16 ends at 65504",
        advice="keep what reads it in float32, or make the constant smaller (a mask needs no more than -1e4)",
        source="IEEE 754; modelopt AutoCast keeps such nodes in float32",
        check=half_overflow,
    ),
    Rule(
        name="half-reduction",
        severity=ADVICE,
        why="sums and squares of float16 overflow and lose what is small",
        advice="cast to float32 around it, or export LayerNormalization as one operator (opset 17)",
        source="TensorRT's warning: running layernorm with FP16 Reduce or Pow may cause overflow",
        check=half_reduction,
    ),
)
