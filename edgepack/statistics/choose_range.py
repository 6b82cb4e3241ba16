"""Which range of a tensor its scale covers: what lies outside is clipped, so that what lies inside has finer steps.

Every method reads the same histogram (statistics/extent.py), so comparing them takes no further pass.

- `minmax`: everything that calibration saw.
- `percentile`: all but a share of the elements, half of it at each end.
- `mse`: the range whose clipping and rounding errors are smallest together (as in Banner et al., "Post Training 4-bit
  Quantization of Convolutional Networks for Rapid-Deployment", 2019, with the histogram in place of a distribution).
- `entropy`: the range that keeps most of the distribution (KL divergence; Migacz, "8-bit Inference with TensorRT",
  2017).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from edgepack.statistics.extent import BINS, Extent

Range = tuple[float, float]

_STEPS = 255
# Ends that are tried, as shares of the extremes.
_SHARES = np.linspace(0.2, 1.0, 41)


def minmax(extent: Extent) -> Range:
    return extent.low, extent.high


def percentile(extent: Extent, share: float = 0.9999) -> Range:
    """The range that `share` of the elements lie in."""
    total = extent.counts.sum()
    if not total:
        return minmax(extent)
    below = np.cumsum(extent.counts) / total
    outside = (1 - share) / 2
    width = 2 * extent.reach / BINS
    low = extent.centers[int(np.searchsorted(below, outside, "right"))] - width / 2
    high = extent.centers[min(int(np.searchsorted(below, 1 - outside)), BINS - 1)] + width / 2
    return _within(extent, float(low), float(high))


def mse(extent: Extent, power: float = 2.0) -> Range:
    """The range with the smallest sum of |error|^power, rounding errors being uniform and zeros free of them."""
    if not extent.counts.any():
        return minmax(extent)
    lows, highs = _ends(extent)
    values = extent.centers
    beyond_high = (np.maximum(values - highs[:, None], 0) ** power) @ extent.counts
    beyond_low = (np.maximum(lows[:, None] - values, 0) ** power) @ extent.counts
    # The bin that begins at zero holds what an activation cut off, which every grid holds exactly.
    rounded = np.where(np.arange(BINS) == BINS // 2, 0.0, extent.counts)
    before = np.concatenate([[0.0], np.cumsum(rounded)])
    at_high, at_low = np.searchsorted(values, highs), np.searchsorted(values, lows)
    inside = before[at_high][None, :] - before[at_low][:, None]
    step = (highs[None, :] - lows[:, None]) / _STEPS
    cost = beyond_low[:, None] + beyond_high[None, :] + inside * (step / 2) ** power / (power + 1)
    low, high = np.unravel_index(int(np.argmin(cost)), cost.shape)
    return _within(extent, float(lows[low]), float(highs[high]))


def entropy(extent: Extent) -> Range:
    """Both ends shrunk alike, to where the histogram on the grid diverges least from what it was."""
    if not extent.counts.any():
        return minmax(extent)
    counts = extent.counts.copy()
    # The spike of zeros would be smeared over a level, which it is not: zero is exact.
    counts[BINS // 2] = counts[BINS // 2 + 1]
    best, least = minmax(extent), np.inf
    for share in _SHARES:
        low, high = share * min(extent.low, 0.0), share * max(extent.high, 0.0)
        divergence = _divergence(counts, extent.centers, low, high)
        if divergence < least:
            best, least = (low, high), divergence
    return _within(extent, *best)


METHODS: dict[str, Callable[[Extent], Range]] = {
    "minmax": minmax,
    "percentile": percentile,
    "percentile99.999": partial(percentile, share=0.99999),
    "mse": mse,
    "entropy": entropy,
}


def choose_ranges(
    extents: Mapping[str, Extent],
    tensors: Mapping[str, str],
    method: str,
    limits: Mapping[str, Range] | None = None,
) -> dict[str, Range]:
    """A range for each tensor; those that share a scale get one that fits their joined histograms.

    Args:
        tensors: each tensor with the one whose scale it shares.
        method: a key of METHODS.
        limits: ends beyond which nothing that reads a tensor tells values apart.
    """
    choose = METHODS[method]
    joined: dict[str, Extent] = {}
    for name, root in tensors.items():
        extent = _cut(extents[name], *(limits or {}).get(name, (-np.inf, np.inf)))
        joined[root] = joined[root].joined(extent) if root in joined else extent
    chosen = {root: choose(extent) for root, extent in joined.items()}
    return {name: chosen[root] for name, root in tensors.items()}


def _ends(extent: Extent) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends to try; an end at zero stays there."""
    low, high = min(extent.low, 0.0), max(extent.high, 0.0)
    return (low * _SHARES if low < 0 else np.zeros(1)), (high * _SHARES if high > 0 else np.zeros(1))


def _within(extent: Extent, low: float, high: float) -> Range:
    return max(low, extent.low), min(high, extent.high)


def _cut(extent: Extent, low: float, high: float) -> Extent:
    """The histogram of what is clipped to [low, high]."""
    if low <= extent.low and high >= extent.high:
        return extent
    cut = Extent(
        tensor=extent.tensor,
        low=float(np.clip(extent.low, low, high)),
        high=float(np.clip(extent.high, low, high)),
        reach=extent.reach,
    )
    width = 2 * extent.reach / BINS
    if width > 0:
        places = np.floor(np.clip(extent.centers, cut.low, cut.high) / width).astype(np.int64) + BINS // 2
        np.add.at(cut.counts, np.clip(places, 0, BINS - 1), extent.counts)
    return cut


def _divergence(counts: np.ndarray, values: np.ndarray, low: float, high: float) -> float:
    """KL divergence of the histogram, clipped, from its form on the grid over [low, high]."""
    inside = (values >= low) & (values <= high)
    if not counts[inside].any():
        return np.inf
    kept = counts[inside]
    clipped = kept.copy()
    clipped[0] += counts[values < low].sum()
    clipped[-1] += counts[values > high].sum()
    level = np.floor((values[inside] - low) * (_STEPS / (high - low))).astype(np.int64)
    filled = kept > 0
    sums = np.bincount(level, weights=kept, minlength=_STEPS + 1)
    bins = np.bincount(level, weights=filled, minlength=_STEPS + 1)
    spread = np.where(filled, sums[level] / np.maximum(bins[level], 1), 0.0)
    p, q = clipped / clipped.sum(), spread / max(spread.sum(), 1e-300)
    some = p > 0
    return float(np.sum(p[some] * np.log(p[some] / np.maximum(q[some], 1e-9))))
