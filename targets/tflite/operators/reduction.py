"""Sums, extremes and places of extremes over axes."""

from __future__ import annotations

import numpy as np

from ..axes import Perm
from ..flatbuffer import Tensor
from ..formula import TABLES, Formula
from ..lowering import Lowering
from ..units import NoForm, Unit
from .registry import axes_of, operator

_REDUCTIONS = {
    "ReduceMean": "MEAN", "ReduceMax": "REDUCE_MAX", "ReduceMin": "REDUCE_MIN", "ReduceSum": "SUM",
    "ReduceProd": "REDUCE_PROD", "ReduceL1": "SUM", "ReduceL2": "SUM", "ReduceSumSquare": "SUM", "ReduceLogSum": "SUM",
}  # fmt: skip


@operator(*_REDUCTIONS)
def _reduce(low: Lowering, unit: Unit) -> None:
    name, kind = unit.node.input[0], unit.node.op_type
    perm = low.perm(name)
    make = Formula(low=low, unit=unit)
    x = low.read(name, perm)
    if kind == "ReduceL1":
        x = make("ABS", x)
    elif kind in ("ReduceL2", "ReduceSumSquare"):
        x = make.square(x)
    axes = _reduced(low, unit)
    x, order = _over(make, _REDUCTIONS[kind], x, perm, axes) if axes is not None else (x, perm)
    if kind in ("ReduceL2", "ReduceLogSum"):
        x = make("SQRT" if kind == "ReduceL2" else "LOG", x)
    make.answer(x, order)


@operator("ReduceLogSumExp")
def _log_sum_exp(low: Lowering, unit: Unit) -> None:
    """With the largest number taken out first, which never overflows."""
    perm = low.perm(unit.node.input[0])
    make = Formula(low=low, unit=unit)
    axes = _reduced(low, unit)
    if axes is None:
        raise NoForm("no axes")
    x = low.read(unit.node.input[0], perm)
    places = tuple(perm.index(axis) for axis in axes)
    most = make.over("REDUCE_MAX", x, places)
    total = make.over("SUM", make("EXP", make("SUB", x, most)), places)
    kept = make("ADD", make("LOG", total), most)
    shape, order = _left(kept.shape, perm, axes, bool(unit.attributes.get("keepdims", 1)))
    make.answer(make.reshape(kept, shape), order)


def _reduced(low: Lowering, unit: Unit) -> list[int] | None:
    """The axes of a reduction; None where it reduces nothing."""
    axes = axes_of(low, unit)
    if axes is None and unit.attributes.get("noop_with_empty_axes", 0):
        return None
    return axes if axes is not None else list(range(len(low.shape(unit.node.input[0]))))


def _over(make: Formula, kind: str, x: Tensor, perm: Perm, axes: list[int]) -> tuple[Tensor, Perm]:
    keep = bool(make.unit.attributes.get("keepdims", 1))
    numbers = make.numbers(*sorted(perm.index(axis) for axis in axes))
    one = tuple(1 if axis in axes else size for axis, size in zip(perm, x.shape, strict=True))
    shape, order = _left(one, perm, axes, keep)
    return make(kind, x, numbers, shape=shape, keepDims=keep), order


def _left(shape: tuple[int, ...], perm: Perm, axes: list[int], keep: bool) -> tuple[tuple[int, ...], Perm]:
    """Shape and order of what a reduction leaves."""
    if keep:
        return shape, perm
    left = [axis for axis in perm if axis not in axes]
    sizes = tuple(size for axis, size in zip(perm, shape, strict=True) if axis not in axes)
    return sizes, tuple(sorted(left).index(axis) for axis in left)


@operator("ArgMax", "ArgMin")
def _arg(low: Lowering, unit: Unit) -> None:
    if unit.attributes.get("select_last_index"):
        raise NoForm("the last of equal extremes")
    shape = low.shape(unit.node.input[0])
    axis = int(unit.attributes.get("axis", 0)) % len(shape)
    make = Formula(low=low, unit=unit)
    kind, table = ("ARG_MAX", "ArgMaxOptions") if unit.node.op_type == "ArgMax" else ("ARG_MIN", "ArgMinOptions")
    found = make.tensor((*shape[:axis], *shape[axis + 1 :]), np.dtype(np.int64))
    inputs: list[Tensor | None] = [low.read(unit.node.input[0]), make.numbers(axis)]
    low.add(kind, inputs, [found], table, {"outputType": 4})
    make.answer(make.reshape(found, low.shape(unit.output)))


@operator("CumSum")
def _running(low: Lowering, unit: Unit) -> None:
    axis = low.value(unit.node.input[1])
    if axis is None:
        raise NoForm("an axis that is computed")
    make = Formula(low=low, unit=unit)
    x = low.read(unit.node.input[0])
    place = make.constant(np.array(int(axis.reshape(())) % len(x.shape), np.int32))
    exclusive, reverse = (bool(unit.attributes.get(key, 0)) for key in ("exclusive", "reverse"))
    make.answer(make("CUMSUM", x, place, shape=x.shape, exclusive=exclusive, reverse=reverse))


@operator("TopK")
def _top(low: Lowering, unit: Unit) -> None:
    """The largest along an axis, in falling order."""
    held = low.value(unit.node.input[1]) if low.opset >= 10 else np.array(unit.attributes["k"])
    if held is None or not unit.attributes.get("largest", 1):
        raise NoForm("a number that is computed, or the smallest")
    shape = low.shape(unit.node.input[0])
    axis = int(unit.attributes.get("axis", -1)) % len(shape)
    perm = (*(a for a in range(len(shape)) if a != axis), axis)
    make = Formula(low=low, unit=unit)
    x = low.read(unit.node.input[0], perm)
    found = (*x.shape[:-1], int(held.reshape(())))
    values, places = make.tensor(found, x.dtype), make.tensor(found, np.dtype(np.int32))
    count = make.constant(np.array(found[-1], np.int32))
    low.add("TOPK_V2", [x, count], [values, places], TABLES["TOPK_V2"])
    outputs = unit.node.output
    if outputs[0]:
        make.answer(values, perm, outputs[0])
    if len(outputs) > 1 and outputs[1]:
        make.answer(make("CAST", places, dtype=np.dtype(np.int64)), perm, outputs[1])
