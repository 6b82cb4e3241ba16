"""How far a tensor reaches: its extremes, and a histogram whose range grows with what it sees."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

BINS = 4096
# Elements of one array that the histogram looks at, and of all arrays together; the extremes see all.
_COUNTED = 65536
_ENOUGH = 1_500_000


@dataclass(kw_only=True)
class Extent:
    """An observer: (low, high) of all elements, and counts of a regular share of them.

    `counts` has BINS bins over [−reach, reach]; reach is a power of two, so that doubling it merges bins in pairs
    and loses nothing. `samples` is how many arrays are to come.
    """

    tensor: str
    samples: int = 1
    low: float = np.inf
    high: float = -np.inf
    reach: float = 0.0
    counts: np.ndarray = field(default_factory=lambda: np.zeros(BINS))

    @property
    def nbytes(self) -> int:
        return self.counts.nbytes

    def update(self, array: np.ndarray) -> None:
        low, high = float(array.min()), float(array.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise FloatingPointError
        self.low, self.high = min(self.low, low), max(self.high, high)
        flat = array.reshape(-1)
        most = min(_COUNTED, max(_ENOUGH // self.samples, BINS))
        # An odd step meets every channel.
        self.count(flat[:: (flat.size // most) | 1] if flat.size > most else flat)

    def count(self, values: np.ndarray) -> None:
        largest = max(-self.low, self.high, 2.0**-126)
        if self.reach == 0.0:
            self.reach = 2.0 ** np.ceil(np.log2(largest))
        while self.reach < largest:
            self.reach *= 2
            merged = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.zeros(BINS)
            self.counts[BINS // 4 : 3 * BINS // 4] = merged
        factor = BINS / 2 / self.reach
        if not 2.0**-100 < factor < 2.0**100:  # beyond what float32 can multiply with
            values = values.astype(np.float64)
        places = (values * values.dtype.type(factor) + values.dtype.type(BINS / 2)).astype(np.intp)
        self.counts += np.bincount(np.minimum(places, BINS - 1), minlength=BINS)

    @property
    def centers(self) -> np.ndarray:
        """The values that the bins stand for."""
        return ((np.arange(BINS) + 0.5) / (BINS / 2) - 1) * self.reach

    @property
    def mean(self) -> float:
        """The mean of what was counted, to a bin's width."""
        return float(self.counts @ self.centers) / max(float(self.counts.sum()), 1.0)

    @property
    def deviation(self) -> float:
        """The standard deviation of what was counted, to a bin's width."""
        total = max(float(self.counts.sum()), 1.0)
        return float(np.sqrt(self.counts @ np.square(self.centers - self.mean) / total))

    def joined(self, other: Extent) -> Extent:
        """What one observer of both tensors would have seen."""
        both = Extent(tensor=self.tensor, low=min(self.low, other.low), high=max(self.high, other.high))
        both.reach = max(self.reach, other.reach)
        for part in (self, other):
            if part.counts.any():
                both.counts += np.histogram(part.centers, BINS, (-both.reach, both.reach), weights=part.counts)[0]
        return both
