"""How far each channel of a tensor reaches, sample by sample, and its power."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

# Parts of one array whose extremes are kept apart.
_PARTS = 16


@dataclass(kw_only=True)
class ChannelExtent:
    """An observer of a tensor whose first axis counts samples: extremes of each channel along `axis` in each sample.

    `seen` counts the elements of a channel.
    """

    tensor: str
    axis: int
    lows: list[np.ndarray] = field(default_factory=list)
    highs: list[np.ndarray] = field(default_factory=list)
    squares: np.ndarray | float = 0.0
    seen: int = 0
    nbytes: int = 0

    def update(self, array: np.ndarray) -> None:
        axis = self.axis % array.ndim
        others = tuple(i for i in range(array.ndim) if i != axis)
        for part in np.array_split(array, min(len(array), _PARTS)) if axis else [array]:
            low, high = part.min(axis=others), part.max(axis=others)
            if not (np.isfinite(low).all() and np.isfinite(high).all()):
                raise FloatingPointError
            self.lows.append(low)
            self.highs.append(high)
        self.squares = self.squares + np.square(array, dtype=np.float64).sum(axis=others)
        self.seen += array.size // array.shape[axis]

    @property
    def low(self) -> np.ndarray:
        """The lowest value of each channel in each sample, float64 [samples, channels]."""
        return np.stack(self.lows).astype(np.float64)

    @property
    def high(self) -> np.ndarray:
        return np.stack(self.highs).astype(np.float64)

    @property
    def power(self) -> np.ndarray:
        """The mean square of each channel."""
        return np.asarray(self.squares / max(self.seen, 1))

    @property
    def places(self) -> float:
        """How many elements a channel has in a sample."""
        return self.seen / max(len(self.lows), 1)
