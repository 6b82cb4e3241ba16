"""Functions of single numbers that TFLite has a word for."""

from __future__ import annotations

import numpy as np
import onnx

from ..axes import last
from ..formula import TABLES, Formula
from ..lowering import Lowering
from ..units import NoForm, Unit
from .registry import always, keeps_grid, operator

# The grid that TFLite's specification gives an int8 LOGISTIC: [0, 1) in 256 steps.
_LOGISTIC = 1 / 256, -128
_UNARY = {
    "Tanh": "TANH", "HardSwish": "HARD_SWISH", "Exp": "EXP", "Log": "LOG", "Sqrt": "SQRT",
    "Abs": "ABS", "Neg": "NEG", "Sin": "SIN", "Cos": "COS", "Floor": "FLOOR", "Ceil": "CEIL", "Round": "ROUND",
    "Not": "LOGICAL_NOT", "Sign": "SIGN",
}  # fmt: skip


@operator(*_UNARY)
def _unary(low: Lowering, unit: Unit) -> None:
    _one(low, unit, _UNARY[unit.node.op_type])


def _ends_on_its_grid(low: Lowering, node: onnx.NodeProto) -> bool:
    grid = low.grid_behind(node.output[0])
    return grid is not None and (float(grid.scale), int(grid.zero_point)) == _LOGISTIC


@operator("Sigmoid", int8=_ends_on_its_grid)
def _sigmoid(low: Lowering, unit: Unit) -> None:
    _one(low, unit, "LOGISTIC")


@operator("Relu", int8=keeps_grid)
def _relu(low: Lowering, unit: Unit) -> None:
    _one(low, unit, "RELU")


def _one(low: Lowering, unit: Unit, kind: str, **options: object) -> None:
    name = low.data(unit, 0)
    perm = low.perm(name)
    low.add(kind, [low.read(name, perm)], [low.result(unit, perm)], TABLES.get(kind, ""), options)


@operator("LeakyRelu", int8=always)
def _leaky(low: Lowering, unit: Unit) -> None:
    _one(low, unit, "LEAKY_RELU", alpha=float(unit.attributes.get("alpha", 0.01)))


@operator("Gelu")
def _gelu(low: Lowering, unit: Unit) -> None:
    _one(low, unit, "GELU", approximate=unit.attributes.get("approximate", b"none") == b"tanh")


@operator("PRelu")
def _prelu(low: Lowering, unit: Unit) -> None:
    rank = len(low.shape(unit.node.input[0]))
    perm = last(rank)
    slope = low.value(unit.node.input[1])
    if slope is None or rank < 2:
        raise NoForm("a slope that is computed, or no channels")
    whole = slope.reshape([1] * (rank - slope.ndim) + list(slope.shape)).transpose(perm)
    if whole.shape[0] != 1:
        raise NoForm("a slope for each sample")
    x = low.read(unit.node.input[0], perm)
    # One for each channel, even if they are one: older runtimes take a lone slope for the first channel's.
    slopes = np.broadcast_to(whole[0], (*whole.shape[1:-1], x.shape[-1]))
    low.add("PRELU", [x, low.constant(slopes, unit.node.input[1])], [low.result(unit, perm)])


@operator("Clip", int8=keeps_grid)
def _clip(low: Lowering, unit: Unit) -> None:
    limits = low.limits(unit.node)
    if limits is None:
        raise NoForm("limits that are computed")
    if unit.int8:
        _clipped_integers(low, unit, limits)
    elif limits == (0.0, 6.0):
        _one(low, unit, "RELU6")
    elif limits == (0.0, np.inf):
        _one(low, unit, "RELU")
    else:
        make = Formula(low=low, unit=unit)
        perm = low.perm(unit.node.input[0])
        x = low.read(unit.node.input[0], perm)
        for kind, end in zip(("MAXIMUM", "MINIMUM"), limits, strict=True):
            x = make(kind, x, end) if np.isfinite(end) else x
        make.answer(x, perm)


def _clipped_integers(low: Lowering, unit: Unit, limits: tuple[float, float]) -> None:
    """The ends on the grid; what lies on or outside it clips nothing."""
    name = low.data(unit, 0)
    perm, grid = low.perm(name), low.grids[name]
    x = low.read(name, perm)
    ends = [np.rint(np.clip(end / float(grid.scale), -1000, 1000)) + float(grid.zero_point) for end in limits]
    steps = [step for step in zip(("MAXIMUM", "MINIMUM"), ends, strict=True) if -128 < step[1] < 127]
    for place, (kind, end) in enumerate(steps):
        out = low.result(unit, perm) if place == len(steps) - 1 else low.temporary(unit, x.shape, "above")
        held = low.constant(np.array(end, np.int8), f"{unit.output}/{kind}", grid)
        x = low.add(kind, [x, held], [out], "MaximumMinimumOptions")
    if not steps:
        low.store(unit.output, x, perm)


@operator("Reciprocal")
def _reciprocal(low: Lowering, unit: Unit) -> None:
    perm = low.perm(unit.node.input[0])
    one = low.constant(np.array(1, np.float32), f"{unit.output}/one")
    low.add("DIV", [one, low.read(unit.node.input[0], perm)], [low.result(unit, perm)], "DivOptions")


@operator("Cast")
def _cast(low: Lowering, unit: Unit) -> None:
    perm = low.perm(unit.node.input[0])
    x, made = low.read(unit.node.input[0], perm), low.result(unit, perm)
    if x.dtype == made.dtype:
        low.store(unit.output, x, perm)
    elif made.dtype == np.bool_ and x.dtype.kind == "f":  # whatever is not zero is true
        zero = low.constant(np.array(0, x.dtype), f"{unit.output}/zero")
        low.add("NOT_EQUAL", [x, zero], [made], "NotEqualOptions")
    else:
        low.add("CAST", [x], [made], "CastOptions")
