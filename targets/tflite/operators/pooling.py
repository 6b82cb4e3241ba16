"""Pooling over windows and over whole pictures."""

from __future__ import annotations

import numpy as np
import onnx

from ..flatbuffer import Tensor
from ..formula import Formula
from ..lowering import Lowering, NoForm, Unit, last
from .registry import always, ints, keeps_grid, operator
from .windows import VALID, made_for, pad_picture, pads_of, picture, same, unpicture


def _counts_alike(low: Lowering, node: onnx.NodeProto) -> bool:
    """Whether each window averages as many numbers, as it must in integers; with the grid kept."""
    return keeps_grid(low, node) and not any(
        attribute.name in ("pads", "auto_pad", "ceil_mode") and attribute.SerializeToString() and _set(attribute)
        for attribute in node.attribute
    )


def _set(attribute: onnx.AttributeProto) -> bool:
    return any(attribute.ints) or bool(attribute.i) or attribute.s not in (b"", b"NOTSET", b"VALID")


@operator("MaxPool", int8=keeps_grid)
def _max_pool(low: Lowering, unit: Unit) -> None:
    if len([name for name in unit.node.output if name]) > 1:
        raise NoForm("the places of its maxima")
    _pool(low, unit, "MAX_POOL_2D")


@operator("AveragePool", int8=_counts_alike)
def _average_pool(low: Lowering, unit: Unit) -> None:
    _pool(low, unit, "AVERAGE_POOL_2D")


def _pool(low: Lowering, unit: Unit, kind: str) -> None:
    shape, out = low.shape(unit.node.input[0]), low.shape(unit.node.output[0])
    rank = len(shape)
    if rank not in (3, 4):
        raise NoForm(f"pooling over {rank - 2} dimensions")
    kernel = ints(unit, "kernel_shape", [])
    strides, dilations = (ints(unit, key, [1] * (rank - 2)) for key in ("strides", "dilations"))
    if any(step != 1 for step in dilations):
        raise NoForm("pooling with dilation")
    pads = pads_of(unit, shape[2:], kernel, strides, dilations)
    sizes = list(out[2:])
    x = low.read(low.data(unit, 0), last(rank))
    if rank == 3:
        x = picture(low, unit, x)
        kernel, strides, pads, sizes = [1, *kernel], [1, *strides], [0, pads[0], 0, pads[1]], [1, *sizes]
    factor = None
    if kind == "AVERAGE_POOL_2D":
        factor = _share(unit, x.shape[1:3], kernel, strides, pads, sizes)
    reach = [(sizes[i] - 1) * strides[i] + kernel[i] - x.shape[1 + i] - pads[i] for i in range(2)]
    pads = [*pads[:2], *(max(reach[i], 0) for i in range(2))]  # as far as windows reach, ceil_mode or not
    padding = same(x.shape[1:3], kernel, strides, [1, 1], pads)
    if factor is not None and padding is not None and not unit.attributes.get("count_include_pad", 0):
        factor = None  # TFLite's own averages leave its padding out
    elif padding is None or factor is not None or (kind == "AVERAGE_POOL_2D" and any(pads)):
        x, padding = pad_picture(low, unit, x, pads, 0.0 if kind == "AVERAGE_POOL_2D" else None), VALID
    options = {
        "padding": padding, "strideH": strides[0], "strideW": strides[1], "filterHeight": kernel[0],
        "filterWidth": kernel[1], "fusedActivationFunction": unit.activation if factor is None else 0,
    }  # fmt: skip
    made = made_for(low, unit, rank)
    if factor is None:
        low.add(kind, [x], [made], "Pool2DOptions", options)
    else:
        _scaled(low, unit, x, made, factor, options)
    unpicture(low, unit, made, rank)


def _scaled(low: Lowering, unit: Unit, x: Tensor, made: Tensor, factor: np.ndarray, options: dict[str, int]) -> None:
    """Averages over whole windows, put right for those that reach beyond what counts."""
    whole = low.temporary(unit, made.shape, "averages")
    low.add("AVERAGE_POOL_2D", [x], [whole], "Pool2DOptions", options)
    right = low.constant(factor, f"{unit.output}/shares")
    low.add("MUL", [whole, right], [made], "MulOptions", {"fusedActivationFunction": unit.activation})


def _share(
    unit: Unit, size: tuple[int, ...], kernel: list[int], strides: list[int], pads: list[int], out: list[int]
) -> np.ndarray | None:
    """Numbers in a window by numbers that count, [1, height, width, 1]; None where all count everywhere."""
    included = bool(unit.attributes.get("count_include_pad", 0))
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
    rank = len(low.shape(unit.node.input[0]))
    x = low.read(low.data(unit, 0), last(rank))
    axes = low.numbers(range(1, rank - 1), f"{unit.output}/axes")
    low.add(kind, [x, axes], [low.result(unit, last(rank))], "ReducerOptions", {"keepDims": True})


@operator("GlobalLpPool", "LpPool")
def _powers(low: Lowering, unit: Unit) -> None:
    """Roots of sums of squares over whole pictures."""
    if unit.node.op_type == "LpPool" or unit.attributes.get("p", 2) != 2:
        raise NoForm("other powers than squares over the whole picture")
    rank = len(low.shape(unit.node.input[0]))
    make = Formula(low=low, unit=unit)
    x = low.read(unit.node.input[0], last(rank))
    make.answer(make("SQRT", make.over("SUM", make.square(x), tuple(range(1, rank - 1)))), last(rank))
