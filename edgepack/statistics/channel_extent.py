"""How far each channel of a tensor reaches, and its power."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(kw_only=True)
class ChannelExtent:
    """An observer: `low`, `high` and mean square (`power`) of each channel along `axis`, float64 [channels]."""

    tensor: str
    axis: int
    low: np.ndarray | float = np.inf
    high: np.ndarray | float = -np.inf
    squares: np.ndarray | float = 0.0
    seen: int = 0
    nbytes: int = 0

    def update(self, array: np.ndarray) -> None:
        axis = self.axis % array.ndim
        others = tuple(i for i in range(array.ndim) if i != axis)
        low, high = array.min(axis=others).astype(np.float64), array.max(axis=others).astype(np.float64)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise FloatingPointError
        self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)
        self.squares = self.squares + np.square(array, dtype=np.float64).sum(axis=others)
        self.seen += array.size // array.shape[axis]

    @property
    def power(self) -> np.ndarray:
        return np.asarray(self.squares / max(self.seen, 1))
