"""Pooling over windows and over whole pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from ..axes import last
from ..flatbuffer import Quantization, Tensor
from ..formula import Formula
from ..lowering import Lowering
from ..units import NoForm, Unit
from .registry import always, ints, keeps_grid, operator
from .windows import SAME, VALID, made_for, pad_picture, pads_of, picture, same, unpicture

# Beyond this XNNPACK's depthwise kernels take several rounds, and are slower than the builtin average.
_MOST_TAPS = 25


def _counts_alike(low: Lowering, node: onnx.NodeProto) -> bool:
    """Whether TFLite's own average is that of each window, as it must be in integers; with the grid kept."""
    rank = len(low.shape(node.input[0]))
    if not keeps_grid(low, node) or rank not in (3, 4):
        return False
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    window = _window(low, Unit(node=node, output=node.output[0], attributes=attributes))
    return window.factor is None


@operator("MaxPool", int8=keeps_grid)
def _max_pool(low: Lowering, unit: Unit) -> None:
    if len([name for name in unit.node.output if name]) > 1:
        raise NoForm("the places of its maxima")
    _pool(low, unit, "MAX_POOL_2D")


@operator("AveragePool", int8=_counts_alike)
def _average_pool(low: Lowering, unit: Unit) -> None:
    _pool(low, unit, "AVERAGE_POOL_2D")


def _pool(low: Lowering, unit: Unit, kind: str) -> None:
    rank = len(low.shape(unit.node.input[0]))
    if rank not in (3, 4):
        raise NoForm(f"pooling over {rank - 2} dimensions")
    if any(step != 1 for step in ints(unit, "dilations", [1])):
        raise NoForm("pooling with dilation")
    window = _window(low, unit)
    x = low.read(low.data(unit, 0), last(rank))
    x = picture(low, unit, x) if rank == 3 else x
    factor = window.factor if kind == "AVERAGE_POOL_2D" else None
    padding = window.padding
    if padding is None or (kind == "AVERAGE_POOL_2D" and padding == SAME and (window.included or factor is not None)):
        x, padding = pad_picture(low, unit, x, window.pads, 0.0 if kind == "AVERAGE_POOL_2D" else None), VALID
    options = {
        "padding": padding, "strideH": window.strides[0], "strideW": window.strides[1],
        "filterHeight": window.kernel[0], "filterWidth": window.kernel[1],
        "fusedActivationFunction": unit.activation if factor is None else 0,
    }  # fmt: skip
    made = made_for(low, unit, rank)
    small = window.kernel[0] * window.kernel[1] <= _MOST_TAPS
    if unit.int8 and kind == "AVERAGE_POOL_2D" and padding == VALID and small:
        _averaged(low, unit, x, made, window)
    elif factor is None:
        low.add(kind, [x], [made], "Pool2DOptions", options)
    else:
        _scaled(low, unit, x, made, factor, options)
    unpicture(low, unit, made, rank)


def _averaged(low: Lowering, unit: Unit, x: Tensor, made: Tensor, window: Window) -> None:
    """Integer averages as a depthwise convolution by ones, whose scale is one over their number.

    XNNPACK has no integer average, and the builtin one takes two to seven times as long and rounds halves away from 0.
    """
    assert x.quantization is not None
    channels, count = x.shape[-1], window.kernel[0] * window.kernel[1]
    zeros = np.zeros(channels, np.int64)
    scale = np.full(channels, 1 / count, np.float32)
    weights = Quantization(scale=scale, zero_point=zeros, axis=3)
    biases = Quantization(scale=scale * x.quantization.scale, zero_point=zeros, axis=0)
    ones = low.constant(np.ones((1, *window.kernel, channels), np.int8), f"{unit.output}/ones", weights)
    none = low.constant(np.zeros(channels, np.int32), f"{unit.output}/none", biases)
    options = {
        "padding": VALID, "strideH": window.strides[0], "strideW": window.strides[1], "depthMultiplier": 1,
        "dilationHFactor": 1, "dilationWFactor": 1, "fusedActivationFunction": unit.activation,
    }  # fmt: skip
    low.add("DEPTHWISE_CONV_2D", [x, ones, none], [made], "DepthwiseConv2DOptions", options)


