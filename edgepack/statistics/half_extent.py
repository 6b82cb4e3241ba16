"""What float16 does to a tensor: how far it reaches, and what rounding takes from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Elements of one array that rounding is tried on; the extremes see all.
_COUNTED = 65536


@dataclass(kw_only=True)
class HalfExtent:
    """An observer: the extremes of a tensor, the energy that rounding to float16 takes from it, and the largest error
    of one element as a share of itself. `elements` are those of the latest array."""

    tensor: str
    high: float = -np.inf
    largest: float = 0.0
    energy: float = 0.0
    lost: float = 0.0
    relative: float = 0.0
    elements: int = 0
    nbytes: int = 0

    def update(self, array: np.ndarray) -> None:
        """Infinities, as masks hold them, are taken as they come."""
        if np.isnan(array.min()):
            raise FloatingPointError
        self.elements = array.size
        self.high = max(self.high, float(array.max()))
        self.largest = max(self.largest, float(np.abs(array).max()))
        flat = array.reshape(-1)
        if flat.size > _COUNTED:
            flat = flat[:: (flat.size // _COUNTED) | 1]  # an odd step meets every channel
        exact = flat[np.isfinite(flat) & (flat != 0)].astype(np.float64)
        if not exact.size:
            return
        with np.errstate(over="ignore", invalid="ignore"):
            error = np.abs(exact - exact.astype(np.float16))
            self.energy += float(np.sum(exact**2))
            self.lost += float(np.sum(error**2))
            self.relative = max(self.relative, float(np.max(error / np.abs(exact))))
