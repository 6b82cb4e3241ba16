"""A rule of size: layers that are too small for int8 to be worth its pairs."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from edgepack.device import Device
from edgepack.lint import ADVICE, Place, Rule
from edgepack.lint.qdq import DEQUANTIZE, QUANTIZE, at, float_source, is_rounded, operand, weight_pair, weighted
from edgepack.model import Model

# Tensor cores multiply int8 in tiles of 16.
_TILE = 16


def small(model: Model, device: Device) -> Iterator[Place]:
    for node in weighted(model):
        if not (is_rounded(operand(node, 0)) and is_rounded(operand(node, 1))):
            continue
        what = _small_product(node) if node.op_type in ("Gemm", "MatMul") else _few_channels(node)
        if what:
            yield at(node, operand(node, 1), what)


def _small_product(node: ir.Node) -> str:
    found = weight_pair(operand(node, 1))
    shape = _shape(operand(node, 1)) or (_shape(float_source(found[0])) if found is not None else None)
    if shape is None or len(shape) < 2:
        return ""
    inner, outer = shape[-2:]
    if node.attributes.get_int("transB", 0):
        inner, outer = outer, inner
    if outer == 1:
        return f"{node.op_type} of one column, a product with a vector"
    rows = _shape(node.outputs[0])
    if rows is not None and len(rows) >= 2 and rows[-2] == 1:
        return f"{node.op_type} of one row, a product with a vector"
    for name, length in (("inner", inner), ("outer", outer)):
        if isinstance(length, int) and length < _TILE:
            return f"{node.op_type} with {length} {name} columns"
    return ""


def _few_channels(node: ir.Node) -> str:
    """modelopt's rule for convolutions with fewer than 16 channels on one side."""
    found = weight_pair(operand(node, 1))
    shape = _shape(float_source(found[0])) if found is not None else None
    if node.op_type != "Conv" or shape is None or not all(isinstance(length, int) for length in shape):
        return ""
    outputs, inputs, *kernel = (int(length) for length in shape if isinstance(length, int))
    if min(outputs, inputs) >= _TILE:
        return ""
    first = _is_input(operand(node, 0))
    if node.attributes.get_int("group", 1) > 1:
        fits = outputs % 8 == 0 and all(length >= 3 for length in kernel)
    else:
        wide = max(outputs, inputs) >= _TILE
        fits = (outputs % 8 == 0 or inputs % 8 == 0) and (first or wide) and len(set(kernel)) == 1
    return "" if fits else f"Conv of {inputs} input and {outputs} output channels a group"


def _is_input(value: ir.Value | None) -> bool:
    """Whether a value is the model's input, perhaps rounded or cast."""
    while value is not None and not value.is_graph_input():
        node = value.producer()
        if node is None or node.op_type not in ("Cast", QUANTIZE, DEQUANTIZE):
            return False
        value = operand(node, 0)
    return value is not None


def _shape(value: ir.Value | None) -> list[int | None] | None:
    if value is None or value.shape is None:
        return None
    return [dim if isinstance(dim, int) else None for dim in value.shape]


RULES = (
    Rule(
        name="small",
        severity=ADVICE,
        why="tensor cores multiply in tiles of 16, which so small a layer does not fill",
        advice="try it in float; TensorRT's profile says which is faster",
        source="NVIDIA modelopt 0.47, find_nodes_from_matmul_to_exclude and find_nodes_from_convs_to_exclude",
        check=small,
    ),
)
