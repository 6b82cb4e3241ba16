"""One evaluation set as two: search on one part, report on the other."""

from __future__ import annotations

import hashlib
from collections import defaultdict

from edgepack.data.samples import Samples, subset
from edgepack.errors import NoSamples


def split(samples: Samples, seed: int = 0) -> tuple[Samples, Samples]:
    """Two halves, (search, report); report is the larger one where they cannot be equal.

    1. Within a class (where labels are class numbers) samples are ordered by a hash of seed and content, and the
       first half is searched on: samples that come later move at most one or two others.
    2. What is left over of odd classes is pooled and halved in the same way, so that both parts have all sizes
       of class even where each class has one sample.
    3. Equal samples stay on one side.

    Raises:
        NoSamples: there are fewer than two different ones.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for index in range(samples.count):
        groups[samples.digest(index)].append(index)
    if len(groups) < 2:
        raise NoSamples(
            f"{samples.source} holds {len(groups)} different sample, which cannot be split",
            "one part is searched on and the other reports: give hundreds",
        )
    classes: dict[int, list[str]] = defaultdict(list)
    for digest, places in groups.items():
        classes[_class(samples, places[0])].append(digest)
    searched: list[str] = []
    odd: list[str] = []
    for digests in classes.values():
        ordered = sorted(digests, key=lambda digest: _rank(digest, seed))
        half = len(ordered) // 2
        searched += ordered[:half]
        odd += ordered[half : len(ordered) - half]
    odd.sort(key=lambda digest: _rank(digest, seed))
    searched += odd[: len(odd) // 2]
    search = sorted(place for digest in searched for place in groups[digest])
    report = sorted(set(range(samples.count)) - set(search))
    if len(search) > len(report):  # only where one sample has many copies
        search, report = report, search
    return subset(samples, search), subset(samples, report)


def _class(samples: Samples, index: int) -> int:
    labels = samples.labels
    if labels is None or labels.shape != (samples.count,) or labels.dtype.kind not in "iu":
        return 0
    return int(labels[index])


def _rank(digest: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{digest}".encode()).hexdigest()
