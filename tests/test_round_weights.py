"""Rounding: always on the grid, never worse than to nearest in what it minimizes, whatever the moments look like."""

from __future__ import annotations

from concurrent.futures import CancelledError
from threading import Event

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepack.passes import round_weights
from edgepack.passes.round_weights import round_matrix
from edgepack.quantization.preparation import workers
from tests import models


def moments(random: np.random.Generator, groups: int, columns: int, rows: int) -> np.ndarray:
    """Of correlated patches; rank-deficient where there are fewer rows than columns."""
    mixing = random.standard_normal((groups, columns, columns)) + 1.5
    patches = random.standard_normal((groups, rows, columns)) @ mixing
    return np.asarray(np.swapaxes(patches, 1, 2) @ patches / rows)


def error(weight: np.ndarray, integers: np.ndarray, scale: np.ndarray, h: np.ndarray) -> np.ndarray:
    e = integers * scale[:, :, None].astype(np.float64) - weight
    return np.asarray(np.einsum("gok,gkl,gol->go", e, h, e))


def nearest(weight: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    scale = np.abs(weight).max(axis=2) / limit
    return np.rint(weight / scale[:, :, None]), scale


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([8, 7, 4]), st.integers(1, 3), st.integers(1, 6), st.integers(1, 150))
def test_a_layer_errs_less_than_rounded_to_nearest(
    seed: int, bits: int, groups: int, outputs: int, columns: int
) -> None:
    random = np.random.default_rng(seed)
    weight = random.standard_normal((groups, outputs, columns)) * 10.0 ** random.integers(-5, 5)
    h = moments(random, groups, columns, int(random.integers(1, 2 * columns + 2)))
    integers, scale = round_matrix(weight, [h], bits)
    limit = 2 ** (bits - 1) - 1
    assert integers.dtype == np.int8 and scale.dtype == np.float32 and np.all(scale > 0)
    assert np.abs(integers.astype(int)).max() <= limit
    plain = nearest(weight, limit)
    # A rank-deficient H is damped, so what is minimized differs a little from H itself.
    damped = h + 0.01 * np.einsum("gkk->g", h)[:, None, None] / columns * np.eye(columns)
    slack = 1e-12 * np.square(weight).sum() * np.abs(h).max()
    assert np.all(error(weight, integers, scale, damped) <= 1.001 * error(weight, *plain, damped) + slack)


def test_correlated_inputs_gain_much() -> None:
    random = np.random.default_rng(0)
    weight = random.standard_normal((1, 16, 64))
    h = moments(random, 1, 64, 500)
    ours = error(weight, *round_matrix(weight, [h], 4), h).sum()
    assert ours < 0.25 * error(weight, *nearest(weight, 7), h).sum()


def test_blocks_are_rounded_each_for_itself_with_one_scale() -> None:
    random = np.random.default_rng(1)
    weight = random.standard_normal((1, 8, 60))
    h = moments(random, 1, 60, 300)
    blocks = [h[:, :25, :25], h[:, 25:, 25:]]
    integers, scale = round_matrix(weight, blocks, 8)
    assert integers.shape == weight.shape and scale.shape == (1, 8)
    assert np.abs(integers * scale[:, :, None] - weight).max() < 4 * scale.max()


def test_one_scale_for_all_where_it_is_asked_for() -> None:
    weight = np.random.default_rng(2).standard_normal((2, 3, 9))
    _, scale = round_matrix(weight, [np.broadcast_to(np.eye(9), (2, 9, 9))], 8, tied=True)
    assert len(np.unique(scale)) == 1


@pytest.mark.parametrize(
    "h",
    [
        np.zeros((1, 5, 5)),
        np.ones((1, 5, 5)),
        np.diag([1.0, 0, 0, 0, 1e-30])[None],
        np.diag([1e30, 1, 1, 1, 1e-30])[None],
    ],
)
def test_moments_of_dead_or_constant_inputs_do_no_harm(h: np.ndarray) -> None:
    weight = np.random.default_rng(3).standard_normal((1, 4, 5))
    weight[0, 2] = 0
    integers, scale = round_matrix(weight, [h], 8)
    assert np.isfinite(scale).all() and np.all(integers[0, 2] == 0)


def test_scales_stay_above_their_floor() -> None:
    weight = np.random.default_rng(4).standard_normal((1, 4, 5)) * 1e-6
    _, scale = round_matrix(weight, [np.eye(5)[None]], 8, np.full((1, 4), 0.25))
    assert np.all(scale >= 0.25)


def test_channels_are_rounded_alike_however_many_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    weight, h = random.standard_normal((2, 37, 50)), moments(random, 2, 50, 200)
    floor = random.uniform(0, 0.02, (2, 37))
    integers, scale = round_matrix(weight, [h], 8, floor)
    monkeypatch.setattr(round_weights, "_AT_ONCE", 1000)
    few, few_scale = round_matrix(weight, [h], 8, floor)
    np.testing.assert_array_equal(few, integers)
    np.testing.assert_allclose(few_scale, scale, rtol=1e-6)
    tied, tied_scale = round_matrix(weight, [h], 8, tied=True)
    assert len(np.unique(tied_scale)) == 1 and tied.shape == weight.shape


def test_rounding_ends_when_nobody_waits_for_it_any_more() -> None:
    begun, jobs = Event(), []

    def rounding(stop: Event) -> None:
        weight, h = models.random((1, 64, 256), 1), np.eye(256)[None]
        begun.set()
        while True:
            round_matrix(weight, [h], 8, stop=stop)

    with pytest.raises(KeyboardInterrupt), workers() as (pool, stop):
        jobs += [pool.submit(rounding, stop) for _ in range(16)]
        begun.wait()
        raise KeyboardInterrupt
    assert all(job.cancelled() or isinstance(job.exception(), CancelledError) for job in jobs)
    assert sum(job.cancelled() for job in jobs) >= 12
