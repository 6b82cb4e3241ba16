"""Layers that sum over channels, seen as a matrix whose columns belong to channels, and the moments of their input."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from edgepack.model import Model, constant
from edgepack.pruning.fit import Moments
from edgepack.pruning.groups import Dependencies, weight_axes
from edgepack.pruning.rules import name, read
from edgepack.pruning.weights import bias_input, has_matrix
from edgepack.quantization.layer import patches, to_matrix

# Columns beyond which a layer is looked at through what each of its outputs takes from each channel; and, where that
# is no fewer, a kernel is cut into windows, which are taken to be alike and to have no part in each other's answers.
LARGEST = 2304
# Columns beyond which a layer is not looked into.
_MOST = 8192
_FEWEST_ROWS = 4096
# Multiplications that second moments of a layer of many columns may take, if there are two rows a column all the same.
_PRODUCTS = 1.5e12


@dataclass(frozen=True, kw_only=True)
class Consumer:
    """A weighted node. `matrix` is [G, O, K]; `taps` consecutive columns belong to a channel; `unit` says, by channel,
    which unit it goes with, −1 for none.

    A layer that is not `biased` has no place for a bias, and means count as signal; `shared` weights are other
    layers' too, and stay. `window` is how many of a channel's columns are taken at once; with `parts`,
    a channel's columns are what each output takes from it.
    """

    node: ir.Node
    matrix: np.ndarray
    taps: int
    unit: np.ndarray
    window: int
    parts: bool
    shared: bool
    biased: bool

    @property
    def name(self) -> str:
        return name(self.node.outputs[0])

    @property
    def approximate(self) -> bool:
        """Whether moments of its columns stand for those of a larger system."""
        return self.window < self.taps

    @property
    def columns(self) -> int:
        return len(self.unit) * (self.matrix.shape[1] if self.parts else self.window)

    def rows(self, found: np.ndarray) -> np.ndarray:
        """Patches [places, G, K] as rows of `seen`'s columns."""
        if self.parts:
            split = found.reshape(*found.shape[:2], len(self.unit), self.taps).transpose(1, 2, 0, 3)
            taken = split @ self._filters.transpose(0, 2, 3, 1).astype(np.float32)  # [G, channels, places, O]
            return np.asarray(taken.transpose(2, 0, 1, 3).reshape(*found.shape[:2], -1))
        return windows(found, self.taps, self.window)

    @property
    def _filters(self) -> np.ndarray:
        """The kernel that each output applies to each channel, [G, O, channels, taps]."""
        return self.matrix.reshape(*self.matrix.shape[:2], len(self.unit), self.taps)

    @property
    def seen(self) -> np.ndarray:
        """The matrix that `rows` are multiplied with, [G, O · windows, columns]."""
        groups, outputs, _ = self.matrix.shape
        if self.parts:
            return np.tile(np.eye(outputs), (groups, 1, len(self.unit)))
        split = self.matrix.reshape(groups, outputs, len(self.unit), -1, self.window)
        return np.asarray(split.transpose(0, 1, 3, 2, 4).reshape(groups, -1, self.columns))

    def unseen(self, seen: np.ndarray) -> np.ndarray:
        """The inverse of `seen`, [G, O, K]."""
        groups, outputs, _ = self.matrix.shape
        if self.parts:
            mixed = seen.reshape(groups, outputs, len(self.unit), outputs)
            return np.asarray(np.einsum("gocp,gpct->goct", mixed, self._filters).reshape(self.matrix.shape))
        split = seen.reshape(groups, outputs, -1, len(self.unit), self.window)
        return np.asarray(split.transpose(0, 1, 3, 2, 4).reshape(self.matrix.shape))

    @property
    def column_unit(self) -> np.ndarray:
        """The unit of each of `seen`'s columns."""
        return np.repeat(self.unit, self.columns // len(self.unit))


def windows(found: np.ndarray, taps: int, window: int) -> np.ndarray:
    """Patches [places, G, channels · taps] as [places · taps / window, G, channels · window]."""
    places, groups, _ = found.shape
    split = found.reshape(places, groups, -1, taps // window, window)
    return np.asarray(split.transpose(0, 3, 1, 2, 4).reshape(places * (taps // window), groups, -1))


def window_of(channels: int, taps: int) -> int:
    """The largest divisor of `taps` that makes at most LARGEST columns; 1 if there is none."""
    return max(size for size in range(1, taps + 1) if taps % size == 0 and (size == 1 or channels * size <= LARGEST))


def consumer(node: ir.Node, found: Dependencies) -> Consumer | None:
    """A weighted node as one; None where its weight is no matrix."""
    axes = weight_axes(node, found.shapes)
    weight = constant(node.inputs[1]) if axes is not None else None
    if axes is None or weight is None or not has_matrix(node):
        return None
    matrix = to_matrix(node, weight).astype(np.float64)
    unit = found.unit.get((read(node, 1), axes[1]), np.full(weight.shape[axes[1]], -1))
    if node.op_type == "ConvTranspose":
        unit = unit[: len(unit) // matrix.shape[0]]
    taps = matrix.shape[2] // len(unit)
    if taps == 1:
        taps, unit = _runs(unit)
    window = window_of(len(unit), taps)
    if len(unit) * window > _MOST:
        return None
    value = node.inputs[1]
    assert value is not None
    return Consumer(
        node=node, matrix=matrix, taps=taps, unit=unit, window=window,
        parts=window < taps and len(unit) * matrix.shape[1] <= LARGEST, shared=len(value.uses()) > 1,
        biased=bias_input(node) is not None,
    )  # fmt: skip


def _runs(unit: np.ndarray) -> tuple[int, np.ndarray]:
    """How many neighbouring columns always go together, as behind a Flatten; and the units of such runs."""
    edges = np.flatnonzero(np.diff(unit)) + 1
    run = int(np.gcd.reduce(edges, initial=len(unit))) if len(edges) else 1
    return run, unit[::run]


def consumers(model: Model, found: Dependencies) -> dict[str, Consumer]:
    """Those that sum over channels of some group, by their output."""
    names = {one for group in found.groups for one in group.consumers}
    nodes = (node for node in model.ir.graph if name(node.outputs[0]) in names)
    known = (consumer(node, found) for node in nodes)
    return {one.name: one for one in known if one is not None}


@dataclass(kw_only=True)
class Watch:
    """An observer (statistics/stream.py) of a consumer's input."""

    consumer: Consumer
    samples: int
    followed: bool = True
    moments: Moments = field(init=False)
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def __post_init__(self) -> None:
        self.moments = Moments(self.consumer.matrix.shape[0], self.consumer.columns)
        a_place = 1 if self.consumer.parts else self.consumer.taps // self.consumer.window
        self.rows = -(-rows_a_sample(self.consumer.columns, self.samples) // a_place)

    @property
    def tensor(self) -> str:
        return read(self.consumer.node, 0)

    @property
    def nbytes(self) -> int:
        return self.moments.nbytes

    def update(self, array: np.ndarray) -> None:
        if not np.isfinite(array).all():
            raise FloatingPointError
        found = patches(self.consumer.node, array, self.rows, self.random) if self.followed else None
        if found is None:
            self.followed = False
            return
        self.moments.add(self.consumer.rows(found))


def rows_a_sample(columns: int, samples: int) -> int:
    """Places to look at in each sample so that all of them make a few rows a column."""
    wanted = max(_FEWEST_ROWS, 8 * columns if columns <= LARGEST else max(2 * columns, int(_PRODUCTS / columns**2)))
    return -(-wanted // max(samples, 1))
