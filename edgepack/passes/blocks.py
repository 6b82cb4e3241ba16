"""Rounding one weight matrix onto integer grids, one grid a row or a block of a row.

The scale is searched for the smallest squared error instead of taken from the largest weight, as in Nagel et al.,
"A White Paper on Neural Network Quantization" (2021), section 3.1. What comes later (rounding that looks at the
Hessian) is another function of the same signature: see `Rounding`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# Ranges tried, as shares of the full one. Clipping more than half never won on Gaussian or heavy-tailed weights.
_SHRINK = tuple(np.linspace(1.0, 0.5, 21))
_SMALLEST_SCALE = 1e-30
# Rows are rounded in portions of about this many weights, which bounds the memory of the search.
_PORTION = 4_000_000


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a matrix lies on grids of `bits` bits: `block` columns share one; 0 means the whole row does."""

    bits: int
    block: int = 0
    symmetric: bool = True

    @property
    def limits(self) -> tuple[int, int]:
        """The smallest and the largest integer. A row's grid is balanced, as int8 kernels want it."""
        half = 2 ** (self.bits - 1)
        return (-half if self.block else -half + 1), half - 1


@dataclass(frozen=True, kw_only=True)
class Rounded:
    """A matrix as integers: weight = scale · (integer − zero_point).

    `integers` is int8 [rows, columns]; `scale` float32 and `zero_point` int8 are [rows, blocks], the last block of a
    row holding what is left of it.
    """

    integers: np.ndarray
    scale: np.ndarray
    zero_point: np.ndarray


# A matrix [rows, columns], its layout, and where known the second moments [columns, columns] of what it multiplies.
Rounding = Callable[[np.ndarray, Layout, "np.ndarray | None"], Rounded]


def nearest(matrix: np.ndarray, layout: Layout, moments: np.ndarray | None = None) -> Rounded:
    """Round to the nearest, each grid with the scale of the smallest squared error.

    Args:
        matrix: float [rows, columns], finite; a row is an output channel.
        moments: [columns, columns] E[x xᵀ] of the input; its diagonal weighs the columns' errors.
    """
    rows, columns = matrix.shape
    size = layout.block or columns
    blocks = -(-columns // size)
    importance = np.ones(columns) if moments is None else np.maximum(np.diagonal(moments), 0.0)
    weighed = _in_blocks((importance / max(float(importance.max()), _SMALLEST_SCALE))[None], size)
    portion = max(1, _PORTION // max(columns, 1))
    integers = np.empty((rows, blocks * size), np.int8)
    scale = np.empty((rows, blocks), np.float32)
    zero_point = np.empty((rows, blocks), np.int8)
    for start in range(0, rows, portion):
        part = slice(start, start + portion)
        values = _in_blocks(matrix[part].astype(np.float32), size)
        found, scale[part], zero_point[part] = _search(values, weighed, layout)
        integers[part] = found.reshape(len(found), -1)
    return Rounded(integers=np.ascontiguousarray(integers[:, :columns]), scale=scale, zero_point=zero_point)


def _in_blocks(matrix: np.ndarray, size: int) -> np.ndarray:
    """[rows, columns] as [rows, blocks, size], the last block filled up with zeros."""
    rows, columns = matrix.shape
    blocks = -(-columns // size)
    padded = np.zeros((rows, blocks * size), np.float32)
    padded[:, :columns] = matrix
    return padded.reshape(rows, blocks, size)


def _search(values: np.ndarray, weighed: np.ndarray, layout: Layout) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Integers [rows, blocks, size], scales and zero points [rows, blocks] of the smallest error."""
    # Of magnitude one, so that squares neither overflow nor vanish.
    magnitude = _safe(np.abs(values).max(axis=2))
    values = values / magnitude[..., None]
    least = np.full(values.shape[:2], np.inf, np.float32)
    best_scale, best_zero = np.ones_like(least), np.zeros_like(least)
    for share in _SHRINK:
        scale, zero = _grid(values, float(share), layout)
        error = np.sum(weighed * np.square(_restored(values, scale, zero, layout) - values), axis=2)
        better = error < least
        best_scale[better], best_zero[better], least[better] = scale[better], zero[better], error[better]
    integers = _integers(values, best_scale, best_zero, layout).astype(np.int8)
    return integers, best_scale * magnitude, best_zero.astype(np.int8)


def _grid(values: np.ndarray, share: float, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Scale and zero point of each block for a share of its range."""
    smallest, largest = layout.limits
    if layout.symmetric:
        scale = np.abs(values).max(axis=2) * (share / largest)
        return _safe(scale), np.zeros_like(scale)
    low, high = np.minimum(values.min(axis=2), 0) * share, np.maximum(values.max(axis=2), 0) * share
    scale = _safe((high - low) / (largest - smallest))
    return scale, np.clip(np.rint(smallest - low / scale), smallest, largest)


def _safe(scale: np.ndarray) -> np.ndarray:
    return np.where(scale > _SMALLEST_SCALE, scale, 1.0).astype(np.float32)


def _integers(values: np.ndarray, scale: np.ndarray, zero: np.ndarray, layout: Layout) -> np.ndarray:
    steps = np.rint(values / scale[..., None]) + zero[..., None]
    clipped: np.ndarray = np.clip(steps, *layout.limits)
    return clipped


def _restored(values: np.ndarray, scale: np.ndarray, zero: np.ndarray, layout: Layout) -> np.ndarray:
    restored: np.ndarray = (_integers(values, scale, zero, layout) - zero[..., None]) * scale[..., None]
    return restored
