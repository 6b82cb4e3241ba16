"""Metrics as records: a row of numbers a sample, and a value computed from weighted rows.

So that a bootstrap draws samples instead of figures: `value(records, counts)` takes how often each sample was drawn.
Values are points, 0 to 100 where the metric has bounds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from comparison import boxes

Array = np.ndarray


@dataclass(frozen=True, kw_only=True)
class Metric:
    """`record(outputs, truth)` is a row for one sample; `answer(outputs)` is what agreement compares, if anything."""

    name: str
    higher_is_better: bool
    record: Callable[[list[Array], Any], Array]
    value: Callable[[Array, Array], float]
    answer: Callable[[list[Array]], Any] | None = None


def find(name: str, metadata: dict[str, str]) -> Metric:
    """The metric of that name; `metadata` are the model's own, which hold the alphabet of a recognizer.

    Raises:
        ValueError: there is none of that name.
    """
    if name == "cer":
        alphabet = ["", *metadata["character"].splitlines(), " "]
        return Metric(
            name=name,
            higher_is_better=False,
            record=lambda outputs, truth: _edits(ctc(outputs[0], alphabet), str(truth)),
            value=_share,
            answer=lambda outputs: ctc(outputs[0], alphabet),
        )
    if name not in METRICS:
        raise ValueError(f"no metric is called {name}; there are {', '.join(sorted([*METRICS, 'cer']))}")
    return METRICS[name]


def _share(records: Array, counts: Array) -> float:
    """100 × the sum of the first column over that of the second."""
    part, whole = counts @ records[:, :2]
    return 100 * float(part) / max(float(whole), 1e-12)


def _mean(records: Array, counts: Array) -> float:
    return 100 * float(counts @ records[:, 0]) / float(counts.sum())


def _r2(records: Array, counts: Array) -> float:
    """Coefficient of determination, × 100; columns are the truth and the prediction."""
    truth, predicted = records[:, 0], records[:, 1]
    mean = counts @ truth / counts.sum()
    return 100 * (1 - float(counts @ (truth - predicted) ** 2) / float(counts @ (truth - mean) ** 2))


def _top1(outputs: list[Array]) -> int:
    return int(np.argmax(outputs[0].reshape(-1)))


def _cents(outputs: list[Array]) -> float:
    """The pitch in cents of CREPE's most active bin (Kim et al., 2018)."""
    return 20.0 * _top1(outputs) + 1997.3794084376191


def ctc(scores: Array, alphabet: list[str]) -> str:
    """Greedy CTC decoding of [1, steps, classes], class 0 the blank (Graves et al., 2006)."""
    best = scores[0].argmax(-1)
    keep = [k for step, k in enumerate(best) if k and (step == 0 or k != best[step - 1])]
    return "".join(alphabet[k] for k in keep)


def _edits(read: str, truth: str) -> Array:
    """Edits that turn `read` into `truth` (Levenshtein, 1966), and the length of `truth`."""
    row = list(range(len(truth) + 1))
    for i, a in enumerate(read, 1):
        last, row = row, [i]
        for j, b in enumerate(truth, 1):
            row.append(min(last[j] + 1, row[-1] + 1, last[j - 1] + (a != b)))
    return np.array([row[-1], len(truth)], np.float64)


METRICS = {
    metric.name: metric
    for metric in (
        Metric(
            name="top1",
            higher_is_better=True,
            record=lambda outputs, truth: np.array([_top1(outputs) == int(truth)], np.float64),
            value=_mean,
            answer=_top1,
        ),
        Metric(
            name="threshold",
            higher_is_better=True,
            record=lambda outputs, truth: np.array([(outputs[0].item() > 0.5) == bool(truth)], np.float64),
            value=_mean,
            answer=lambda outputs: bool(outputs[0].item() > 0.5),
        ),
        Metric(
            name="pitch50",
            higher_is_better=True,
            record=lambda outputs, truth: np.array([abs(_cents(outputs) - float(truth)) < 50], np.float64),
            value=_mean,
            answer=_cents,
        ),
        Metric(
            name="r2",
            higher_is_better=True,
            record=lambda outputs, truth: np.array([float(truth), outputs[0].item()], np.float64),
            value=_r2,
        ),
        Metric(
            name="map50",
            higher_is_better=True,
            record=lambda outputs, truth: boxes.record(outputs[0], truth),
            value=boxes.average_precision,
        ),
        Metric(
            name="hmean",
            higher_is_better=True,
            record=lambda outputs, truth: boxes.record(outputs[0], truth),
            value=boxes.h_mean,
        ),
    )
}


def metadata(path: str) -> dict[str, str]:
    """The metadata of an ONNX file."""
    import onnx

    return {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}
