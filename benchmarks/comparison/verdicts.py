"""Paired verdicts: is one method better than another on the very same samples?

Differences are bootstrapped over samples (Efron and Tibshirani, An Introduction to the Bootstrap, 1993); for hits and
misses McNemar's exact test (1947) decides, which does not lean on many differing samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from comparison.metrics import Metric

DRAWS = 1000
ALPHA = 0.05
# Slower than the fastest peer of equal accuracy by more than this is too slow.
SLOWER = 1.05


def read(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        return {key: archive[key] for key in archive.files}


def difference(metric: Metric, first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """By how many points the first is better than the second, with a 95 % interval and p (two-sided)."""
    sign = 1 if metric.higher_is_better else -1
    count = len(first)
    ones = np.ones(count)
    rng = np.random.default_rng(0)
    drawn = np.empty(DRAWS)
    for index in range(DRAWS):
        counts = np.bincount(rng.integers(0, count, count), minlength=count)
        drawn[index] = sign * (metric.value(first, counts) - metric.value(second, counts))
    low, high = np.percentile(drawn, [2.5, 97.5])
    if first.shape[1] == 1 and set(np.unique(np.r_[first, second])) <= {0.0, 1.0}:
        p = mcnemar(int(np.sum(first > second)), int(np.sum(first < second)))
    else:
        p = min(1.0, 2 * min(float(np.mean(drawn <= 0)), float(np.mean(drawn >= 0))))
    points = sign * (metric.value(first, ones) - metric.value(second, ones)) + 0.0  # no −0
    return {"points": points, "low": float(low) + 0.0, "high": float(high) + 0.0, "p": p}


def beside(metric: Metric, ours: Path, peers: Sequence[Path]) -> list[dict[str, Any]]:
    """Accuracy and SQNR of one method's records beside those of each other, paired, p by Holm."""
    mine, theirs = read(ours), [read(path) for path in peers]
    results = [difference(metric, mine["records"], other["records"]) for other in theirs]
    together = adjusted([result["p"] for result in results])
    return [
        {
            **result,
            "p_adjusted": p,
            "verdict": word(result["points"], p),
            "sqnr": sqnr_difference(mine["power"], other["power"]),
        }
        for other, result, p in zip(theirs, results, together, strict=True)
    ]


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p that as many or more of the differing samples favour one side by chance."""
    total, most = only_first + only_second, max(only_first, only_second)
    if total == 0:
        return 1.0
    tail = sum(math.comb(total, k) for k in range(most, total + 1)) / 2**total
    return min(1.0, 2 * tail)


def adjusted(p: Sequence[float]) -> list[float]:
    """Each p for being one of several that are looked at together (Holm, 1979), in the order given.

    Who looks for the best of five peers will find one that was merely lucky.
    """
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate([min(1.0, (len(p) - rank) * p[place]) for rank, place in enumerate(order)])
    found = np.empty(len(p))
    found[order] = stepped
    return [float(value) for value in found]


def word(points: float, p: float) -> str:
    if p >= ALPHA or points == 0:
        return "equal"
    return "better" if points > 0 else "worse"


def sqnr_difference(first: np.ndarray, second: np.ndarray) -> dict[str, float] | None:
    """By how many dB the first is nearer to float, with a 95 % interval; columns are signal and noise a sample."""
    if not first[:, 1].sum() or not second[:, 1].sum():
        return None
    rng = np.random.default_rng(0)

    def decibels(rows: np.ndarray) -> float:
        ours, theirs = first[rows, 1].sum(), second[rows, 1].sum()
        return 10 * math.log10(max(theirs, 1e-30) / max(ours, 1e-30))

    drawn = [decibels(rng.integers(0, len(first), len(first))) for _ in range(DRAWS)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {"db": decibels(np.arange(len(first))), "low": float(low), "high": float(high)}


def agreement(answers: np.ndarray, reference: np.ndarray) -> float | None:
    """Percent of samples answered as the float model answers them; None where answers cannot be compared."""
    return 100 * float(np.mean(answers == reference)) if len(reference) and len(answers) == len(reference) else None
