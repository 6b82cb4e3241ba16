"""Built models beside the float original, on samples: a metric by labels, agreement and SQNR without."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgepack.data.annotations import image_size
from edgepack.data.labels import read_characters
from edgepack.data.samples import Feed, Samples
from edgepack.data.spill import Spill
from edgepack.errors import LabelsError, MetricError, UsageError
from edgepack.metrics import bootstrap, default, resolve, truths
from edgepack.metrics.base import Answer, AnyMetric, first_float, shape_words
from edgepack.metrics.merit import Distance, Quality, holds_scores
from edgepack.model import Model
from edgepack.reference import Session

Run = Callable[[Feed], Feed]


def evaluate(
    original: Run,
    built: Run,
    samples: Samples,
    metric: AnyMetric | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Quality:
    """Run both models over the samples and compare them once, one batch in memory at a time.

    Raises:
        LabelsError, MetricError: the metric cannot judge these samples or answers.
    """
    return Judge(original, samples, metric, keep=False).judge(built, progress)


@dataclass
class _Comparison:
    """Running sums over the first float output."""

    distance: Distance = field(default_factory=Distance)
    same: int = 0
    answers: int = 0
    seen: bool = False

    def add(self, reference: np.ndarray, actual: np.ndarray) -> None:
        self.seen = True
        self.distance.add(reference, actual)
        if reference.shape == actual.shape and holds_scores(reference):
            equal = np.argmax(reference, -1) == np.argmax(actual, -1)
            self.same += int(equal.sum())
            self.answers += equal.size


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """Of one batch: the original's first float output, its name, and the metric's records."""

    name: str
    reference: np.ndarray | None
    records: list[Any]


class Judge:
    """The float original's answers to samples, kept so that many built models are judged and it runs once.

    What is kept are the metric's records, the first float output of each batch (in a temporary file beyond 256 MB),
    and the original's figures over the resamples.
    """

    def __init__(self, original: Run, samples: Samples, metric: AnyMetric | None = None, *, keep: bool = True) -> None:
        """
        Args:
            keep: whether more than one model will be judged; False saves the space.

        Raises:
            LabelsError: the samples lack what the metric judges by.
        """
        self._original, self._samples, self._metric, self._keep = original, samples, metric, keep
        self._truths = truths(metric, samples) if metric is not None else None
        self._spill = Spill()
        self._kept: list[_Kept] = []
        self._figures: tuple[float, np.ndarray] | None = None
        self._size = 0

    @property
    def metric_name(self) -> str | None:
        return None if self._metric is None else self._metric.name

    def judge(self, built: Run, progress: Callable[[int, int], None] | None = None) -> Quality:
        """How `built` answers beside the original.

        Raises:
            LabelsError, MetricError: the metric cannot judge these samples or answers.
        """
        if not self._size:
            self._size = self._batch()
        comparison = _Comparison()
        spill = Spill()
        before: list[Any] = []
        after: list[Any] = []
        done = 0
        for number, feed in enumerate(self._samples.batches(self._size)):
            kept = self._reference(number, feed, done)
            if kept.reference is None and self._metric is None:
                break
            answers = built(feed)
            if kept.reference is not None:
                comparison.add(kept.reference, answers[kept.name])
            before += kept.records
            after += self._record(answers, feed, done, spill)
            done = min(done + self._size, self._samples.count)
            if progress:
                progress(done, self._samples.count)
        quality = Quality(
            source=self._samples.source,
            count=len(before) or self._samples.count,
            sqnr_db=comparison.distance.sqnr_db if comparison.seen else None,
            agreement=100 * comparison.same / comparison.answers if comparison.answers else None,
        )
        return quality if self._metric is None else self._judged(quality, self._metric, before, after)

    def check(self) -> None:
        """Judge the original's answer to the first sample (by every class that occurs), to refuse at once what
        would be refused in the end.

        Raises:
            LabelsError, MetricError.
        """
        feed = self._samples.read(0)
        size, self._size = self._size, 1
        outputs = self._original(feed)
        self._record(outputs, feed, 0, Spill())
        if self._metric is not None and self._metric.truth == "classes" and self._truths is not None:
            rows = len(self._truths) // self._samples.count
            answer = Answer(outputs=apart(outputs, rows)[0])
            for label in dict.fromkeys(self._truths):
                self._metric.record(answer, label)
        self._size = size

    def _batch(self) -> int:
        """How many samples to run at once: one where the metric could not tell the answers of several apart."""
        size = self._samples.batch()
        if size == 1 or self._metric is None:
            return size
        if self._metric.alone:
            return 1
        feed = next(self._samples.batches(size))
        rows = min(size, self._samples.count)
        return size if all(array.shape[:1] == (rows,) for array in self._original(feed).values()) else 1

    def _reference(self, number: int, feed: Feed, first: int) -> _Kept:
        """What the original answers to batch `number`, which begins with sample `first`."""
        if number < len(self._kept):
            return self._kept[number]
        outputs = self._original(feed)
        name, reference = first_float(outputs)
        records = self._record(outputs, feed, first, self._spill)
        if not self._keep:
            return _Kept(name=name, reference=reference, records=records)
        kept = _Kept(
            name=name, reference=self._spill.keep(reference) if reference is not None else None, records=records
        )
        self._kept.append(kept)
        return kept

    def _record(self, outputs: Feed, feed: Feed, first: int, spill: Spill) -> list[Any]:
        """The metric's record of each answer to a feed that begins with sample `first`."""
        if self._metric is None or self._truths is None:
            return []
        if self._metric.keeps_outputs:
            outputs = {name: spill.keep(array) for name, array in outputs.items()}
        each = len(self._truths) // self._samples.count
        some = self._truths[first * each : (first + self._size) * each]
        size = image_size(feed, self._samples)
        return [
            self._metric.record(Answer(outputs=part, size=size), truth)
            for part, truth in zip(apart(outputs, len(some)), some, strict=True)
        ]

    def _judged(self, quality: Quality, metric: AnyMetric, before: list[Any], after: list[Any]) -> Quality:
        count, rounds = len(before), metric.resamples if len(before) > 1 else 0
        if self._figures is None:
            score = metric.scorer(before)
            self._figures = bootstrap.figure(score, count), bootstrap.distribution(score, count, rounds)
        score = metric.scorer(after)
        original, built = self._figures[0], bootstrap.figure(score, count)
        if np.isnan(original) or np.isnan(built):
            raise MetricError(
                f"{metric.name} of {quality.source} is no number", "do the labels hold anything to judge by?"
            )
        drops = metric.drop(self._figures[1], bootstrap.distribution(score, count, rounds))
        low, high = bootstrap.interval(drops) or (None, None)
        return replace(
            quality,
            metric=metric.name,
            unit=metric.unit,
            higher_is_better=metric.higher_is_better,
            original=original,
            built=built,
            drop=float(metric.drop(np.array(original), np.array(built))),
            drop_low=low,
            drop_high=high,
        )


