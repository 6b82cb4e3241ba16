"""map50, map: average precision of boxes as COCO computes it (Lin et al., 2014; pycocotools' COCOeval)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgepack.data.samples import Boxes
from edgepack.metrics.base import Answer, Metric, Scorer, Truth, percent
from edgepack.metrics.decode import Options
from edgepack.metrics.detections import Detections, detections

THRESHOLDS = {"map50": np.array([0.5]), "map": np.linspace(0.5, 0.95, 10)}
RECALLS = np.linspace(0, 1, 101)
MOST_A_CLASS = 100
# Weights of detections in memory at once.
_LARGEST_CHUNK = 2_000_000


@dataclass(frozen=True, kw_only=True)
class Matches:
    """What became of the detections in one image: `hit` and `ignored` [thresholds, n], `classes` and `scores` [n].

    `wanted` holds the class of each box that should be found; crowds need not be.
    """

    classes: np.ndarray
    scores: np.ndarray
    hit: np.ndarray
    ignored: np.ndarray
    wanted: np.ndarray


def average_precision(name: str, options: Options) -> Metric[Matches]:
    """Mean over classes (and IoU thresholds) of precision at 101 recalls; at most 100 boxes a class and image."""
    thresholds = THRESHOLDS[name]

    def record(answer: Answer, truth: Truth) -> Matches:
        assert isinstance(truth, Boxes)
        return match(detections(answer, options), truth, thresholds, ids=options.yes("ids"))

    return Metric(name=name, higher_is_better=True, truth="boxes", record=record, scorer=scorer)


def match(found: Detections, truth: Boxes, thresholds: np.ndarray, *, ids: bool = False) -> Matches:
    """Match one image's detections, best first, each to the free box of its class that it overlaps most.

    A detection that only meets a crowd is ignored: neither right nor wrong.
    """
    labels = truth.ids if ids else truth.classes
    order = np.lexsort((-found.scores, found.classes))
    classes = found.classes[order]
    starts = np.searchsorted(classes, classes)
    order = order[np.arange(len(order)) - starts < MOST_A_CLASS]
    boxes, classes = found.boxes[order], found.classes[order]
    hit = np.zeros((len(thresholds), len(order)), bool)
    ignored = np.zeros_like(hit)
    for number in np.intersect1d(labels, classes):
        mine, theirs = classes == number, labels == number
        hit[:, mine], ignored[:, mine] = _match_class(boxes[mine], truth.boxes[theirs], truth.crowd[theirs], thresholds)
    return Matches(classes=classes, scores=found.scores[order], hit=hit, ignored=ignored, wanted=labels[~truth.crowd])


def _match_class(
    found: np.ndarray, boxes: np.ndarray, crowd: np.ndarray, thresholds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Which detections hit, and which are ignored, both [thresholds, detections]."""
    hit = np.zeros((len(thresholds), len(found)), bool)
    ignored = np.zeros_like(hit)
    shares = overlaps(found, boxes, crowd)
    taken = np.zeros((len(thresholds), len(boxes)), bool)
    least = np.minimum(thresholds, 1 - 1e-10)
    levels = np.arange(len(thresholds))
    for place in np.flatnonzero((shares >= least[0]).any(axis=1)):
        able = (shares[place] >= least[:, None]) & ~taken
        # A crowd is matched only where no box of its own is free, and by any number of detections.
        for of_crowd in (False, True):
            open_ = np.where(able & (crowd == of_crowd), shares[place], -1.0)
            # The last of equals, as COCOeval has it.
            best = open_.shape[1] - 1 - open_[:, ::-1].argmax(axis=1)
            matched = (open_[levels, best] >= 0) & ~hit[:, place] & ~ignored[:, place]
            if of_crowd:
                ignored[:, place] |= matched
            else:
                hit[:, place] |= matched
                taken[levels[matched], best[matched]] = True
    return hit, ignored


def overlaps(found: np.ndarray, boxes: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """Intersection over union [found, boxes]; over the detection's own area where the box is a crowd."""
    sides = np.minimum(found[:, None, 2:], boxes[None, :, 2:]) - np.maximum(found[:, None, :2], boxes[None, :, :2])
    shared = np.clip(sides, 0, None).prod(axis=2)
    mine, theirs = ((part[:, 2] - part[:, 0]) * (part[:, 3] - part[:, 1]) for part in (found, boxes))
    whole = np.where(crowd[None], mine[:, None], mine[:, None] + theirs[None] - shared)
    shares: np.ndarray = np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)
    return shares


@dataclass(frozen=True, kw_only=True)
class _Class:
    """One class over all images, best detection first.

    `image` [n] is each detection's record, `counted` and `hits` [thresholds][…] the places of those not ignored
    and of the hits, `wanted` [records] the boxes to find.
    """

    image: np.ndarray
    counted: list[np.ndarray]
    hits: list[np.ndarray]
    wanted: np.ndarray


def scorer(records: Sequence[Matches]) -> Scorer:
    """Average precision as a function of how often each image counts; classes without a box do not count."""
    tables = _tables(records)

    def score(weights: np.ndarray) -> np.ndarray:
        total = np.zeros(len(weights))
        count = np.zeros(len(weights))
        for table in tables:
            size = max(1, _LARGEST_CHUNK // max(1, len(table.image)))
            for start in range(0, len(weights), size):
                precision, occurs = _class_precision(table, weights[start : start + size])
                total[start : start + size] += precision
                count[start : start + size] += occurs
        return percent(total, count)

    return score


def _tables(records: Sequence[Matches]) -> list[_Class]:
    image = np.repeat(np.arange(len(records)), [len(record.scores) for record in records])
    classes = np.concatenate([record.classes for record in records])
    scores = np.concatenate([record.scores for record in records])
    hit = np.concatenate([record.hit for record in records], axis=1)
    ignored = np.concatenate([record.ignored for record in records], axis=1)
    owner = np.repeat(np.arange(len(records)), [len(record.wanted) for record in records])
    wanted = np.concatenate([record.wanted for record in records])
    tables = []
    for number in np.unique(wanted):
        mine = np.flatnonzero(classes == number)
        mine = mine[np.argsort(-scores[mine], kind="stable")]
        tables.append(
            _Class(
                image=image[mine],
                counted=[~row for row in ignored[:, mine]],
                hits=[np.flatnonzero(row) for row in hit[:, mine]],
                wanted=np.bincount(owner[wanted == number], minlength=len(records)),
            )
        )
    return tables


def _class_precision(table: _Class, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean precision [resamples] over thresholds, 0 where the class does not occur, and whether it occurs.

    Only the places of hits matter: between two of them recall stands still and precision falls. A detection that
    counts several times has all its copies before the next, as equal images would have but for ties within one.
    """
    wanted = weights @ table.wanted
    occurs = wanted > 0
    total = np.zeros(len(weights))
    of_detection = weights[:, table.image]
    everything = np.cumsum(of_detection, axis=1)
    for counted, hits in zip(table.counted, table.hits, strict=True):
        if not len(hits):
            continue
        ranks = everything if counted.all() else np.cumsum(of_detection * counted, axis=1)
        right = np.cumsum(of_detection[:, hits], axis=1)
        precision = right / (ranks[:, hits] + np.spacing(1))
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        recall = np.divide(right, wanted[:, None], out=np.zeros_like(right), where=occurs[:, None])
        for row in np.flatnonzero(occurs):
            places = np.searchsorted(recall[row], RECALLS, side="left")
            reached = places < len(hits)
            total[row] += precision[row, places[reached]].sum() / len(RECALLS)
    return total / len(table.hits), occurs
