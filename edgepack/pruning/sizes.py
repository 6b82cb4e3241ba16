"""Multiply-accumulates and parameters of a graph by how many channels each group has left."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgepack.cost import macs_by_output
from edgepack.model import Model, constant
from edgepack.pruning.groups import Dependencies, weight_axes
from edgepack.pruning.rules import name, read
from edgepack.pruning.ties import Axis


@dataclass(frozen=True, kw_only=True)
class _Term:
    """An amount that shrinks with the lengths of some axes."""

    amount: float
    axes: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """`share[axis, group]` is which part of an axis one channel of the group takes; `fixed` the part that stays."""

    fixed: np.ndarray
    share: np.ndarray
    macs_terms: tuple[_Term, ...]
    parameter_terms: tuple[_Term, ...]

    def macs(self, counts: np.ndarray) -> float:
        """For one sample.

        Args:
            counts: channels left, by group.
        """
        return self._sum(self.macs_terms, counts)

    def parameters(self, counts: np.ndarray) -> float:
        return self._sum(self.parameter_terms, counts)

    def _sum(self, terms: Sequence[_Term], counts: np.ndarray) -> float:
        left = self.fixed + self.share @ counts
        return float(sum(term.amount * math.prod(left[axis] for axis in term.axes) for term in terms))


def sizes(model: Model, found: Dependencies) -> Sizes:
    """
    Args:
        model: the one the dependencies were found in.
    """
    axes = list(found.unit)
    row = {axis: number for number, axis in enumerate(axes)}
    fixed, share = np.ones(len(axes)), np.zeros((len(axes), len(found.groups)))
    group_of = np.zeros(found.units, np.intp)
    for number, group in enumerate(found.groups):
        group_of[group.units] = number
    for axis, unit in found.unit.items():
        going = unit[unit >= 0]
        places = np.bincount(group_of[going], minlength=len(found.groups))
        share[row[axis]] = places / np.array([group.width for group in found.groups]) / len(unit)
        fixed[row[axis]] = 1 - len(going) / len(unit)
    macs = macs_by_output(model, found.shapes)
    constants = [(name(value), constant(value)) for value in model.ir.graph.initializers.values()]
    return Sizes(
        fixed=fixed,
        share=share,
        macs_terms=tuple(
            _Term(
                amount=macs[name(node.outputs[0])],
                axes=tuple(row[axis] for axis in _axes(node, found.shapes) if axis in row),
            )
            for node in model.ir.graph
            if macs.get(name(node.outputs[0]), 0)
        ),
        parameter_terms=tuple(
            _Term(
                amount=array.size,
                axes=tuple(row[held, axis] for axis in range(array.ndim) if (held, axis) in row),
            )
            for held, array in constants
            if array is not None
        ),
    )


def _axes(node: ir.Node, shapes: Mapping[str, tuple[int, ...]]) -> list[Axis]:
    """The axes whose lengths a node's multiply-accumulates are proportional to."""
    found = weight_axes(node, shapes)
    if found is not None:
        return [(read(node, 1), found[0]), (read(node, 1), found[1])]
    if node.op_type != "MatMul":
        return []
    data, output = read(node, 0), name(node.outputs[0])
    return [(data, len(shapes[data]) - 1), *((output, axis) for axis in range(len(shapes[output])))]
