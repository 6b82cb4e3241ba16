"""A Q/DQ graph as rules see it: pairs, weights behind them, and what reads a tensor."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from edgepack.lint import Place
from edgepack.model import Model, constant
from edgepack.quantization.layer import WEIGHTED

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
# They move numbers and change none, so that Q/DQ may stand on either side.
MOVING = frozenset(
    {
        "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Slice", "Split", "Concat", "Gather",
        "Expand", "Tile", "MaxPool", "DepthToSpace", "SpaceToDepth",
    }
)  # fmt: skip
# What lies between weights and their pair at most.
_WEIGHT_STEPS = frozenset({"Transpose", "Reshape", "Cast", "Identity", "Flatten", "Squeeze", "Unsqueeze"})


def called(node: ir.Node) -> str:
    """A node by its name, or by its operator and output where it has none."""
    return node.name or f"{node.op_type} ({node.outputs[0].name})"


def at(node: ir.Node, value: ir.Value | None, what: str) -> Place:
    return Place(node=called(node), tensor=(value.name or "") if value is not None else "", what=what)


def is_quantize(node: ir.Node | None) -> bool:
    return node is not None and node.op_type == QUANTIZE


def is_dequantize(node: ir.Node | None) -> bool:
    return node is not None and node.op_type == DEQUANTIZE


def pairs(model: Model) -> Iterator[ir.Node]:
    """Every QuantizeLinear and DequantizeLinear."""
    return (node for node in model.nodes() if is_quantize(node) or is_dequantize(node))


def roundings(model: Model) -> Iterator[ir.Node]:
    """A node for each pair: its QuantizeLinear; a DequantizeLinear that has none, or another zero point than it."""
    for node in pairs(model):
        before = None if is_quantize(node) else quantized_by(node)
        if before is None or not _equal(zero_point_of(before), zero_point_of(node)):
            yield node


def weighted(model: Model) -> Iterator[ir.Node]:
    return (node for node in model.nodes() if node.op_type in WEIGHTED and node.domain in ("", "ai.onnx"))


def operand(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def readers(value: ir.Value) -> list[ir.Node]:
    return [usage.node for usage in value.uses()]


def dequantized_by(value: ir.Value | None) -> ir.Node | None:
    """The DequantizeLinear that makes a value."""
    node = value.producer() if value is not None else None
    return node if is_dequantize(node) else None


def quantized_by(dequantize: ir.Node) -> ir.Node | None:
    """The QuantizeLinear before a DequantizeLinear; None where that reads stored integers."""
    data = operand(dequantize, 0)
    node = data.producer() if data is not None else None
    return node if is_quantize(node) else None


def float_source(dequantize: ir.Node) -> ir.Value | None:
    """What the pair rounds: the value before its QuantizeLinear, or the stored integers."""
    quantize = quantized_by(dequantize)
    return operand(quantize if quantize is not None else dequantize, 0)


def rounded_readers(dequantize: ir.Node) -> list[ir.Node]:
    """What reads a rounded tensor, by this DequantizeLinear or by any other of the same tensor."""
    source = float_source(dequantize)
    if source is None or quantized_by(dequantize) is None:
        return readers(dequantize.outputs[0])
    quantized = [node.outputs[0] for node in readers(source) if is_quantize(node)]
    restored = [node.outputs[0] for value in quantized for node in readers(value) if is_dequantize(node)]
    return [node for value in restored for node in readers(value)]


def is_constant(value: ir.Value | None) -> bool:
    """True for weights and what is made of nothing but weights."""
    while value is not None:
        if constant(value) is not None:
            return True
        node = value.producer()
        if node is None or node.op_type not in _WEIGHT_STEPS | {QUANTIZE, DEQUANTIZE}:
            return False
        value = operand(node, 0)
    return False


def holds_weights(dequantize: ir.Node) -> bool:
    return is_constant(operand(dequantize, 0))


def weight_pair(value: ir.Value | None) -> tuple[ir.Node, list[ir.Node]] | None:
    """The DequantizeLinear of a weight, and the nodes between it and the value, nearest the value first."""
    between: list[ir.Node] = []
    while value is not None:
        node = value.producer()
        if is_dequantize(node) and node is not None:
            return (node, between) if holds_weights(node) else None
        if node is None or node.op_type not in _WEIGHT_STEPS:
            return None
        between.append(node)
        value = operand(node, 0)
    return None


def is_rounded(value: ir.Value | None) -> bool:
    """Whether a pair stands before a value, perhaps with steps that move numbers between."""
    while value is not None:
        if dequantized_by(value) is not None:
            return True
        node = value.producer()
        if node is None or node.op_type not in MOVING:
            return False
        value = operand(node, 0)
    return False


def scale_of(node: ir.Node) -> np.ndarray | None:
    """The scales of a QuantizeLinear or DequantizeLinear; None where they are no constants."""
    return constant(operand(node, 1))


def zero_point_of(node: ir.Node) -> np.ndarray | None:
    return constant(operand(node, 2))


def per_channel(node: ir.Node) -> bool:
    scale = scale_of(node)
    return scale is not None and scale.size > 1


def equal_scales(one: ir.Node, other: ir.Node) -> bool:
    return _equal(scale_of(one), scale_of(other))


def _equal(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    return a is None or b is None or (a.size == b.size and bool(np.array_equal(a.ravel(), b.ravel())))


def quantized_type(node: ir.Node) -> ir.DataType | None:
    """The integers of a pair, by its zero point, its output_dtype or the tensor itself; None where nothing says."""
    point = operand(node, 2)
    if point is not None:
        array = constant(point)
        if point.dtype is not None:
            return point.dtype
        if array is not None:
            return ir.DataType.from_numpy(array.dtype)
    if is_quantize(node):
        said = node.attributes.get_int("output_dtype", 0)
        return ir.DataType(said) if said else node.outputs[0].dtype
    data = operand(node, 0)
    if data is None:
        return None
    before = data.producer()
    if is_quantize(before) and before is not None:
        return quantized_type(before)
    array = constant(data)
    return data.dtype or (ir.DataType.from_numpy(array.dtype) if array is not None else None)


def rounded(node: ir.Node) -> ir.Value | None:
    """The tensor that a pair rounds, whichever half of it is given."""
    return float_source(node) if is_dequantize(node) else operand(node, 0)


def rank_of(value: ir.Value | None) -> int | None:
    if value is None:
        return None
    if value.shape is not None:
        return len(value.shape)
    array = constant(value)
    return None if array is None else array.ndim
