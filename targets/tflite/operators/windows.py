"""Windows over pictures: their paddings, and 1-D signals as pictures of one row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..axes import last
from ..flatbuffer import Tensor
from ..lowering import Lowering
from ..units import NoForm, Unit
from .registry import ints

SAME, VALID = 0, 1


def pads_of(
    unit: Unit, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[int]:
    """Begins, then ends."""
    auto = unit.attributes.get("auto_pad", b"NOTSET")
    spatial = len(kernel)
    if auto in (b"SAME_UPPER", b"SAME_LOWER"):
        total = [
            max((-(-sizes[i] // strides[i]) - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1 - sizes[i], 0)
            for i in range(spatial)
        ]
        small = [t // 2 for t in total]
        large = [t - t // 2 for t in total]
        return [*small, *large] if auto == b"SAME_UPPER" else [*large, *small]
    if auto == b"VALID":
        return [0] * (2 * spatial)
    return ints(unit, "pads", [0] * (2 * spatial))


def same(
    sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], pads: Sequence[int]
) -> int | None:
    """TFLite's word for a padding; None where it has none."""
    if not any(pads):
        return VALID
    half = len(kernel)
    for i in range(half):
        span = (kernel[i] - 1) * dilations[i] + 1
        total = max((-(-sizes[i] // strides[i]) - 1) * strides[i] + span - sizes[i], 0)
        if (pads[i], pads[half + i]) != (total // 2, total - total // 2):
            return None
    return SAME


def padded(
    low: Lowering,
    unit: Unit,
    x: Tensor,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
) -> tuple[Tensor, int]:
    """What a convolution reads, and its padding: TFLite's own where that is the same, else a PAD before it."""
    padding = same(x.shape[1:3], kernel, strides, dilations, pads)
    if padding is not None:
        return x, padding
    return pad_picture(low, unit, x, pads, 0.0), VALID


def pad_picture(low: Lowering, unit: Unit, x: Tensor, pads: Sequence[int], value: float | None) -> Tensor:
    """A picture with rows and columns around it: of `value`, or of the lowest number there is."""
    if any(pad < 0 for pad in pads):
        raise NoForm("a negative padding")
    around = np.array([[0, 0], [pads[0], pads[2]], [pads[1], pads[3]], [0, 0]], np.int32)
    shape = tuple(int(size + sum(pair)) for size, pair in zip(x.shape, around, strict=True))
    made = low.temporary(unit, shape, "padded", x)
    numbers = low.constant(around, f"{unit.output}/pads")
    if value == 0.0:
        return low.add("PAD", [x, numbers], [made], "PadOptions")
    lowest = np.array(np.iinfo(np.int8).min if x.dtype == np.int8 else np.finfo(np.float32).min, x.dtype)
    return low.add(
        "PADV2", [x, numbers, low.constant(lowest, f"{unit.output}/lowest", x.quantization)], [made], "PadV2Options"
    )


def made_for(low: Lowering, unit: Unit, rank: int) -> Tensor:
    """Where a 4-D operator answers: the unit's result, or a picture of one row that becomes it."""
    if rank == 4:
        return low.result(unit, last(4))
    batch, channels, length = low.shape(unit.output)
    return low.temporary(unit, (batch, 1, length, channels), "row")


def unpicture(low: Lowering, unit: Unit, made: Tensor, rank: int) -> None:
    if rank == 3:
        low.reshape(made, low.result(unit, last(3)))


def picture(low: Lowering, unit: Unit, x: Tensor) -> Tensor:
    batch, length, channels = x.shape
    return low.reshape(x, low.temporary(unit, (batch, 1, length, channels), "picture", x))
