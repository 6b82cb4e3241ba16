"""Rounding a matrix onto grids of blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepack.passes.blocks import Layout, Rounded, nearest
from tests import models


def restored(rounded: Rounded, layout: Layout) -> np.ndarray:
    """What the integers stand for, block by block."""
    rows, columns = rounded.integers.shape
    size = layout.block or columns
    result = np.empty((rows, columns), np.float32)
    for block in range(rounded.scale.shape[1]):
        part = slice(block * size, min((block + 1) * size, columns))
        zero = rounded.zero_point[:, block, None].astype(np.float32)
        result[:, part] = (rounded.integers[:, part] - zero) * rounded.scale[:, block, None]
    return result


def squared(matrix: np.ndarray, rounded: Rounded, layout: Layout) -> float:
    return float(np.square(restored(rounded, layout).astype(np.float64) - matrix).sum())


LAYOUTS = [
    Layout(bits=8),
    Layout(bits=7),
    Layout(bits=4, block=32),
    Layout(bits=4, block=32, symmetric=False),
    Layout(bits=4, block=128, symmetric=False),
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 5), columns=st.integers(1, 300), seed=st.integers(0, 99), power=st.floats(-12, 20))
def test_no_worse_than_the_full_range(layout: Layout, rows: int, columns: int, seed: int, power: float) -> None:
    matrix = (models.random((rows, columns), seed) ** 3 * 10**power).astype(np.float32)
    rounded = nearest(matrix, layout)
    blocks = -(-columns // (layout.block or columns))
    assert rounded.integers.shape == matrix.shape and rounded.scale.shape == rounded.zero_point.shape == (rows, blocks)
    low, high = layout.limits
    assert rounded.integers.min() >= low and rounded.integers.max() <= high
    assert np.all(rounded.scale > 0) and np.all(np.isfinite(rounded.scale))
    size = layout.block or columns
    plain = 0.0
    for start in range(0, columns, size):
        part = matrix[:, start : start + size].astype(np.float64)
        if layout.symmetric:
            step = np.abs(part).max(1, keepdims=True) / high
        else:
            step = (np.maximum(part.max(1), 0) - np.minimum(part.min(1), 0))[:, None] / (high - low)
        step[step == 0] = 1
        zero = 0 if layout.symmetric else np.rint(low - np.minimum(part.min(1, keepdims=True), 0) / step)
        plain += float(np.square((np.clip(np.rint(part / step) + zero, low, high) - zero) * step - part).sum())
    assert squared(matrix, rounded, layout) <= plain * 1.001 + 1e-12 * float(np.square(matrix.astype(np.float64)).sum())


def test_the_search_gains_on_four_bits() -> None:
    matrix, layout = models.random((64, 256)), Layout(bits=4, block=128)
    step = np.abs(matrix.reshape(64, 2, 128)).max(2, keepdims=True) / 7
    plain = np.square(np.rint(matrix.reshape(64, 2, 128) / step) * step - matrix.reshape(64, 2, 128)).sum()
    assert squared(matrix, nearest(matrix, layout), layout) < 0.8 * plain


def test_asymmetric_blocks_fit_what_lies_on_one_side() -> None:
    matrix = np.abs(models.random((8, 64))) + 1.0
    errors = [squared(matrix, nearest(matrix, layout), layout) for layout in LAYOUTS[2:4]]
    assert errors[1] < 0.4 * errors[0]


def test_rows_of_zeros_stay_zero() -> None:
    matrix = np.zeros((3, 40), np.float32)
    for layout in LAYOUTS:
        assert not restored(nearest(matrix, layout), layout).any()


def test_what_the_input_never_uses_is_rounded_last() -> None:
    """Second moments decide whose error counts: an outlier on a dead input must not set the scale."""
    matrix = models.random((4, 32), 1)
    matrix[:, 0] = 20.0
    moments = np.diag([0.0] + [1.0] * 31)
    layout = Layout(bits=4, block=32)
    with_moments, without = nearest(matrix, layout, moments), nearest(matrix, layout)
    error = [np.square(restored(r, layout) - matrix)[:, 1:].sum() for r in (with_moments, without)]
    assert error[0] < 0.5 * error[1]


def test_a_large_matrix_is_rounded_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix, layout = models.random((50, 70)), Layout(bits=4, block=16, symmetric=False)
    whole = nearest(matrix, layout)
    monkeypatch.setattr("edgepack.passes.blocks._PORTION", 500)
    parts = nearest(matrix, layout)
    np.testing.assert_array_equal(whole.integers, parts.integers)
    np.testing.assert_array_equal(whole.scale, parts.scale)
