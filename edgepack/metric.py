"""Figures of merit: accuracy with labels, agreement and SQNR without."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np

from edgepack import _root
from edgepack.errors import LabelsError
from edgepack.samples import Feed, Samples


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


def harness() -> HarnessModule:
    return cast(HarnessModule, _root.load("edgepack.targets.harness", _root.TARGETS / "device" / "harness.py"))


@dataclass(frozen=True, kw_only=True)
class Quality:
    """How a built model answers, beside the float original, on `count` samples.

    Accuracies are percentages (top-1); `drop` is original minus built in points, with the standard error of the
    paired difference. `agreement` is the percentage of answers whose largest element is the original's; None
    where outputs are no scores. `sqnr_db` is over the first float output.
    """

    source: str
    count: int
    sqnr_db: float | None
    agreement: float | None
    original_accuracy: float | None = None
    accuracy: float | None = None
    drop: float | None = None
    drop_error: float | None = None


def holds_scores(array: np.ndarray) -> bool:
    """True for [batch, classes] and [batch, positions, classes]."""
    return array.ndim in (2, 3) and array.shape[-1] > 1 and np.issubdtype(array.dtype, np.floating)


def evaluate(
    original: Callable[[Feed], Feed],
    built: Callable[[Feed], Feed],
    samples: Samples,
    progress: Callable[[int, int], None] | None = None,
) -> Quality:
    """Run both models over the samples and compare them, one batch in memory at a time.

    Raises:
        LabelsError: a label beyond the classes of the model.
    """
    signal = noise = 0.0
    batch = samples.batch()
    agreed: list[np.ndarray] = []
    right: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    done = labelled = 0
    for feed in samples.batches(batch):
        name, reference = first_float(original(feed))
        if reference is None:
            break
        actual = built(feed)[name]
        power = float(np.sum(np.square(reference, dtype=np.float64)))
        # Where the number of detections differs nothing of the signal is right.
        same = reference.shape == actual.shape
        signal += power
        noise += float(np.sum(np.square(reference.astype(np.float64) - actual))) if same else power
        if same and holds_scores(reference):
            best, other = np.argmax(reference, -1), np.argmax(actual, -1)
            agreed.append((best == other).ravel())
            if samples.labels is not None and reference.ndim == 2:
                truth = samples.labels[labelled : labelled + len(best)]
                check_labels(truth, reference.shape[-1])
                labelled += len(best)
                right[0].append(best == truth)
                right[1].append(other == truth)
        done = min(done + batch, samples.count)
        if progress:
            progress(done, samples.count)
    quality = {
        "source": samples.source,
        "count": samples.count,
        "sqnr_db": harness().decibels(signal, noise) if done else None,
        "agreement": 100 * float(np.mean(np.concatenate(agreed))) if agreed else None,
    }
    if not right[0]:
        return Quality(**quality)  # type: ignore[arg-type]
    before, after = (np.concatenate(part).astype(np.float64) for part in right)
    difference = before - after
    return Quality(
        **quality,  # type: ignore[arg-type]
        original_accuracy=100 * float(before.mean()),
        accuracy=100 * float(after.mean()),
        drop=100 * float(difference.mean()),
        drop_error=100 * float(difference.std(ddof=1) / np.sqrt(len(difference))) if len(difference) > 1 else None,
    )


def first_float(outputs: Feed) -> tuple[str, np.ndarray | None]:
    for name, array in outputs.items():
        if np.issubdtype(array.dtype, np.floating):
            return name, array
    return "", None


def check_labels(labels: Sequence[int] | np.ndarray, classes: int) -> None:
    wrong = [int(label) for label in labels if not 0 <= label < classes]
    if wrong:
        raise LabelsError(
            f"label {wrong[0]} is out of range: the model has {classes} classes, 0 to {classes - 1}",
            "the first class is 0",
        )
