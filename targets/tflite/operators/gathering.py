"""Numbers picked by places, which may be computed."""

from __future__ import annotations

import numpy as np

from ..flatbuffer import Tensor
from ..formula import Formula
from ..lowering import Lowering
from ..units import NoForm, Unit
from .registry import keeps_grid, operator
from .slicing import sliced


def _places(make: Formula, name: str, size: int) -> Tensor:
    """Places, those that count from the end turned round."""
    held = make.low.value(name)
    if held is not None:
        return make.constant(np.where(held < 0, held + size, held).astype(np.int32))
    computed = make.low.read(name)
    return make("SELECT_V2", make("LESS", computed, 0), make("ADD", computed, size), computed, dtype=computed.dtype)


@operator("Gather", int8=keeps_grid)
def _gather(low: Lowering, unit: Unit) -> None:
    """Computed places are taken as they are where they are an input of the model, as token ids are."""
    shape = low.shape(unit.node.input[0])
    axis = int(unit.attributes.get("axis", 0)) % len(shape)
    name, by = low.data(unit, 0), unit.node.input[1]
    held = low.value(by)
    if held is not None and held.ndim == 0:
        _one_place(low, unit, name, axis, int(held) % shape[axis])
        return
    make = Formula(low=low, unit=unit)
    where = low.read(by) if by in low.inputs else _places(make, by, shape[axis])
    low.add("GATHER", [low.read(name), where], [low.result(unit)], "GatherOptions", {"axis": axis, "batchDims": 0})


def _one_place(low: Lowering, unit: Unit, name: str, axis: int, place: int) -> None:
    """A known place is a SLICE, in whatever order the axes are stored; XNNPACK takes no GATHER."""
    perm = low.perm(name)
    x, along = low.read(name, perm), perm.index(axis)
    part = low.temporary(unit, (*x.shape[:along], 1, *x.shape[along + 1 :]), "part", x)
    sliced(low, x, part, [place if at == along else 0 for at in range(len(perm))])
    left = tuple(a - (a > axis) for a in perm if a != axis)
    low.reshape(part, low.result(unit, left))


@operator("GatherND")
def _gather_nd(low: Lowering, unit: Unit) -> None:
    if unit.attributes.get("batch_dims", 0):
        raise NoForm("batch_dims other than 0")
    make = Formula(low=low, unit=unit)
    shape = low.shape(unit.node.input[0])
    held = low.value(unit.node.input[1])
    if held is not None:
        sizes = np.array(shape[: held.shape[-1]])
        places = make.constant(np.where(held < 0, held + sizes, held).astype(np.int32))
    else:
        places = low.read(unit.node.input[1])
    make.answer(make("GATHER_ND", low.read(unit.node.input[0]), places, shape=low.shape(unit.output)))


@operator("OneHot")
def _one_hot(low: Lowering, unit: Unit) -> None:
    depth, values = (low.value(name) for name in unit.node.input[1:3])
    if depth is None or values is None:
        raise NoForm("a depth or values that are computed")
    make = Formula(low=low, unit=unit)
    size, rank = int(depth.reshape(())), len(low.shape(unit.output))
    places = _places(make, unit.node.input[0], size)
    if places.dtype not in (np.int32, np.int64):
        places = make("CAST", places, dtype=np.dtype(np.int64))
    off, on = (make.constant(number) for number in values.reshape(2))
    inputs: list[Tensor | None] = [places, make.constant(np.array(size, np.int32)), on, off]
    axis = int(unit.attributes.get("axis", -1)) % rank
    low.add("ONE_HOT", inputs, [low.result(unit)], "OneHotOptions", {"axis": axis})
