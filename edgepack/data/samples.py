"""Samples: checked feeds for a model, read one at a time when asked for (data/reading.py makes them of files)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from edgepack.data.preprocess import Spec

Feed = dict[str, np.ndarray]
# Numbers in the inputs of so many samples that means and ranges of channels no longer move.
_VALUES = 4_000_000


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """What is to be found in one image: `boxes` [n, 4] are x0, y0, x1, y1 in pixels of the model's input.

    `classes` [n] count from 0; `ids` [n] are the numbers that the annotations give them. A `crowd` [n] need not be
    found.
    """

    boxes: np.ndarray
    classes: np.ndarray
    ids: np.ndarray
    crowd: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Feeds for a model, read when asked for.

    `read(i)` gives sample i as arrays that fit the model's inputs, batch axis included. `digest(i)` hashes what
    the sample was before preprocessing, so that the same image is found again under another name. `labels` hold
    one a row: class numbers [n], texts [n], or class maps [n, height, width].
    """

    source: str
    count: int
    read: Callable[[int], Feed] = field(repr=False)
    digest: Callable[[int], str] = field(repr=False)
    labels: np.ndarray | None = None
    # What is to be found in each sample, where annotations were given.
    boxes: tuple[Boxes, ...] | None = None
    # The file of each sample within a folder.
    names: tuple[str, ...] | None = None
    # Whether feeds may be joined along their first axis: each is one row, and the model takes any number of rows.
    stackable: bool = False
    # Whether they are the steps of sequences, with the float model's states, zero where a sequence begins.
    in_order: bool = False
    # Where images are the input: how they became tensors, which input they feed, and the pixels of sample i.
    spec: Spec | None = None
    pixels: Callable[[int], np.ndarray] | None = field(default=None, repr=False)
    # Where the samples stood in the source, if these are some of them.
    places: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Feed]:
        return (self.read(index) for index in range(self.count))

    def place(self, index: int) -> int:
        """Where in the source a sample stands."""
        return index if self.places is None else self.places[index]

    def first(self, count: int) -> list[Feed]:
        return [self.read(index) for index in range(min(count, self.count))]

    def batch(self) -> int:
        """How many samples to join in a feed: up to 16, fewer where samples are large, one where they cannot be."""
        if not self.stackable:
            return 1
        size = sum(array.nbytes for array in self.read(0).values())
        return max(1, min(16, 1_000_000 // max(size, 1)))

    def batches(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[Feed]:
        """Feeds of up to `size` samples, joined along the first axis; of those from `start` to before `stop`."""
        stop = self.count if stop is None else min(stop, self.count)
        for begin in range(start, stop, size):
            feeds = [self.read(index) for index in range(begin, min(begin + size, stop))]
            yield (
                feeds[0]
                if len(feeds) == 1
                else {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}
            )


def spread(count: int, wanted: int) -> list[int]:
    """Up to `wanted` places of so many samples, far apart: sets are often sorted by class."""
    return sorted({int(place) for place in np.linspace(0, count - 1, min(wanted, count))})


def enough(samples: Samples, most: int, least: int = 8) -> int:
    """How many of the samples settle a channel's range or mean: `most`, fewer where each is large."""
    return min(max(_VALUES // numbers(samples), least), most, samples.count)


def numbers(samples: Samples) -> int:
    """How many numbers a sample holds."""
    return max(sum(array.size for array in samples.read(0).values()), 1)


def subset(samples: Samples, places: Sequence[int]) -> Samples:
    """The samples at `places`, in that order."""
    pixels, labels = samples.pixels, samples.labels
    if labels is not None and samples.count:
        rows = labels.reshape(samples.count, -1, *labels.shape[1:])
        labels = rows[list(places)].reshape(-1, *labels.shape[1:])
    return replace(
        samples,
        count=len(places),
        read=lambda index: samples.read(places[index]),
        digest=lambda index: samples.digest(places[index]),
        labels=labels,
        boxes=tuple(samples.boxes[place] for place in places) if samples.boxes is not None else None,
        names=tuple(samples.names[place] for place in places) if samples.names is not None else None,
        in_order=False,
        pixels=(lambda index: pixels(places[index])) if pixels is not None else None,
        places=tuple(samples.place(place) for place in places),
    )


def digest(feed: Feed) -> str:
    digest = hashlib.sha256()
    for name in sorted(feed):
        array = feed[name]
        digest.update(f"{name}{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