@dataclass(frozen=True, kw_only=True)
class Window:
    """How windows lie over a picture, height and width; pads are begins, then ends as far as windows reach.

    `padding` is TFLite's word for it, if it has one; `included` whether averages count padding, and `factor` puts
    those averages right that count otherwise than TFLite, [1, height, width, 1].
    """

    kernel: list[int]
    strides: list[int]
    pads: list[int]
    padding: int | None
    included: bool
    factor: np.ndarray | None


def _window(low: Lowering, unit: Unit) -> Window:
    shape, out = low.shape(unit.node.input[0]), low.shape(unit.node.output[0])
    kernel = ints(unit, "kernel_shape", [])
    one = [1] * len(kernel)
    strides = ints(unit, "strides", one)
    pads = pads_of(unit, shape[2:], kernel, strides, one)
    size, sizes = list(shape[2:]), list(out[2:])
    if len(kernel) == 1:
        kernel, strides, pads, size, sizes = (
            [1, *kernel],
            [1, *strides],
            [0, pads[0], 0, pads[1]],
            [1, *size],
            [1, *sizes],
        )
    included = bool(unit.attributes.get("count_include_pad", 0))
    factor = _share(included, size, kernel, strides, pads, sizes)
    reach = [(sizes[i] - 1) * strides[i] + kernel[i] - size[i] - pads[i] for i in range(2)]
    pads = [*pads[:2], *(max(end, 0) for end in reach)]
    padding = same(size, kernel, strides, [1, 1], pads)
    if padding is not None and not included:
        factor = None  # TFLite's own averages leave its padding out
    return Window(kernel=kernel, strides=strides, pads=pads, padding=padding, included=included, factor=factor)


def _scaled(low: Lowering, unit: Unit, x: Tensor, made: Tensor, factor: np.ndarray, options: dict[str, int]) -> None:
    """Averages over whole windows, put right for those that reach beyond what counts."""
    whole = low.temporary(unit, made.shape, "averages")
    low.add("AVERAGE_POOL_2D", [x], [whole], "Pool2DOptions", options)
    right = low.constant(factor, f"{unit.output}/shares")
    low.add("MUL", [whole, right], [made], "MulOptions", {"fusedActivationFunction": unit.activation})


def _share(
    included: bool, size: list[int], kernel: list[int], strides: list[int], pads: list[int], out: list[int]
) -> np.ndarray | None:
    """Numbers in a window by numbers that count, [1, height, width, 1]; None where all count everywhere."""
    by_axis = []
    for i in range(2):
        first, end = (-pads[i], size[i] + pads[2 + i]) if included else (0, size[i])
        starts = np.arange(out[i]) * strides[i] - pads[i]
        by_axis.append(np.minimum(starts + kernel[i], end) - np.maximum(starts, first))
    counts = np.outer(*by_axis)
    if (counts == kernel[0] * kernel[1]).all():
        return None
    return (kernel[0] * kernel[1] / counts).astype(np.float32)[None, :, :, None]


@operator("GlobalAveragePool", int8=always)
def _global_average(low: Lowering, unit: Unit) -> None:
    _global(low, unit, "MEAN")


@operator("GlobalMaxPool", int8=keeps_grid)
def _global_max(low: Lowering, unit: Unit) -> None:
    _global(low, unit, "REDUCE_MAX")


def _global(low: Lowering, unit: Unit, kind: str) -> None:
    """The builtin MEAN that keeps its axes cuts off part of the zero point, so in integers they come back behind it."""
    rank = len(low.shape(unit.node.input[0]))
    x = low.read(low.data(unit, 0), last(rank))
    axes = low.numbers(range(1, rank - 1), f"{unit.output}/axes")
    made = low.result(unit, last(rank))
    if unit.int8 and kind == "MEAN":
        mean = low.temporary(unit, (x.shape[0], x.shape[-1]), "mean")
        low.reshape(low.add(kind, [x, axes], [mean], "ReducerOptions", {"keepDims": False}), made)
    else:
        low.add(kind, [x, axes], [made], "ReducerOptions", {"keepDims": True})


@operator("GlobalLpPool", "LpPool")
def _powers(low: Lowering, unit: Unit) -> None:
    """Roots of sums of squares over whole pictures."""
    if unit.node.op_type == "LpPool" or unit.attributes.get("p", 2) != 2:
        raise NoForm("other powers than squares over the whole picture")
    rank = len(low.shape(unit.node.input[0]))
    make = Formula(low=low, unit=unit)
    x = low.read(unit.node.input[0], last(rank))
    make.answer(make("SQRT", make.over("SUM", make.square(x), tuple(range(1, rank - 1)))), last(rank))
