"""Rules of pairs: both halves are there, and agree."""

from __future__ import annotations

from collections.abc import Iterator

from edgepack.device import Device
from edgepack.lint import ERROR, SLOW, Place, Rule
from edgepack.lint.qdq import (
    at,
    equal_scales,
    float_source,
    is_constant,
    is_dequantize,
    is_quantize,
    operand,
    pairs,
    quantized_by,
    readers,
)
from edgepack.model import Model


def pair_missing(model: Model, device: Device) -> Iterator[Place]:
    for node in pairs(model):
        if is_quantize(node):
            others = [reader for reader in readers(node.outputs[0]) if not is_dequantize(reader)]
            if others:
                yield at(node, node.outputs[0], f"integers are read by {others[0].op_type}")
        else:
            before = operand(node, 0)
            made = before.producer() if before is not None else None
            if made is not None and not is_quantize(made) and not is_constant(before):
                yield at(node, before, f"integers come from {made.op_type}, not from a QuantizeLinear")


def pair_scale(model: Model, device: Device) -> Iterator[Place]:
    for node in pairs(model):
        before = quantized_by(node) if is_dequantize(node) else None
        if before is not None and not equal_scales(before, node):
            yield at(node, float_source(node), "the scale of its QuantizeLinear is another")


def two_scales(model: Model, device: Device) -> Iterator[Place]:
    seen = set()
    for node in pairs(model):
        value = operand(node, 0)
        if not is_quantize(node) or value is None or id(value) in seen or is_constant(value):
            continue
        seen.add(id(value))
        others = [reader for reader in readers(value) if is_quantize(reader) and reader is not node]
        if any(not equal_scales(node, other) for other in others):
            yield at(node, value, f"quantized {len(others) + 1} times, with different scales")


RULES = (
    Rule(
        name="pair-missing",
        severity=ERROR,
        why="integers lead from a QuantizeLinear to a DequantizeLinear and nowhere else",
        advice="put the missing half of the pair there",
        source="Explicit quantization: TensorRT expects Q/DQ pairs on the inputs of quantizable layers",
        check=pair_missing,
    ),
    Rule(
        name="pair-scale",
        severity=SLOW,
        why="TensorRT moves and joins pairs only where their scales are equal",
        advice="give both halves one scale",
        source="Q/DQ limitations: graph rewrites compare scales and need them equal",
        check=pair_scale,
    ),
    Rule(
        name="two-scales",
        severity=SLOW,
        why="a tensor with two scales cannot leave the layer before it in int8",
        advice="quantize it once and let all readers have that pair",
        source="Q/DQ limitations: Q layers propagate backward only where their scales are equal",
        check=two_scales,
    ),
)
