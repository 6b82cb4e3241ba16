"""Convolutions and their transposes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..axes import last
from ..flatbuffer import Quantization, Tensor
from ..lowering import Lowering
from ..units import NoForm, Unit
from .registry import always, ints, operator, optional
from .slicing import sliced
from .weights import bias_of, filters_of, weights_of
from .windows import VALID, made_for, pad_picture, padded, pads_of, picture, unpicture

# Channels that integer kernels take at once (XNNPACK's c8).
_VECTOR = 8


@operator("Conv", int8=always)
def _conv(low: Lowering, unit: Unit) -> None:
    shape = low.shape(unit.node.input[0])
    rank, channels = len(shape), shape[1]
    if rank not in (3, 4):
        raise NoForm(f"a convolution over {rank - 2} dimensions")
    weight, scales = weights_of(low, unit, 1)
    strides, dilations = (ints(unit, key, [1] * (rank - 2)) for key in ("strides", "dilations"))
    pads = pads_of(unit, shape[2:], weight.shape[2:], strides, dilations)
    x = low.read(low.data(unit, 0), last(rank))
    if rank == 3:  # as a picture of one row
        x, weight = picture(low, unit, x), weight[:, :, None, :]
        strides, dilations, pads = [1, *strides], [1, *dilations], [0, pads[0], 0, pads[1]]
    stack = _stack(weight, x, strides, dilations, pads)
    if stack is not None:
        x, weight = _stacked(low, unit, x, weight, stack)
        strides, pads, channels = [1, 1], [0, 0, 0, 0], weight.shape[1]
    x, padding = padded(low, unit, x, weight.shape[2:], strides, dilations, pads)
    options = {
        "padding": padding, "strideH": strides[0], "strideW": strides[1],
        "dilationHFactor": dilations[0], "dilationWFactor": dilations[1], "fusedActivationFunction": unit.activation,
    }  # fmt: skip
    made = made_for(low, unit, rank)
    _convolve(low, unit, x, weight, scales, made, options, channels)
    unpicture(low, unit, made, rank)


@dataclass(frozen=True, kw_only=True)
class Stack:
    """A signal's neighbours as channels: `step` of them, after `before` zeros and with `after` behind, on axis `place`.

    `taps` is the length of the kernel then.
    """

    step: int
    place: int
    before: int
    after: int
    taps: int


def _stack(
    weight: np.ndarray, x: Tensor, strides: Sequence[int], dilations: Sequence[int], pads: Sequence[int]
) -> Stack | None:
    """How a convolution by strides over one axis alone is one without strides over several neighbours at once.

    Integer kernels take channels in vectors, and of a signal's only channel they would use an eighth: crepe_tiny's
    int8 is 2.6 times as fast for it. None where there is no such form, or channels enough.
    """
    place = 1 if x.shape[2] == 1 else 2
    step, flat = strides[place - 1], 1 in x.shape[1:3] and weight.shape[4 - place] == max(dilations) == 1
    if not flat or step == 1 or x.shape[3] != weight.shape[1] or step * x.shape[3] > _VECTOR or min(pads) < 0:
        return None
    length, kernel, before = x.shape[place], weight.shape[place + 1], pads[place - 1]
    windows = (length + before + pads[place + 1] - kernel) // step + 1
    taps = -(-kernel // step)
    after = (windows - 1 + taps) * step - length - before
    if any(pads[side] for side in (2 - place, 4 - place)) or after < 0:
        return None
    return Stack(step=step, place=place, before=before, after=after, taps=taps)


def _stacked(low: Lowering, unit: Unit, x: Tensor, weight: np.ndarray, stack: Stack) -> tuple[Tensor, np.ndarray]:
    """The signal [batch, windows, 1, step·channels] and the kernel [outputs, step·channels, taps, 1] for it."""
    around = [0, 0, 0, 0]
    around[stack.place - 1], around[stack.place + 1] = stack.before, stack.after
    x = pad_picture(low, unit, x, around, 0.0) if any(around) else x
    outputs, channels = weight.shape[:2]
    wide = stack.step * channels
    windows = x.shape[stack.place] // stack.step
    axes = (windows, 1) if stack.place == 1 else (1, windows)
    shape = (x.shape[0], *axes, wide)
    x = low.reshape(x, low.temporary(unit, shape, "stacked", x))
    rows = np.zeros((outputs, stack.taps * stack.step, channels), weight.dtype)
    rows[:, : weight.shape[stack.place + 1]] = weight.reshape(outputs, channels, -1).transpose(0, 2, 1)
    taps = (stack.taps, 1) if stack.place == 1 else (1, stack.taps)
    return x, rows.reshape(outputs, stack.taps, wide).transpose(0, 2, 1).reshape(outputs, wide, *taps)


def _convolve(
    low: Lowering,
    unit: Unit,
    x: Tensor,
    weight: np.ndarray,
    scales: Quantization | None,
    made: Tensor,
    options: dict[str, int],
    channels: int,
) -> None:
    name, group = unit.node.input[1], int(unit.attributes.get("group", 1))
    bias = bias_of(low, unit, optional(unit, 2), scales, weight.shape[0], x)
    if group == channels and group > 1:
        options = {**options, "depthMultiplier": weight.shape[0] // group}
        filters = filters_of(low, name, weight[:, 0][None], (0, 2, 3, 1), scales, 3)
        low.add("DEPTHWISE_CONV_2D", [x, filters, bias], [made], "DepthwiseConv2DOptions", options)
    else:
        filters = filters_of(low, name, weight, (0, 2, 3, 1), scales, 0)
        low.add("CONV_2D", [x, filters, bias], [made], "Conv2DOptions", options)


@operator("ConvTranspose", int8=always)
def _conv_transpose(low: Lowering, unit: Unit) -> None:
    """The whole answer; what the padding cuts away is sliced off, and what reaches beyond it is the bias alone.

    Dilation spreads the kernel among zeros, and groups are one product whose weights between groups are zero.
    """
    shape, out = low.shape(unit.node.input[0]), low.shape(unit.node.output[0])
    rank = len(shape)
    if rank not in (3, 4):
        raise NoForm(f"a transposed convolution over {rank - 2} dimensions")
    held, scales = weights_of(low, unit, 1)
    strides = ints(unit, "strides", [1] * (rank - 2))
    weight = _spread(_dense(held, int(unit.attributes.get("group", 1))), ints(unit, "dilations", [1] * (rank - 2)))
    full = [(size - 1) * stride + k for size, stride, k in zip(shape[2:], strides, weight.shape[2:], strict=True)]
    begins = _begins(unit, full, out[2:])
    x = low.read(low.data(unit, 0), last(rank))
    sizes, reach = list(out[2:]), [max(f, b + o) for f, b, o in zip(full, begins, out[2:], strict=True)]
    if any(r - f >= stride for r, f, stride in zip(reach, full, strides, strict=True)):
        raise NoForm("an output padding of a whole stride")
    if rank == 3:
        x, weight = picture(low, unit, x), weight[:, :, None, :]
        strides, begins, sizes, reach = [1, *strides], [0, *begins], [1, *sizes], [1, *reach]
    bias = bias_of(low, unit, optional(unit, 2), scales, weight.shape[1], x)
    filters = filters_of(low, unit.node.input[1], weight, (1, 2, 3, 0), scales, 0)
    whole = (shape[0], *reach, weight.shape[1])
    made = made_for(low, unit, rank)
    exact = not any(begins) and sizes == reach
    answer = made if exact else low.temporary(unit, whole, "whole")
    inputs = [low.numbers(whole, f"{unit.output}/whole_shape"), filters, x, bias]
    options = {"padding": VALID, "strideH": strides[0], "strideW": strides[1]}
    low.add("TRANSPOSE_CONV", [*inputs], [answer], "TransposeConvOptions", options)
    if not exact:
        sliced(low, answer, made, [0, *begins, 0])
    unpicture(low, unit, made, rank)


def _begins(unit: Unit, full: list[int], out: tuple[int, ...]) -> list[int]:
    """How much the padding cuts off in front."""
    auto = unit.attributes.get("auto_pad", b"NOTSET")
    if auto == b"NOTSET" and "output_shape" not in unit.attributes:
        return ints(unit, "pads", [0] * (2 * len(full)))[: len(full)]
    if auto == b"VALID":
        return [0] * len(full)
    total = [max(f - o, 0) for f, o in zip(full, out, strict=True)]
    return [t - t // 2 if auto == b"SAME_LOWER" else t // 2 for t in total]


def _dense(weight: np.ndarray, groups: int) -> np.ndarray:
    """[channels, outputs of a group, …] as [channels, outputs, …], zero between groups."""
    if groups == 1:
        return weight
    channels, outputs = weight.shape[:2]
    whole = np.zeros((channels, groups * outputs, *weight.shape[2:]), weight.dtype)
    size = channels // groups
    for group in range(groups):
        inside = slice(group * size, (group + 1) * size)
        whole[inside, group * outputs : (group + 1) * outputs] = weight[inside]
    return whole


def _spread(weight: np.ndarray, dilations: list[int]) -> np.ndarray:
    if all(step == 1 for step in dilations):
        return weight
    sizes = [(size - 1) * step + 1 for size, step in zip(weight.shape[2:], dilations, strict=True)]
    whole = np.zeros((*weight.shape[:2], *sizes), weight.dtype)
    whole[(slice(None), slice(None), *(slice(None, None, step) for step in dilations))] = weight
    return whole
