"""The paired bootstrap over samples (Efron & Tibshirani, 1993, ch. 13): both models on the same resamples."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator

import numpy as np

from edgepack.metrics.base import Scorer

SEED = 20261
LEVEL = 95
# Weights of as many resamples at once as fit into some tens of megabytes.
_LARGEST_CHUNK = 4_000_000


def resamples(count: int, rounds: int, seed: int = SEED) -> Iterator[np.ndarray]:
    """Weights [some, count] of `rounds` resamples with replacement, the same for the same arguments."""
    random = np.random.default_rng(seed)
    size = max(1, _LARGEST_CHUNK // count)
    for start in range(0, rounds, size):
        some = min(size, rounds - start)
        drawn = random.integers(0, count, (some, count)) + count * np.arange(some)[:, None]
        yield np.bincount(drawn.ravel(), minlength=some * count).reshape(some, count).astype(np.float64)


def figure(score: Scorer, count: int) -> float:
    """The figure over all records."""
    return float(score(np.ones((1, count)))[0])


def distribution(score: Scorer, count: int, rounds: int) -> np.ndarray:
    """Figures [rounds] over resamples, in an order that depends on `count` and `rounds` alone."""
    return np.concatenate([np.zeros(0), *(score(weights) for weights in resamples(count, rounds))])


def interval(drops: np.ndarray) -> tuple[float, float] | None:
    """The middle 95 % of the drops over paired resamples; None where most resamples had nothing to judge."""
    if not len(drops) or np.isnan(drops).mean() > 0.5:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        low, high = np.nanpercentile(drops, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return float(low), float(high)


def needed(count: int, low: float, high: float, budget: float) -> int:
    """How many samples would narrow the interval to `budget` points on either side.

    Its width goes with the square root of the count. Where no sample differed, or few, the interval says too
    little, and the rule of three (Hanley & Lippman-Hand, 1983) sets the floor: what was not seen in n samples
    may still happen in 3 of n.
    """
    by_width = count * ((high - low) / 2 / budget) ** 2
    return math.ceil(max(by_width, 300 / budget))
