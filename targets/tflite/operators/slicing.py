"""Parts of tensors, and what is put around them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..axes import Perm
from ..flatbuffer import Tensor
from ..lowering import Lowering
from ..units import NoForm, Unit
from .registry import keeps_grid, operator, optional

_PLAIN = {"beginMask": 0, "ellipsisMask": 0, "newAxisMask": 0, "shrinkAxisMask": 0}


@operator("Slice", int8=keeps_grid)
def _slice(low: Lowering, unit: Unit) -> None:
    name, shape = low.data(unit, 0), low.shape(unit.node.input[0])
    starts, ends = _ends(low, unit, 1, "starts"), _ends(low, unit, 2, "ends")
    assert starts is not None and ends is not None
    axes = _ends(low, unit, 3, "axes") or list(range(len(starts)))
    steps = _ends(low, unit, 4, "steps") or [1] * len(starts)
    begin, end, stride = [0] * len(shape), list(shape), [1] * len(shape)
    for axis, first, beyond, step in zip(axes, starts, ends, steps, strict=True):
        axis %= len(shape)
        begin[axis], end[axis], stride[axis] = *slice(first, beyond, step).indices(shape[axis])[:2], step
    if 0 in low.shape(unit.output):
        raise NoForm("nothing is left")
    perm = low.perm(name)
    x, made = low.read(name, perm), low.result(unit, perm)
    if all(step == 1 for step in stride):
        sliced(low, x, made, [begin[axis] for axis in perm])
        return
    mask = sum(1 << place for place, axis in enumerate(perm) if stride[axis] < 0 and end[axis] < 0)
    numbers: list[Tensor | None] = [
        low.numbers([values[axis] for axis in perm], f"{unit.output}/{what}")
        for values, what in ((begin, "begin"), (end, "end"), (stride, "stride"))
    ]
    low.add("STRIDED_SLICE", [x, *numbers], [made], "StridedSliceOptions", {**_PLAIN, "endMask": mask})


def _ends(low: Lowering, unit: Unit, index: int, key: str) -> list[int] | None:
    if low.opset < 10:
        return [int(number) for number in unit.attributes[key]] if key in unit.attributes else None
    if not optional(unit, index):
        return None
    array = low.value(unit.node.input[index])
    if array is None:
        raise NoForm("ends that are computed")
    return [int(number) for number in array.reshape(-1)]


def sliced(low: Lowering, x: Tensor, made: Tensor, begin: Sequence[int]) -> None:
    """As much of x as `made` holds, from `begin` on."""
    numbers = [low.numbers(values, f"{made.name}/{what}") for values, what in ((begin, "begin"), (made.shape, "size"))]
    low.add("SLICE", [x, *numbers], [made], "SliceOptions")


def gathered(low: Lowering, unit: Unit, x: Tensor, axis: int, places: np.ndarray, made: Tensor | None = None) -> Tensor:
    """x at constant places along an axis."""
    shape = (*x.shape[:axis], *places.shape, *x.shape[axis + 1 :])
    made = made if made is not None else low.temporary(unit, shape, f"gathered_{axis}", x)
    numbers = low.numbers(places, f"{made.name}/places")
    return low.add("GATHER", [x, numbers], [made], "GatherOptions", {"axis": axis, "batchDims": 0})


@operator("Pad", int8=keeps_grid)
def _pad(low: Lowering, unit: Unit) -> None:
    name, rank = low.data(unit, 0), len(low.shape(unit.node.input[0]))
    mode = unit.attributes.get("mode", b"constant")
    before, after, value = _around(low, unit, rank)
    perm = low.perm(name)
    x = _cropped(low, unit, low.read(name, perm), perm, before, after)
    around = np.array([[max(before[axis], 0), max(after[axis], 0)] for axis in perm], np.int32)
    if not around.any():
        low.store(unit.output, x, perm)
    elif mode in (b"edge", b"wrap") or (mode == b"reflect" and unit.int8):
        _repeated(low, unit, x, perm, around, mode)
    elif mode == b"reflect":
        numbers = low.constant(around, f"{unit.output}/pads")
        low.add("MIRROR_PAD", [x, numbers], [low.result(unit, perm)], "MirrorPadOptions", {"mode": 0})
    else:
        _filled(low, unit, x, perm, around, value)


def _around(low: Lowering, unit: Unit, rank: int) -> tuple[list[int], list[int], float]:
    """How much goes before and behind each axis, and of which number."""
    if low.opset < 11:
        pads = [int(number) for number in unit.attributes["pads"]]
        return pads[:rank], pads[rank:], float(unit.attributes.get("value", 0.0))
    held = low.value(unit.node.input[1])
    fill = low.value(unit.node.input[2]) if optional(unit, 2) else np.zeros(())
    axes = low.value(unit.node.input[3]) if optional(unit, 3) else np.arange(rank)
    if held is None or fill is None or axes is None:
        raise NoForm("a padding that is computed")
    before, after = [0] * rank, [0] * rank
    for place, axis in enumerate(axes):
        before[int(axis) % rank], after[int(axis) % rank] = int(held[place]), int(held[len(axes) + place])
    return before, after, float(fill.reshape(()))


def _cropped(low: Lowering, unit: Unit, x: Tensor, perm: Perm, before: list[int], after: list[int]) -> Tensor:
    """x without what a negative padding takes away."""
    begin = [max(-before[axis], 0) for axis in perm]
    shape = [size - b - max(-after[axis], 0) for size, b, axis in zip(x.shape, begin, perm, strict=True)]
    if tuple(shape) == x.shape:
        return x
    made = low.temporary(unit, shape, "cropped", x)
    sliced(low, x, made, begin)
    return made


def _repeated(low: Lowering, unit: Unit, x: Tensor, perm: Perm, around: np.ndarray, mode: bytes) -> None:
    """The edges, the far side or the mirror image, by the places that are read."""
    numpy_mode = {b"edge": "edge", b"wrap": "wrap", b"reflect": "reflect"}[mode]
    padded = [axis for axis in range(len(perm)) if around[axis].any()]
    made = low.result(unit, perm)
    for axis in padded:
        places = np.pad(np.arange(x.shape[axis]), tuple(around[axis]), mode=numpy_mode)  # type: ignore[call-overload]
        x = gathered(low, unit, x, axis, places, made if axis == padded[-1] else None)


def _filled(low: Lowering, unit: Unit, x: Tensor, perm: Perm, around: np.ndarray, value: float) -> None:
    made = low.result(unit, perm)
    numbers = low.constant(around, f"{unit.output}/pads")
    if value == 0.0:
        low.add("PAD", [x, numbers], [made], "PadOptions")
        return
    fill = np.array(value, x.dtype)
    if unit.int8:
        grid = low.grids[unit.output]
        fill = np.clip(np.rint(value / grid.scale) + grid.zero_point.astype(np.int32), -128, 127).astype(np.int8)
    held = low.constant(fill, f"{unit.output}/value", x.quantization)
    low.add("PADV2", [x, numbers, held], [made], "PadV2Options")