def apart(outputs: Feed, parts: int) -> list[Feed]:
    """The outputs of each of `parts` rows, first axis kept with length 1.

    Raises:
        MetricError: an output has another number of rows.
    """
    if parts == 1:
        return [outputs]
    for name, array in outputs.items():
        if array.shape[:1] != (parts,):
            raise MetricError(
                f"{name} is {shape_words(array)}, which are not the answers to {parts} labelled rows",
                "export the model with a batch of 1",
            )
    return [{name: array[row : row + 1] for name, array in outputs.items()} for row in range(parts)]


def metric_for(
    original: Model, metric: str | None, *, decode: str | None, annotations: bool, labels: Path | None
) -> AnyMetric | None:
    """The metric that was asked for, None where none was.

    Args:
        annotations: whether there are any.
        labels: the labels file, which for text holds characters.

    Raises:
        UsageError, LabelsError, MetricError: there is no such metric, or it lacks what it needs.
    """
    characters = read_characters(labels) if labels is not None else None
    asked = resolve(metric, decode=decode, classes=characters, metadata=original.ir.metadata_props)
    wants = asked is not None and asked.truth in ("boxes", "any")
    if annotations and not wants:
        judges = f"--metric {metric} judges none" if metric is not None else "no --metric judges them"
        raise UsageError(f"--annotations gives boxes, and {judges}", "add --metric map50 or map")
    if asked is not None and asked.truth == "boxes" and not annotations:
        raise LabelsError(
            f"--metric {metric} needs boxes to judge by",
            "add --annotations with a COCO JSON file or a folder of YOLO .txt files",
        )
    return asked


def judge_for(
    session: Session, judged: Samples | None, asked: AnyMetric | None, outputs: Feed, *, keep: bool
) -> Judge | None:
    """What holds candidates against the original; a metric that does not fit is refused before anything is built."""
    if judged is None:
        return None
    judge = Judge(session.run, judged, asked or default(judged, outputs), keep=keep)
    judge.check()
    return judge
