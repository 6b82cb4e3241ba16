"""Figures of merit of a built model beside the float original, and the arithmetic shared with the device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np

from edgepack import _root
from edgepack.data.samples import Feed
from edgepack.metrics import bootstrap
from edgepack.metrics.base import first_float


class Loop(Protocol):
    """A model that keeps its states: targets/device/edgepack_device/state.py."""

    def __call__(self, feed: Feed) -> Feed: ...

    def fed(self, feed: Feed) -> Feed: ...

    def reset(self) -> None: ...


class HarnessModule(Protocol):
    """targets/device/harness.py, whose arithmetic the device shares."""

    FORMAT: int
    SUMS: str

    def sqnr_db(self, reference: np.ndarray, actual: np.ndarray) -> float: ...

    def decibels(self, signal: float, noise: float) -> float: ...

    def relative_error(self, reference: np.ndarray, actual: np.ndarray) -> float: ...

    def damage(self, folder: str) -> str: ...

    def ratio(self, baseline: list[Any], model: list[Any]) -> dict[str, float]: ...

    def flat(self, arrays: Sequence[np.ndarray]) -> np.ndarray: ...

    def sha256(self, path: str) -> str: ...

    def Stateful(
        self,
        run: Callable[[Feed], Feed],
        states: Sequence[Mapping[str, Any]],
        inputs: Sequence[Mapping[str, Any]],
    ) -> Loop: ...

    def encoded(self, entry: Mapping[str, Any], array: np.ndarray) -> np.ndarray: ...

    def restored(self, entry: Mapping[str, Any], array: np.ndarray) -> np.ndarray: ...


def harness() -> HarnessModule:
    return cast(HarnessModule, _root.load("edgepack.targets.harness", _root.TARGETS / "device" / "harness.py"))


@dataclass(frozen=True, kw_only=True)
class Quality:
    """How a built model answers, beside the float original, on `count` samples.

    `original` and `built` are the metric's figures in percent; `drop` is what was lost in points, positive for
    worse in the metric's own direction, with the ends of its 95 % interval (paired bootstrap over samples). All
    are None where there is no metric. `agreement` is the percentage of answers whose largest element is the
    original's; None where outputs are no scores. `sqnr_db` is over the first float output.
    """

    source: str
    count: int
    sqnr_db: float | None
    agreement: float | None
    metric: str | None = None
    unit: str | None = None
    higher_is_better: bool | None = None
    original: float | None = None
    built: float | None = None
    drop: float | None = None
    drop_low: float | None = None
    drop_high: float | None = None


@dataclass
class Distance:
    """Running sums over pairs of an output: what SQNR is made of."""

    signal: float = 0.0
    noise: float = 0.0

    def add(self, reference: np.ndarray, actual: np.ndarray) -> None:
        power = float(np.sum(np.square(reference, dtype=np.float64)))
        # Where the number of detections differs nothing of the signal is right.
        alike = reference.shape == actual.shape
        self.signal += power
        self.noise += float(np.sum(np.square(reference.astype(np.float64) - actual))) if alike else power

    @property
    def sqnr_db(self) -> float:
        return harness().decibels(self.signal, self.noise)


def distance(run: Callable[[Feed], Feed], feeds: Sequence[Feed], references: Sequence[Feed]) -> Distance:
    """How far the answers to feeds are from given ones, over the first float output."""
    return apart((run(feed) for feed in feeds), references)


def apart(answers: Iterable[Feed], references: Sequence[Feed]) -> Distance:
    """How far answers are from others to the same feeds, over the first float output."""
    found = Distance()
    for answer, reference in zip(answers, references, strict=True):
        name, wanted = first_float(reference)
        if wanted is not None:
            found.add(wanted, answer[name])
    return found


def typically_apart(answers: Iterable[Feed], references: Sequence[Feed]) -> float:
    """The SQNR in dB by the geometric mean of the rows' errors, over the first float output.

    One row that went another way altogether, as a recognizer's or a detector's may, outweighs all others in a mean of
    squares; here it counts as one.
    """
    errors: list[np.ndarray] = []
    signal = 0.0
    for answer, reference in zip(answers, references, strict=True):
        name, wanted = first_float(reference)
        if wanted is None or not wanted.size:
            continue
        rows = wanted.reshape(len(wanted) if wanted.ndim > 1 else 1, -1).astype(np.float64)
        # Where the number of detections differs nothing of the signal is right.
        given = answer[name].reshape(rows.shape) if answer[name].shape == wanted.shape else 0.0
        errors.append(((given - rows) ** 2).sum(axis=1))
        signal += float((rows**2).sum())
    error = np.concatenate(errors) if errors else np.zeros(1)
    mean = float(error.mean())
    if not np.isfinite(mean):
        return -np.inf
    if not mean or not signal:
        return np.inf if not mean else -np.inf
    # A row that happens to be met exactly is no better than one that is nearly met.
    return float(10 * (np.log10(signal / len(error)) - np.log10(error + 0.01 * mean).mean()))


def too_few(quality: Quality, budget: float) -> str:
    """Why these samples cannot tell a drop of `budget` points from none; empty where they can."""
    if quality.drop_low is None or quality.drop_high is None:
        return (
            "" if quality.drop is None else f"{quality.count} samples give no interval for the drop in {quality.metric}"
        )
    if not budget:
        return "" if quality.drop_high <= 0 else "no number of samples tells a drop of 0 points from a small one"
    needed = bootstrap.needed(quality.count, quality.drop_low, quality.drop_high, budget)
    if needed <= quality.count:
        return ""
    half = (quality.drop_high - quality.drop_low) / 2
    return (
        f"{quality.count:,} samples tell the drop in {quality.metric} to ± {half:.2g} points at best; "
        f"for {budget:g} points about {needed:,} are needed"
    )


def holds_scores(array: np.ndarray) -> bool:
    """True for [batch, classes] and [batch, positions, classes]."""
    return array.ndim in (2, 3) and array.shape[-1] > 1 and np.issubdtype(array.dtype, np.floating)
