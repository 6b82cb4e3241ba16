"""Second moments of a layer's input: what rounding errors of its weights will be multiplied with."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from edgepack.model import constant
from edgepack.quantization.layer import patches, to_matrix

# Patches a layer should see for each of its weights a channel, over all samples.
_ROWS_A_COLUMN = 4
_FEWEST_ROWS = 2048
# Weights a channel beyond this are taken in blocks, between which correlations are passed over.
LARGEST_BLOCK = 2304


@dataclass(kw_only=True)
class Moments:
    """An observer of a weighted node's input.

    `second[b]` is the sum of p·pᵀ over patches p, of shape [G, K_b, K_b] for the columns of block b; `first` the sum
    of p, [G, K]; `rows` how many patches. All are of p / `unit`, 1 but for numbers whose
    squares are too large for float32, or too small.
    """

    node: ir.Node
    samples: int
    rows: int = 0
    followed: bool = True
    unit: float = 0.0
    first: np.ndarray = field(init=False)
    second: list[np.ndarray] = field(init=False)
    blocks: list[slice] = field(init=False)
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def __post_init__(self) -> None:
        weight = constant(self.node.inputs[1])
        assert weight is not None
        groups, _, columns = to_matrix(self.node, weight).shape
        pieces = -(-columns // LARGEST_BLOCK)
        edges = [columns * i // pieces for i in range(pieces + 1)]
        self.blocks = [slice(a, b) for a, b in itertools.pairwise(edges)]
        self.first = np.zeros((groups, columns))
        self.second = [np.zeros((groups, b.stop - b.start, b.stop - b.start), np.float32) for b in self.blocks]
        wanted = max(_FEWEST_ROWS, _ROWS_A_COLUMN * columns)
        self.rows_a_sample = -(-wanted // self.samples)

    @property
    def tensor(self) -> str:
        return str(self.node.inputs[0].name)  # type: ignore[union-attr]

    @property
    def nbytes(self) -> int:
        # Rounding works in float64 on a copy and its factor.
        return sum(block.nbytes for block in self.second) + 4 * max(block.nbytes for block in self.second)

    def update(self, array: np.ndarray) -> None:
        found = patches(self.node, array, self.rows_a_sample, self.random) if self.followed else None
        if found is None:
            self.followed = False
            return
        self.rows += len(found)
        if not self.unit:
            largest = float(np.abs(found).max())
            self.unit = largest if largest and not 1e-9 < largest < 1e9 else float(largest > 0)
        if self.unit not in (0.0, 1.0):
            found = found / np.float32(self.unit)
        found = found.transpose(1, 0, 2)
        self.first += (np.ones((1, found.shape[1]), np.float32) @ found)[:, 0]
        for block, total in zip(self.blocks, self.second, strict=True):
            part = found[:, :, block]
            if len(part) == 1:
                total[0] += part[0].T @ part[0]
            else:
                total += part.transpose(0, 2, 1) @ part

    @property
    def mean(self) -> np.ndarray:
        """The mean patch, [G, K]."""
        return self.first * ((self.unit or 1.0) / max(self.rows, 1))

    def covariance(self, index: int, *, centered: bool) -> np.ndarray:
        """Mean of p·pᵀ for a block over unit², float64 [G, K_b, K_b]; of (p − mean)·(p − mean)ᵀ if `centered`."""
        second: np.ndarray = self.second[index].astype(np.float64) / max(self.rows, 1)
        if not centered:
            return second
        mean = self.first[:, self.blocks[index]] / max(self.rows, 1)
        return np.asarray(second - mean[:, :, None] * mean[:, None, :])
