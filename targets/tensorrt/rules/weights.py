"""Rules of weights and biases: along which axis, and in which form they are stored."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from edgepack.device import Device
from edgepack.lint import ADVICE, ERROR, Place, Rule
from edgepack.lint.qdq import (
    at,
    float_source,
    holds_weights,
    is_constant,
    is_dequantize,
    operand,
    pairs,
    per_channel,
    quantized_by,
    quantized_type,
    rank_of,
    readers,
    rounded,
    roundings,
    scale_of,
    weight_pair,
    weighted,
)
from edgepack.model import Model

from .versions import older_than

_HEADER = "NvInfer.h, IQuantizeLayer and IDequantizeLayer"
_PARSER = "onnx-tensorrt, QuantDequantLinearHelper"
_TYPES = ir.DataType


def weight_axis(model: Model, device: Device) -> Iterator[Place]:
    for node in weighted(model):
        for index in (1,) if node.op_type != "MatMul" else (0, 1):
            found = weight_pair(operand(node, index))
            if found is None or not per_channel(found[0]):
                continue
            dequantize, between = found
            wanted = _traced_back(_output_axis(node, index), between)
            scales = scale_of(dequantize)
            if wanted is None or scales is None or scales.ndim != 1:
                continue
            before = quantized_by(dequantize)
            wrong = [pair for pair in (dequantize, before) if pair is not None and _axis(pair) != wanted]
            if wrong:
                what = f"scales along axis {_axis(wrong[0])} of the weights of {node.op_type}, not {wanted}"
                yield at(wrong[0], float_source(dequantize), what)


def axis_unsaid(model: Model, device: Device) -> Iterator[Place]:
    for node in roundings(model):
        if per_channel(node) and "axis" not in node.attributes and is_constant(operand(node, 0)):
            yield at(node, rounded(node), f"{_count(node)} scales and no axis")


def quantized_bias(model: Model, device: Device) -> Iterator[Place]:
    for node in pairs(model):
        if is_dequantize(node) and quantized_type(node) == _TYPES.INT32:
            users = [reader.op_type for reader in readers(node.outputs[0])]
            yield at(node, operand(node, 0), f"int32 bias of {users[0]}" if users else "int32 numbers")


def stored_integers(model: Model, device: Device) -> Iterator[Place]:
    if not older_than(device, "10.0"):
        return
    for node in pairs(model):
        stored = is_dequantize(node) and quantized_by(node) is None and holds_weights(node)
        if stored and quantized_type(node) == _TYPES.INT8:
            yield at(node, operand(node, 0), "weights stored as int8")


def weight_per_tensor(model: Model, device: Device) -> Iterator[Place]:
    for node in weighted(model):
        found = weight_pair(operand(node, 1))
        if found is not None and not per_channel(found[0]):
            yield at(node, float_source(found[0]), "one scale for all channels")


def _axis(node: ir.Node) -> int:
    """The axis of the scales; ONNX takes 1 where none is said."""
    axis, rank = node.attributes.get_int("axis", 1), rank_of(rounded(node))
    return axis + rank if axis < 0 and rank is not None else axis


def _output_axis(node: ir.Node, index: int) -> int | None:
    """Along which axis the weights of `node` have one entry an output channel."""
    rank = rank_of(operand(node, index))
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1
    if node.op_type == "Gemm":
        return 0 if node.attributes.get_int("transB", 0) else 1
    if rank is None:
        found = weight_pair(operand(node, index))
        rank = rank_of(float_source(found[0])) if found is not None else None
    return None if rank is None or rank < 2 else rank - 1 if index == 1 else rank - 2


def _traced_back(axis: int | None, between: list[ir.Node]) -> int | None:
    """The same axis before the steps between a weight's pair and the operator; None where they mix axes."""
    for step in between:
        if axis is None or step.op_type in ("Reshape", "Flatten", "Squeeze", "Unsqueeze"):
            return None
        if step.op_type == "Transpose":
            order = list(step.attributes.get_ints("perm", []))
            rank = rank_of(operand(step, 0))
            order = order or (list(range(rank))[::-1] if rank is not None else [])
            axis = order[axis] if axis < len(order) else None
    return axis


def _count(node: ir.Node) -> int:
    found = scale_of(node)
    return 0 if found is None else found.size


RULES = (
    Rule(
        name="weight-axis",
        severity=ERROR,
        why="weights have one scale an output channel: axis 0 of Conv, 1 of ConvTranspose, the last of MatMul",
        advice="quantize along the output channels; Gemm's are axis 0 with transB, else 1",
        source=f"{_PARSER}: scales are counted by output channels; Working with Quantized Types",
        check=weight_axis,
    ),
    Rule(
        name="axis-unsaid",
        severity=ERROR,
        why="without the attribute ONNX takes axis 1 and TensorRT axis 0",
        advice="write the axis of the scales",
        source=f"{_PARSER}: a missing axis becomes 0",
        check=axis_unsaid,
    ),
    Rule(
        name="quantized-bias",
        severity=ERROR,
        why="biases stay in float; a pair holds no int32",
        advice="leave biases in float (ONNX Runtime: QuantizeBias=False)",
        source=f"{_HEADER}: types of the input; Q/DQ placement recommendations",
        check=quantized_bias,
    ),
    Rule(
        name="stored-integers",
        severity=ERROR,
        why="before TensorRT 10 weights come in float, behind QuantizeLinear and DequantizeLinear",
        advice="keep float weights before their pair (ONNX Runtime: AddQDQPairToWeight=True)",
        source="TensorRT 8 developer guide, explicit quantization: quantized weights",
        check=stored_integers,
    ),
    Rule(
        name="weight-per-tensor",
        severity=ADVICE,
        why="one scale for all channels costs accuracy and no time is saved",
        advice="quantize weights per channel",
        source="Q/DQ placement recommendations: per-channel quantization for weights",
        check=weight_per_tensor,
    ),
)
