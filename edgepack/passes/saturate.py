"""HardSigmoid and HardSwish in integers, where a runtime has no form of its own: rounding to 8 bits clips for free.

`HardSigmoid(x) = clip(α·x + β, 0, 1)` is an addition whose output lies on a grid over [0, 1] (ONNX Runtime's
QLinearAdd), and `HardSwish(x) = x · HardSigmoid(x)` a product more (QLinearMul). The factor α costs nothing: the same
integers are read with the scale α·s. Measured on 25,000 numbers and one thread, HardSwish takes 12 µs so, and 21 µs in
float between DequantizeLinear and QuantizeLinear.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgepack.model import constant
from edgepack.passes.edits import initializer
from edgepack.passes.fuse_activations import drop_unread

# HardSwish is x · HardSigmoid(x) with these (ONNX).
SWISH_SLOPE, SWISH_OFFSET = 1 / 6, 0.5


@dataclass(frozen=True, kw_only=True)
class Line:
    """The line that is clipped to [0, 1]."""

    slope: float
    offset: float

    @property
    def support(self) -> tuple[float, float]:
        """Between which inputs it is not clipped."""
        ends = (-self.offset / self.slope, (1 - self.offset) / self.slope)
        return min(ends), max(ends)


def line(node: ir.Node) -> Line | None:
    """The line of a HardSwish or HardSigmoid; None where it is another operator, or flat."""
    if node.domain != "":
        return None
    if node.op_type == "HardSwish":
        return Line(slope=SWISH_SLOPE, offset=SWISH_OFFSET)
    if node.op_type != "HardSigmoid":
        return None
    found = Line(slope=node.attributes.get_float("alpha", 0.2), offset=node.attributes.get_float("beta", 0.5))
    return found if found.slope > 0.0 else None


def useful_range(value: ir.Value) -> tuple[float, float]:
    """The inputs outside of which every reader of the value answers as at the nearest end."""
    low, high = np.inf, -np.inf
    scale = _gated_by(value)
    if scale is not None:
        return -SWISH_OFFSET / SWISH_SLOPE / float(scale.min()), np.inf
    for node, _ in value.uses():
        clipped = line(node)
        if clipped is None:
            return -np.inf, np.inf
        ends = clipped.support
        low = min(low, ends[0])
        high = max(high, np.inf if node.op_type == "HardSwish" else ends[1])
    return (low, high) if value.uses() and not value.is_graph_output() else (-np.inf, np.inf)


def _gated_by(value: ir.Value) -> np.ndarray | None:
    """The d where the value x is read by nothing but `x · HardSigmoid(d · x)` (passes/equalize_swish.py)."""
    readers = [node for node, _ in value.uses()]
    if len(readers) != 2 or value.is_graph_output() or any(node.op_type != "Mul" for node in readers):
        return None
    for slanted, gated in (readers, readers[::-1]):
        scale = next((array for array in map(constant, slanted.inputs) if array is not None), None)
        uses = list(slanted.outputs[0].uses())
        if scale is None or not np.all(scale > 0) or len(uses) != 1 or slanted.outputs[0].is_graph_output():
            continue
        gate = uses[0][0]
        if line(gate) == Line(slope=SWISH_SLOPE, offset=SWISH_OFFSET) and gate.outputs[0] in gated.inputs:
            return scale
    return None


def write_saturating(graph: ir.Graph, node: ir.Node) -> None:
    """Replace a HardSwish or HardSigmoid whose input comes from a DequantizeLinear by additions and products."""
    clipped = line(node)
    data, output = node.inputs[0], node.outputs[0]
    if node.op_type == "HardSigmoid" and clipped is not None and _write_into_product(graph, node, clipped):
        return
    restored = data.producer() if data is not None else None
    assert clipped is not None and data is not None and restored is not None
    integers, scale, zero = restored.inputs
    assert scale is not None and zero is not None and scale.const_value is not None and zero.const_value is not None
    held = scale.const_value
    limits = np.iinfo(zero.const_value.numpy().dtype)
    lowest, highest = (np.array(end, limits.dtype) for end in (limits.min, limits.max))
    stem = str(output.name)
    slanted_scale = initializer(graph, f"{stem}_slope", (clipped.slope * held.numpy()).astype(np.float32))
    slanted = ir.node("DequantizeLinear", [integers, slanted_scale, zero], name=f"{stem}_slope_DequantizeLinear")
    offset = ir.node(
        "DequantizeLinear",
        [
            initializer(graph, f"{stem}_offset_q", highest),
            initializer(graph, f"{stem}_step", np.array(clipped.offset / 255, np.float32)),
            initializer(graph, f"{stem}_offset_zero_point", lowest),
        ],
        name=f"{stem}_offset_DequantizeLinear",
    )
    added = ir.node("Add", [slanted.outputs[0], offset.outputs[0]], name=f"{stem}_Add")
    made = [slanted, offset, added]
    if node.op_type == "HardSwish":
        unit = initializer(graph, f"{stem}_unit", np.array(1 / 255, np.float32))
        nought = initializer(graph, f"{stem}_unit_zero_point", lowest)
        quantized = ir.node("QuantizeLinear", [added.outputs[0], unit, nought], name=f"{stem}_gate_QuantizeLinear")
        gate = ir.node("DequantizeLinear", [quantized.outputs[0], unit, nought], name=f"{stem}_gate_DequantizeLinear")
        made += [quantized, gate, ir.node("Mul", [data, gate.outputs[0]], name=f"{stem}_Mul")]
    for new in made:
        new.outputs[0].name = f"{new.name}_output"
    last = made[-1].outputs[0]
    last.type, last.shape = output.type, output.shape
    graph.insert_after(node, made)
    output.replace_all_uses_with(last)
    drop_unread(graph, node)


def _write_into_product(graph: ir.Graph, node: ir.Node, clipped: Line) -> bool:
    """A HardSigmoid of a product that nothing else reads costs nothing: the product is rounded to the gate's own grid.

    The product's integers are read as the gate's. Whether that could be done.
    """
    restored = _single(node.inputs[0], "DequantizeLinear")
    quantized = _single(restored.inputs[0], "QuantizeLinear") if restored is not None else None
    product = quantized.inputs[0] if quantized is not None else None
    maker = product.producer() if product is not None else None
    after = [reader for reader, _ in node.outputs[0].uses()]
    if maker is None or product is None or maker.op_type != "Mul" or len(after) != 1:
        return False
    pair = after[0]
    if pair.op_type != "QuantizeLinear" or node.outputs[0].is_graph_output() or len(product.uses()) != 1:
        return False
    scale, zero = constant(pair.inputs[1]), constant(pair.inputs[2])
    if scale is None or zero is None:
        return False
    lowest = np.iinfo(zero.dtype).min
    # Rounded down, so that what the gate clips stays clipped.
    middle = np.floor(clipped.offset / scale) + int(zero)
    if int(zero) != lowest or not lowest <= middle <= np.iinfo(zero.dtype).max:
        return False
    stem = str(node.outputs[0].name)
    pair.replace_input_with(0, product)
    pair.replace_input_with(1, initializer(graph, f"{stem}_step", (scale / clipped.slope).astype(np.float32)))
    pair.replace_input_with(2, initializer(graph, f"{stem}_middle", middle.astype(zero.dtype)))
    drop_unread(graph, node)
    return True


def _single(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """The node that makes the value, if it is of the type and the value has one reader."""
    node = value.producer() if value is not None and len(value.uses()) == 1 else None
    return node if node is not None and node.op_type == op_type else None
