"""Choice of ranges: each method against its definition, on histograms of known tensors."""

from __future__ import annotations

import numpy as np
import pytest

from edgepack.statistics.choose_range import METHODS, choose_ranges, entropy, minmax, mse, percentile
from edgepack.statistics.extent import Extent
from tests import models


def extent_of(values: np.ndarray, name: str = "t") -> Extent:
    extent = Extent(tensor=name)
    extent.update(values.astype(np.float32))
    return extent


def error(values: np.ndarray, low: float, high: float) -> float:
    """What 256 steps over the range, widened to hold zero, cost in mean square."""
    low, high = min(low, 0.0), max(high, 0.0)
    step = (high - low) / 255
    return float(np.mean((np.clip(np.rint(values / step) * step, low, high) - values) ** 2))


NORMAL = models.random((60000,), 1)
TENSORS = {
    "normal": NORMAL,
    "Relu": np.maximum(NORMAL, 0),
    "outliers": np.concatenate([NORMAL, [60.0, -35.0]]),
    "one-sided": np.concatenate([np.abs(NORMAL), [40.0] * 3]),
    "negative": -np.abs(NORMAL) - 1,
    "uniform": np.random.default_rng(0).uniform(-1, 3, 60000),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", TENSORS)
def test_no_method_leaves_the_extremes(name: str, method: str) -> None:
    values = TENSORS[name]
    low, high = METHODS[method](extent_of(values))
    assert values.min() - 1e-6 <= low < high <= values.max() + 1e-6


@pytest.mark.parametrize("name", TENSORS)
def test_mse_is_as_good_as_any_range(name: str) -> None:
    values = TENSORS[name]
    ours = error(values, *mse(extent_of(values)))
    shares = np.linspace(0.1, 1.0, 19)
    best = min(error(values, a * min(values.min(), 0.0), b * values.max()) for a in shares for b in shares)
    assert ours <= 1.1 * best


def test_percentile_leaves_its_share_outside() -> None:
    low, high = percentile(extent_of(NORMAL), 0.99)
    assert np.mean((low <= NORMAL) & (high >= NORMAL)) == pytest.approx(0.99, abs=0.002)
    assert low == pytest.approx(np.quantile(NORMAL, 0.005), abs=0.01)


def test_entropy_cuts_outliers_and_little_else() -> None:
    assert max(map(abs, entropy(extent_of(TENSORS["outliers"])))) < 40
    low, high = entropy(extent_of(TENSORS["uniform"]))
    assert high - low > 0.9 * 4


def test_a_constant_or_empty_tensor_keeps_its_range() -> None:
    for values in (np.zeros(10), np.full(10, 2.0), np.full(10, -3.0)):
        for method in METHODS.values():
            low, high = method(extent_of(values))
            assert low <= values[0] <= high
    assert minmax(Extent(tensor="t", low=0.0, high=0.0)) == mse(Extent(tensor="t", low=0.0, high=0.0)) == (0.0, 0.0)


def test_tensors_of_one_scale_get_a_range_for_both() -> None:
    extents = {"a": extent_of(NORMAL, "a"), "b": extent_of(5 * NORMAL, "b"), "c": extent_of(NORMAL, "c")}
    chosen = choose_ranges(extents, {"a": "a", "b": "a", "c": "c"}, "mse")
    assert chosen["a"] == chosen["b"] != chosen["c"]
    both = np.concatenate([NORMAL, 5 * NORMAL])
    assert error(both, *chosen["a"]) <= 1.05 * error(both, *mse(extent_of(both)))


def test_what_no_reader_tells_apart_takes_no_steps() -> None:
    chosen = choose_ranges({"a": extent_of(20 * NORMAL)}, {"a": "a"}, "minmax", {"a": (-3.0, np.inf)})
    assert chosen["a"][0] == -3.0 and chosen["a"][1] == pytest.approx(20 * NORMAL.max(), rel=1e-6)
    low, _ = choose_ranges({"a": extent_of(20 * NORMAL)}, {"a": "a"}, "mse", {"a": (-3.0, np.inf)})["a"]
    assert -3.0 <= low <= -0.5
