"""What TensorRT asks of an ONNX graph, as rules for `edgepack inspect` (docs/tensorrt.md lists them).

grid: what pairs round to. weights: their axes and how they are stored. halves: both halves of a pair agree.
placement: where pairs stand. sizes: layers too small for them. operators: what the parser takes. precision: types and
shapes. versions: which TensorRT a board has.

Of a float model the rules give advice only, unless it holds operators that TensorRT does not have.
"""

from __future__ import annotations

from edgepack.device import Device
from edgepack.lint import Finding, findings
from edgepack.model import Model

from . import grid, halves, operators, placement, precision, sizes, weights

RULES = (
    *grid.RULES,
    *weights.RULES,
    *halves.RULES,
    *placement.RULES,
    *sizes.RULES,
    *operators.RULES,
    *precision.RULES,
)


def lint(model: Model, device: Device) -> list[Finding]:
    """Every offence of `model` against the rules of `device`'s TensorRT, rule by rule."""
    return list(findings(RULES, model, device))
