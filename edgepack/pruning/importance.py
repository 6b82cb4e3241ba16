"""In which order a group's channels go, and what the layers behind it become.

- `l1`, `l2`: by the norms of the filters that make a channel.
- `taylor`: by gradients (pruning/taylor.py).
- `second-order`: by how much the output of the layers that read it changes if the channel goes and the weights of all
  others make up for it as well as they can (Hassibi & Stork, "Optimal Brain Surgeon", 1992, with a channel's columns in
  place of one weight, as in Kurtić et al., "ZipLM", 2023).

Whatever the order, the weights that remain are the least-squares ones. Relative errors are of the layers' outputs, so
that groups, and importances, can be put side by side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from edgepack.model import Model, constant
from edgepack.passes.round_weights import damp
from edgepack.pruning.consumers import Watch
from edgepack.pruning.groups import Dependencies, Group, weight_axes
from edgepack.pruning.rules import name, read

NAMES = ("second-order", "taylor", "l2", "l1")
_RIDGE = 1e-2
# A group is emptied in so many steps; the channels of one step are nearly independent of each other.
_STEPS = 128
_ALIKE = 0.25


@dataclass(frozen=True, kw_only=True)
class Level:
    """A group with fewer channels: the units that go, the error they cause, and the layers behind refitted.

    `error` is the squared error of the consumers' outputs as a share of their variance. `weights` and `biases` are by
    consumer, for all its columns, those that go being zero.
    """

    gone: np.ndarray
    error: float
    weights: Mapping[str, np.ndarray] = field(repr=False)
    shifts: Mapping[str, np.ndarray] = field(repr=False)


class _Reader:
    """One consumer while channels go: H⁻¹ and weights, both of what remains."""

    def __init__(self, watch: Watch, units: np.ndarray) -> None:
        self.consumer = watch.consumer
        self.mean = watch.moments.mean
        covariance = watch.moments.covariance
        second = watch.moments.second(centred=self.consumer.biased)
        self.before = self.consumer.seen
        self.weight = self.before.copy()
        signal = float(np.einsum("gok,gkl,gol->", self.before, covariance, self.before, optimize=True))
        self.scale = 1.0 / signal if signal > 0 else 0.0
        self.inverse = np.linalg.inv(damp(second, _RIDGE))
        place: dict[int, list[int]] = {int(unit): [] for unit in units}
        for column, unit in enumerate(self.consumer.column_unit):
            if int(unit) in place:
                place[int(unit)].append(column)
        self.columns = [np.array(place[int(unit)], np.intp) for unit in units]

    def scores(self, left: np.ndarray) -> np.ndarray:
        """The error that each of the units (by place) would add if it went alone."""
        result = np.zeros(len(left))
        widths = np.array([len(self.columns[place]) for place in left])
        for width in np.unique(widths):
            some = np.flatnonzero(widths == width)
            if not width:
                continue
            columns = np.stack([self.columns[place] for place in left[some]])  # [n, s]
            weight = self.weight[:, :, columns]  # [G, O, n, s]
            if width == 1:
                diagonal = np.einsum("gkk->gk", self.inverse)[:, columns[:, 0]]
                cost = np.square(weight[..., 0]).sum(axis=1) / np.maximum(diagonal, 1e-300)
            else:
                blocks = self.inverse[:, columns[:, :, None], columns[:, None, :]]  # [G, n, s, s]
                moved = np.linalg.solve(blocks, weight.transpose(0, 2, 3, 1))
                cost = np.einsum("gnso,gons->gn", moved, weight)
            result[some] = cost.sum(axis=0)
        return result * self.scale

    def alike(self, one: int, others: Sequence[int]) -> bool:
        """Whether the unit goes with one of the others so closely that they should not go in one step."""
        return any(self._likeness(self.columns[one], self.columns[other]) > _ALIKE for other in others)

    def _likeness(self, a: np.ndarray, b: np.ndarray) -> float:
        if not len(a) or not len(b):
            return 0.0
        between = np.square(self.inverse[:, a[:, None], b[None, :]]).sum()
        own = [np.square(self.inverse[:, c[:, None], c[None, :]]).sum() for c in (a, b)]
        return float(between / max(np.sqrt(own[0] * own[1]), 1e-300))

    def remove(self, places: Sequence[int]) -> float:
        """Let the units go, and the others make up for it; returns the error that this adds."""
        gone = np.concatenate([self.columns[place] for place in places])
        if not len(gone):
            return 0.0
        block = self.inverse[:, gone[:, None], gone[None, :]]
        rows = self.inverse[:, gone, :]
        weight = self.weight[:, :, gone]
        moved = np.linalg.solve(block, weight.transpose(0, 2, 1))  # [G, s, O]
        error = float(np.einsum("gso,gos->", moved, weight))
        self.weight -= moved.transpose(0, 2, 1) @ rows
        self.inverse -= rows.transpose(0, 2, 1) @ np.linalg.solve(block, rows)
        self.weight[:, :, gone] = 0.0
        self.inverse[:, gone, :] = self.inverse[:, :, gone] = 0.0
        self.inverse[:, gone, gone] = 1.0
        return error * self.scale

    def answer(self) -> tuple[np.ndarray, np.ndarray]:
        """The weights [G, O, K], and what is to be added to the biases [G, O]."""
        consumer = self.consumer
        if not consumer.biased:
            return consumer.unseen(self.weight).astype(np.float32), np.zeros(consumer.matrix.shape[:2])
        lost = np.einsum("gok,gk->go", self.before - self.weight, self.mean)
        lost = lost.reshape(*consumer.matrix.shape[:2], -1).sum(axis=2)
        return consumer.unseen(self.weight).astype(np.float32), lost


def levels(group: Group, watches: Sequence[Watch], kept: Sequence[int], order: np.ndarray | None = None) -> list[Level]:
    """The group with each of `kept` channels left, most first.

    Args:
        order: units in the order in which they go; None: the second-order one.
    """
    readers = [_Reader(watch, group.units) for watch in watches]
    left = np.arange(group.width)
    gone: list[int] = []
    error, found = 0.0, []
    place = {int(unit): number for number, unit in enumerate(group.units)}
    given = None if order is None else [place[int(unit)] for unit in order]
    for count in kept:
        while len(left) > count:
            most = min(max(1, group.width // _STEPS), len(left) - count)
            if given is not None:
                chosen = given[len(gone) : len(gone) + len(left) - count]
            else:
                scores = sum((reader.scores(left) for reader in readers), np.zeros(len(left)))
                chosen = _independent(left[np.argsort(scores, kind="stable")], readers, most)
            error += sum(reader.remove(chosen) for reader in readers)
            gone += chosen
            left = np.setdiff1d(left, chosen)
        answers = {reader.consumer.name: reader.answer() for reader in readers if not reader.consumer.shared}
        found.append(
            Level(
                gone=group.units[np.array(gone, np.intp)],
                error=error,
                weights={one: answer[0] for one, answer in answers.items()},
                shifts={one: answer[1] for one, answer in answers.items()},
            )
        )
    return found


def _independent(ranked: np.ndarray, readers: Sequence[_Reader], most: int) -> list[int]:
    """Up to `most` of the units, from the first on, that do not stand in for each other."""
    chosen: list[int] = []
    for place in ranked[: 4 * most]:
        if len(chosen) == most:
            break
        if not any(reader.alike(int(place), chosen) for reader in readers):
            chosen.append(int(place))
    return chosen


def by_norm(model: Model, found: Dependencies, group: Group, power: int) -> np.ndarray:
    """The group's units, those with the smallest filters first; a norm counts as a share of its layer's mean."""
    total = np.zeros(group.width)
    place = {int(unit): number for number, unit in enumerate(group.units)}
    for node in model.ir.graph:
        if name(node.outputs[0]) in group.producers:
            total += _norms(node, found, place, power)
    return group.units[np.argsort(total, kind="stable")]


def _norms(node: ir.Node, found: Dependencies, place: Mapping[int, int], power: int) -> np.ndarray:
    axes, weight = weight_axes(node, found.shapes), constant(node.inputs[1])
    result = np.zeros(len(place))
    if axes is None or weight is None:
        return result
    rows = np.moveaxis(weight.astype(np.float64), axes[0], 0).reshape(weight.shape[axes[0]], -1)
    sums = (np.abs(rows) ** power).sum(axis=1)
    for unit, value in zip(found.unit[read(node, 1), axes[0]], sums, strict=True):
        if int(unit) in place:
            result[place[int(unit)]] += value
    result = result ** (1.0 / power)
    return np.asarray(result / max(float(result.mean()), 1e-300))
