"""What a metric is: how one answer becomes a small record, and how records become one figure.

Records are kept, so that a bootstrap over samples costs one weighted sum a resample and no inference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from edgepack.data.samples import Boxes, Feed

R = TypeVar("R")
Truth = int | str | np.ndarray | Boxes | None
# Weights [resamples, records], how often a resample holds each record, become one figure a resample.
Scorer = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A model's outputs for one sample, batch axis included; `size` is its input's height and width, if an image."""

    outputs: Feed
    size: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Metric(Generic[R]):
    """A figure of merit.

    `truth` is what it judges by: "classes", "text", "maps", "boxes", or "any". `record` raises MetricError where
    the outputs do not fit, LabelsError where the truth does not. Figures are percentages, so that differences
    are `unit`, points; a figure is NaN where its resample holds nothing to judge by.
    """

    name: str
    higher_is_better: bool
    truth: str
    record: Callable[[Answer, Truth], R]
    scorer: Callable[[Sequence[R]], Scorer]
    unit: str = "points"
    resamples: int = 1000
    # The answers to several samples at once cannot be told apart along the first axis.
    alone: bool = False
    # Its records are the outputs themselves, which can be large.
    keeps_outputs: bool = False

    def drop(self, original: np.ndarray, built: np.ndarray) -> np.ndarray:
        """What was lost, in points: positive is worse, whatever the metric's direction."""
        lost: np.ndarray = original - built if self.higher_is_better else built - original
        return lost


AnyMetric = Metric[Any]


def additive(fold: Callable[[np.ndarray], np.ndarray]) -> Callable[[Sequence[np.ndarray]], Scorer]:
    """A scorer for records [k] that are summed: `fold` makes figures [resamples] of sums [resamples, k]."""

    def scorer(records: Sequence[np.ndarray]) -> Scorer:
        table = np.stack(records).astype(np.float64)
        return lambda weights: fold(weights @ table)

    return scorer


def percent(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """100 part / whole, NaN where the whole is nothing."""
    shares: np.ndarray = np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole > 0)
    return 100 * shares


def first_float(outputs: Feed) -> tuple[str, np.ndarray | None]:
    """The first output that holds floats, by name."""
    for name, array in outputs.items():
        if np.issubdtype(array.dtype, np.floating):
            return name, array
    return "", None


def shape_words(array: np.ndarray) -> str:
    return "×".join(map(str, array.shape)) or "scalar"
