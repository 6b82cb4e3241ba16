"""The noise that a set of layers answers with when the channels they read are scaled: what equalization minimizes.

Three parts, relative to the power of each layer's output:

- what it reads is rounded, with one step for all channels of a tensor;
- what it reads is clipped where it goes beyond the range, so scales and range are fitted to some of the samples
  and this is measured on the others: the more channels reach the end of the range, the more of them go beyond it;
- its weights are rounded, with one step for all channels that an output reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgepack.model import constant
from edgepack.passes.scale_groups import Port
from edgepack.quantization.layer import to_matrix
from edgepack.statistics.channel_extent import ChannelExtent

# Rounding that minds second moments leaves so much of the noise of nearest rounding (power).
WEIGHT_NOISE = 1.0
# No scale is further than this from that of the widest channel.
_LARGEST_FACTOR = 64.0
_FOLDS = 4
_POWERS = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """A quantized tensor: extremes [samples, channels] around zero, and the share of a channel's elements that
    are clipped where its extreme is; `at` is each channel's place in the vector of scales (the last one: fixed)."""

    low: np.ndarray
    high: np.ndarray
    at: np.ndarray
    share: float

    @classmethod
    def of(cls, observed: ChannelExtent, at: np.ndarray) -> Tensor:
        return cls(
            low=np.minimum(observed.low, 0.0),
            high=np.maximum(observed.high, 0.0),
            at=at,
            # Around an extreme lies a peak some elements wide, whose mean square is a third of its top's.
            share=observed.places**-0.5 / 3,
        )

    def parts(self, fold: int, folds: int) -> tuple[Tensor, Tensor]:
        """Without every so-manieth sample, and those alone; all of them twice where there are too few."""
        held = np.arange(len(self.low)) % folds == fold
        if held.all() or not held.any():
            return self, self
        kept, out = (replace(self, low=self.low[rows], high=self.high[rows]) for rows in (~held, held))
        return kept, out

    def ends(self, scales: np.ndarray) -> tuple[float, float]:
        s = scales[self.at]
        return float((self.low / s).min()), float((self.high / s).max())

    def clipped(self, scales: np.ndarray, ends: tuple[float, float]) -> np.ndarray:
        """The mean square of what of each channel lies beyond the ends."""
        s = scales[self.at]
        beyond = np.maximum(self.high / s - ends[1], 0.0) + np.maximum(ends[0] - self.low / s, 0.0)
        squares: np.ndarray = self.share * np.mean((beyond * s) ** 2, axis=0)
        return squares


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A layer in G groups of C channels: `largest` [G, O, C] and `energy` [G, C] of its weights over the `taps`, the
    `power` [G, C] of its input, and where its channels are in the vector of scales, `at` [G, C].

    `tensors` are those whose noise it reads.
    """

    largest: np.ndarray
    energy: np.ndarray
    power: np.ndarray
    taps: int
    at: np.ndarray
    signal: float
    tensors: tuple[int, ...]

    @classmethod
    def of(cls, port: Port, power: np.ndarray, position: np.ndarray, tensors: tuple[int, ...]) -> Reader:
        weight = constant(port.node.inputs[1])
        assert weight is not None
        matrix = to_matrix(port.node, weight).astype(np.float64)
        groups = matrix.shape[0]
        taps = matrix.reshape(*matrix.shape[:2], port.classes.size // groups, -1)
        energy, powers = (taps**2).sum(axis=(1, 3)), power.reshape(groups, -1)
        signal = float((energy * powers).sum())
        return cls(
            largest=np.abs(taps).max(axis=3),
            energy=energy,
            power=powers,
            taps=taps.shape[3],
            at=position[port.classes].reshape(groups, -1),
            signal=signal if signal > 0 else 1.0,
            tensors=tensors,
        )

    def noise(self, scales: np.ndarray, step: float, clipped: np.ndarray) -> float:
        """
        Args:
            step: squared, of all its tensors together.
            clipped: mean square of what they lose, by place in `scales`.
        """
        s = scales[self.at]
        # A channel below the step is lost, and no more than that.
        read = np.minimum(s**2 * step / 12, self.power) + clipped[self.at]
        width = (self.largest * s[:, None, :]).max(axis=2) / 127
        rounded = (width**2).sum(axis=1) / 12 * self.taps * (self.power / s**2).sum(axis=1)
        return float(((read * self.energy).sum() + WEIGHT_NOISE * rounded.sum()) / self.signal)


@dataclass(frozen=True, kw_only=True)
class Noise:
    """The noise of all readers together, as a function of `count` scales."""

    count: int
    tensors: tuple[Tensor, ...]
    readers: tuple[Reader, ...]

    def __call__(self, logs: np.ndarray, unseen: Sequence[Tensor]) -> float:
        """
        Args:
            logs: logarithms of the scales.
            unseen: the tensors in other samples than those that decide the ranges.
        """
        scales = np.append(np.exp(logs), 1.0)
        ends = [tensor.ends(scales) for tensor in self.tensors]
        squares = np.array([((high - low) / 255) ** 2 for low, high in ends])
        clipped = np.zeros((len(ends), scales.size))
        for row, tensor, end in zip(clipped, unseen, ends, strict=True):
            np.maximum.at(row, tensor.at, tensor.clipped(scales, end))
        return sum(
            reader.noise(scales, float(squares[list(reader.tensors)].sum()), clipped[list(reader.tensors)].sum(axis=0))
            for reader in self.readers
        )

    def trials(self) -> list[np.ndarray]:
        """Scales to try, as logarithms, first none at all.

        As in SmoothQuant: powers of the ranges of channels over powers of the weights that they meet.
        """
        reach, weight = np.zeros(self.count + 1), np.zeros(self.count + 1)
        for tensor in self.tensors:
            np.maximum.at(reach, tensor.at, np.maximum(-tensor.low, tensor.high).max(axis=0))
        for reader in self.readers:
            np.maximum.at(weight, reader.at, reader.largest.max(axis=1))
        reach, weight = _bounded(reach[:-1]), _bounded(weight[:-1])
        powers = [(a, b) for a in _POWERS for b in sorted({0.0, a / 2, a, 1 - a}) if b <= a]
        return [np.zeros(self.count), *(a * reach - b * weight for a, b in powers)]

    def choose(self) -> tuple[np.ndarray, float, float]:
        """The best scales found (their logarithms), and the noise without and with them."""
        costs = np.zeros(len(self.trials()))
        for fold in range(_FOLDS):
            kept, out = zip(*(tensor.parts(fold, _FOLDS) for tensor in self.tensors), strict=True)
            fitted = replace(self, tensors=kept)
            costs += [fitted(trial, out) / _FOLDS for trial in fitted.trials()]
        best = int(np.argmin(costs))
        return self.trials()[best], float(costs[0]), float(costs[best])


def _bounded(sizes: np.ndarray) -> np.ndarray:
    """Logarithms, with the largest at 0; dead channels are treated like the largest."""
    top = sizes.max(initial=0.0)
    if top <= 0:
        return np.zeros(sizes.size)
    return np.log(np.where(sizes > 0, np.maximum(sizes / top, 1 / _LARGEST_FACTOR), 1.0))
