"""Constant weights and biases, in float or on a layer's grids."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..flatbuffer import Quantization, Tensor
from ..lowering import Lowering
from ..units import NoForm, Unit


def weights_of(low: Lowering, unit: Unit, index: int) -> tuple[np.ndarray, Quantization | None]:
    """Constant weights, integers with their scales in an int8 unit, else float."""
    name = unit.node.input[index]
    if unit.int8:
        source = low.integers[name]
        if source not in low.constants:
            raise NoForm("its weights are computed")
        return low.constants[source], low.grids[source]
    array = low.value(name)
    if array is None:
        raise NoForm("its weights are computed")
    return array, None


def filters_of(
    low: Lowering, name: str, array: np.ndarray, order: Sequence[int], scales: Quantization | None, axis: int
) -> Tensor:
    if scales is not None:
        count = array.transpose(order).shape[axis]
        scale = np.broadcast_to(scales.scale.reshape(-1), (count,))
        scales = Quantization(scale=scale, zero_point=np.zeros(count, np.int64), axis=axis)
    return low.constant(array.transpose(order), name, scales)


def bias_of(low: Lowering, unit: Unit, name: str, scales: Quantization | None, count: int, x: Tensor) -> Tensor:
    """The bias, int32 of scale s_in·s_w in an int8 unit; zeros where no name is given."""
    if scales is None:
        array = low.value(name) if name else np.zeros(count, np.float32)
        if array is None:
            raise NoForm("its bias is computed")
        return low.constant(np.broadcast_to(array.reshape(-1), (count,)), name or f"{unit.output}/bias")
    assert x.quantization is not None
    scale = np.float64(x.quantization.scale) * np.broadcast_to(scales.scale.reshape(-1), (count,))
    integers = np.zeros(count, np.int32)
    if name:
        source = low.integers.get(name)
        held = low.constants.get(source) if source is not None else None
        if held is None:
            raise NoForm("its bias is computed")
        integers = np.broadcast_to(held.reshape(-1), (count,)).astype(np.int32)
    grid = Quantization(scale=scale.astype(np.float32), zero_point=np.zeros(count, np.int64), axis=0)
    return low.constant(integers, name or f"{unit.output}/bias", grid)
