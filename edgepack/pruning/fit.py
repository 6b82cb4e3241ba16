"""Least squares on second moments: weights that reproduce a layer's output from what its input has become.

Everything is centred: rows are shifted by the first batch's mean before they are multiplied in float32, and summed in
float64, or in float32 where there are so many columns that memory counts. The ridge pulls towards weights that are
given, not towards zero, so that where there are few rows a layer stays as it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from edgepack.passes.round_weights import damp


class Moments:
    """Running moments of rows x [G, K] and, where wanted, of what they should become, y [G, O]."""

    def __init__(self, groups: int, columns: int, outputs: int = 0, dtype: type[np.floating] = np.float64) -> None:
        self.rows = 0
        self._xx = np.zeros((groups, columns, columns), dtype)
        self._xy = np.zeros((groups, columns, outputs))
        self._yy = np.zeros((groups, outputs))
        self._x, self._y = np.zeros((groups, columns)), np.zeros((groups, outputs))
        self._shift: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def nbytes(self) -> int:
        return self._xx.nbytes + self._xy.nbytes

    def add(self, x: np.ndarray, y: np.ndarray | None = None) -> None:
        """Rows: float32 [rows, G, K] and [rows, G, O]."""
        if y is None:
            y = np.zeros((*x.shape[:2], 0), np.float32)
        if self._shift is None:
            self._shift = x.mean(axis=0), y.mean(axis=0)
        a = np.ascontiguousarray((x - self._shift[0]).transpose(1, 0, 2), np.float32)
        b = np.ascontiguousarray((y - self._shift[1]).transpose(1, 0, 2), np.float32)
        turned = a.transpose(0, 2, 1)
        self._xx += turned @ a
        self._xy += turned @ b
        self._yy += np.einsum("gro,gro->go", b, b, dtype=np.float64)
        self._x += a.sum(axis=1, dtype=np.float64)
        self._y += b.sum(axis=1, dtype=np.float64)
        self.rows += len(x)
        for known in ("covariance", "cross"):
            self.__dict__.pop(known, None)

    @property
    def mean(self) -> np.ndarray:
        """The mean row, [G, K]."""
        assert self._shift is not None
        return np.asarray(self._shift[0] + self._x / self.rows)

    @property
    def target_mean(self) -> np.ndarray:
        assert self._shift is not None
        return np.asarray(self._shift[1] + self._y / self.rows)

    @cached_property
    def covariance(self) -> np.ndarray:
        """[G, K, K]."""
        mean = (self._x / self.rows).astype(self._xx.dtype)
        result = np.asarray(self._xx / self.rows)
        result -= mean[:, :, None] * mean[:, None, :]
        return result

    @cached_property
    def cross(self) -> np.ndarray:
        """Covariance of x with y, [G, K, O]."""
        return np.asarray(self._xy / self.rows - (self._x / self.rows)[:, :, None] * (self._y / self.rows)[:, None, :])

    @property
    def power(self) -> np.ndarray:
        """Variance of y, [G, O]."""
        return np.asarray(self._yy / self.rows - np.square(self._y / self.rows))

    def joined(self, other: Moments) -> Moments:
        """Of both sets of rows."""
        groups, columns, outputs = self._xy.shape
        both = Moments(groups, columns, outputs, self._xx.dtype.type)
        both.rows = self.rows + other.rows
        shares = [part.rows / both.rows for part in (self, other)]
        means = [(part.mean, part.target_mean) for part in (self, other)]
        x_mean, y_mean = (shares[0] * means[0][side] + shares[1] * means[1][side] for side in (0, 1))
        both._shift = x_mean, y_mean
        for part, (x, y) in zip((self, other), means, strict=True):
            dx, dy = x - x_mean, y - y_mean
            narrow = dx.astype(self._xx.dtype)
            both._xx += part.rows * (part.covariance + narrow[:, :, None] * narrow[:, None, :])
            both._xy += part.rows * (part.cross + dx[:, :, None] * dy[:, None, :])
            both._yy += part.rows * (part.power + np.square(dy))
        return both

    def second(self, *, centred: bool) -> np.ndarray:
        """Second moments about the mean, or about zero, [G, K, K]."""
        return self.covariance if centred else self.covariance + self.mean[:, :, None] * self.mean[:, None, :]

    def product(self, *, centred: bool) -> np.ndarray:
        """The same of x with y, [G, K, O]."""
        return self.cross if centred else self.cross + self.mean[:, :, None] * self.target_mean[:, None, :]

    def error(self, weight: np.ndarray, bias: np.ndarray) -> float:
        """Mean square of weight · x + bias − y, summed over outputs; weight [G, O, K], bias [G, O]."""
        pulled = weight.astype(self._xx.dtype) @ self.covariance - 2 * self.cross.transpose(0, 2, 1)
        spread = np.einsum("gok,gok->", pulled, weight)
        offset = np.einsum("gok,gk->go", weight, self.mean) + bias - self.target_mean
        return float(spread + self.power.sum() + np.square(offset).sum())


@dataclass(frozen=True, kw_only=True)
class Solution:
    """Weights [G, O, K] and biases [G, O]; `ridge` as a share of the mean variance of a column, inf: unchanged."""

    weight: np.ndarray
    bias: np.ndarray
    ridge: float


def refit(moments: Moments, prior: np.ndarray, ridge: float, *, biased: bool = True) -> Solution:
    """The weights that reproduce y from x with the least squared error, near the prior ones, [G, O, K].

    Minimizes E‖W·x + b − y‖² + ridge · mean variance · ‖W − prior‖²; b is zero where there is no place for it.
    """
    weight = prior
    if np.isfinite(ridge):
        second = moments.second(centred=biased)
        missing = moments.product(centred=biased) - second @ prior.transpose(0, 2, 1).astype(second.dtype)
        weight = prior + np.linalg.solve(damp(second, ridge), missing.astype(second.dtype)).transpose(0, 2, 1)
    if not biased:
        return Solution(weight=weight, bias=np.zeros(weight.shape[:2]), ridge=ridge)
    bias = moments.target_mean - np.einsum("gok,gk->go", weight, moments.mean)
    return Solution(weight=weight, bias=bias, ridge=ridge)


def refit_checked(
    moments: Moments, held: Moments, prior: np.ndarray, ridges: tuple[float, ...], *, biased: bool = True
) -> Solution:
    """The refit whose ridge errs least on moments of rows not fitted to, fitted to both in the end."""
    tried = [refit(moments, prior, ridge, biased=biased) for ridge in (*ridges, np.inf)]
    errors = [held.error(solution.weight, solution.bias) for solution in tried]
    return refit(moments.joined(held), prior, tried[int(np.argmin(errors))].ridge, biased=biased)
