"""Which places of which axes belong together, so that removing one removes the others.

An *atom* is one place of one axis of one value: channel 5 of `x`'s axis 1. Operators tie atoms of what they read and
make (edgepack/pruning/rules.py); atoms that must stay are frozen, each with the reason. What is tied together, and
frozen nowhere, can be removed as one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

Axis = tuple[str, int]


@dataclass(kw_only=True)
class Ties:
    """Collects ties and freezes over the axes of values whose shapes are known."""

    shapes: Mapping[str, tuple[int, ...]]
    starts: dict[Axis, int] = field(default_factory=dict)
    count: int = 0
    pairs: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    frozen: list[tuple[np.ndarray, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name, shape in self.shapes.items():
            for axis, size in enumerate(shape):
                self.starts[name, axis] = self.count
                self.count += size

    def rank(self, name: str) -> int:
        return len(self.shapes[name])

    def size(self, name: str, axis: int) -> int:
        return self.shapes[name][axis]

    def atoms(self, name: str, axis: int) -> np.ndarray:
        """The numbers of an axis's atoms, in order."""
        start = self.starts[name, axis]
        return np.arange(start, start + self.size(name, axis))

    def tie(self, one: np.ndarray, other: np.ndarray) -> None:
        """Atom by atom; the shapes are broadcast."""
        one, other = np.broadcast_arrays(one, other)
        self.pairs.append((one.reshape(-1), other.reshape(-1)))

    def tie_axes(self, one: Axis, other: Axis) -> None:
        self.tie(self.atoms(*one), self.atoms(*other))

    def freeze(self, name: str, reason: str, axes: Sequence[int] | None = None) -> None:
        """Some axes of a value, or all of them."""
        for axis in range(self.rank(name)) if axes is None else axes:
            self.frozen.append((self.atoms(name, axis), reason))

    def components(self) -> np.ndarray:
        """For each atom the smallest atom that it is tied to, directly or not."""
        one = np.concatenate([pair[0] for pair in self.pairs] or [np.zeros(0, np.intp)])
        other = np.concatenate([pair[1] for pair in self.pairs] or [np.zeros(0, np.intp)])
        label = np.arange(self.count)
        while True:
            left, right = label[one], label[other]
            apart = left != right
            if not apart.any():
                return label
            one, other, left, right = one[apart], other[apart], left[apart], right[apart]
            np.minimum.at(label, np.maximum(left, right), np.minimum(left, right))
            while not np.array_equal(label, jumped := label[label]):
                label = jumped

    def reasons(self, label: np.ndarray) -> dict[int, list[str]]:
        """Why components must stay, by their label; those that need not are left out."""
        found: dict[int, list[str]] = {}
        for atoms, reason in self.frozen:
            for root in np.unique(label[atoms]):
                known = found.setdefault(int(root), [])
                if reason not in known:
                    known.append(reason)
        return found
