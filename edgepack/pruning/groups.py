"""Dependency groups of a whole graph: which channels can be removed together, and what must be left alone and why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from edgepack.model import Model, constant
from edgepack.pruning import rules, shape_rules
from edgepack.pruning.rules import Rule, name, read, words
from edgepack.pruning.ties import Axis, Ties
from edgepack.quantization.layer import WEIGHTED

_RULES: dict[str, Rule] = {
    **dict.fromkeys(rules.UNARY, rules.unary),
    **dict.fromkeys(rules.ELEMENTWISE, rules.elementwise),
    **dict.fromkeys(rules.POOLS, rules.pool),
    "Conv": rules.conv,
    "ConvTranspose": rules.conv,
    "Gemm": rules.gemm,
    "MatMul": rules.matmul,
    "Einsum": rules.einsum,
    "BatchNormalization": rules.batch_norm,
    "InstanceNormalization": rules.batch_norm,
    "LayerNormalization": rules.along,
    "RMSNormalization": rules.along,
    "LpNormalization": rules.along,
    "Softmax": rules.along,
    "LogSoftmax": rules.along,
    "Hardmax": rules.along,
    "CumSum": rules.freeze_all,
    "Transpose": rules.transpose,
    "Concat": shape_rules.concat,
    "Split": shape_rules.split,
    "Slice": shape_rules.slice_,
    "Gather": shape_rules.gather,
    "Squeeze": shape_rules.squeeze,
    "Unsqueeze": shape_rules.squeeze,
    "Pad": shape_rules.pad,
    "Resize": shape_rules.resize,
    "Upsample": shape_rules.resize,
    "Expand": shape_rules.resize,
    "Tile": shape_rules.resize,
    "DepthToSpace": shape_rules.depth_to_space,
    "SpaceToDepth": shape_rules.depth_to_space,
    "Shape": shape_rules.shape,
    **dict.fromkeys(
        ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare",
         "ReduceLogSumExp", "ArgMax", "ArgMin"),
        rules.reduce,
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Group:
    """Channels that can be removed one by one.

    `units` are their numbers in `Dependencies.unit`; `places` is how many places of a weight go with each, where
    those are fewest; `name` is the first weighted node's output that counts them;
    `producers` and `consumers` are weighted nodes, by their outputs, that make these channels or sum over them.
    """

    name: str
    units: np.ndarray
    axes: tuple[Axis, ...]
    places: int
    producers: tuple[str, ...]
    consumers: tuple[str, ...]

    @property
    def width(self) -> int:
        return len(self.units)


@dataclass(frozen=True, kw_only=True)
class Dependencies:
    """`unit` holds for each axis that can lose places the number of each place's unit, −1 where it stays.

    A unit is what is removed at once. `left_alone` gives, by weighted node, why its output channels stay.
    """

    shapes: Mapping[str, tuple[int, ...]]
    unit: dict[Axis, np.ndarray]
    groups: tuple[Group, ...]
    left_alone: dict[str, str] = field(default_factory=dict)

    @property
    def units(self) -> int:
        return 1 + max((int(group.units.max()) for group in self.groups), default=-1)


def dependencies(model: Model, shapes: Mapping[str, tuple[int, ...]]) -> Dependencies:
    """The groups of a graph.

    Args:
        shapes: of every value, constants included, as they are when the model runs on one sample.
    """
    ties = Ties(shapes=shapes)
    _walk(model.ir.graph, ties)
    label = ties.components()
    reasons = ties.reasons(label)
    free = ~np.isin(label, np.fromiter(reasons, np.intp, len(reasons)))
    produced, consumed = _weight_axes(model.ir.graph, shapes)
    spans: defaultdict[int, list[int]] = defaultdict(list)
    numbered = list(ties.starts)
    for number, axis in enumerate(numbered):
        atoms = ties.atoms(*axis)
        for root in np.unique(label[atoms[free[atoms]]]):
            spans[int(root)].append(number)
    alike: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    for root, spanned in spans.items():
        alike[tuple(spanned)].append(root)
    unit_of = np.full(ties.count, -1)
    groups: list[Group] = []
    for span, roots in alike.items():
        axes = tuple(numbered[number] for number in span)
        makes = tuple(dict.fromkeys(node for axis in axes for node in produced.get(axis, ())))
        reads = tuple(dict.fromkeys(node for axis in axes for node in consumed.get(axis, ())))
        if len(roots) < 2 or not makes:
            continue
        first = sum(group.width for group in groups)
        unit_of[np.array(roots)] = first + np.arange(len(roots))
        groups.append(
            Group(
                name=makes[0],
                units=first + np.arange(len(roots)),
                axes=axes,
                places=_places(axes, label, roots[0], ties, produced, consumed),
                producers=makes,
                consumers=reads,
            )
        )
    units = {axis: unit_of[label[ties.atoms(*axis)]] for axis in numbered}
    return Dependencies(
        shapes=shapes,
        unit={axis: found for axis, found in units.items() if (found >= 0).any()},
        groups=tuple(groups),
        left_alone=_left_alone(model.ir.graph, ties, label, reasons, units),
    )


def _places(
    axes: tuple[Axis, ...],
    label: np.ndarray,
    root: int,
    ties: Ties,
    *weights: Mapping[Axis, list[str]],
) -> int:
    return min(int((label[ties.atoms(*axis)] == root).sum()) for axis in axes if any(axis in held for held in weights))


def _walk(graph: ir.Graph, ties: Ties) -> None:
    pending: list[tuple[str, str, list[int], str, int]] = []
    for value in graph.inputs:
        if name(value) in ties.shapes and name(value) not in graph.initializers:
            ties.freeze(name(value), "it is the model's input")
    for value in graph.outputs:
        if name(value) in ties.shapes:
            ties.freeze(name(value), "it is the model's output")
    for node in graph:
        if not _followed(node, ties):
            rules.freeze_all(node, ties)
            _freeze_captured(node, ties)
        elif node.op_type in ("Reshape", "Flatten"):
            pending += [(words(node), *item) for item in shape_rules.reshape(node, ties)]
        else:
            _RULES[node.op_type](node, ties)
    for what, joined, axes, other, axis in pending:
        label = ties.components()
        reasons = ties.reasons(label)
        held = np.fromiter(reasons, np.intp, len(reasons))
        free = [place for place in axes if not np.isin(label[ties.atoms(joined, place)], held).all()]
        shape_rules.carry(what, ties, joined, axes, other, axis, free)


def _followed(node: ir.Node, ties: Ties) -> bool:
    """Whether there is a rule for the node and all it reads and makes has a known shape."""
    if node.domain not in ("", "ai.onnx", "com.microsoft"):
        return False
    if node.op_type not in _RULES and node.op_type not in ("Reshape", "Flatten"):
        return False
    values = [name(value) for value in (*node.inputs, *node.outputs[:1]) if value is not None]
    return all(value in ties.shapes for value in values)


def _freeze_captured(node: ir.Node, ties: Ties) -> None:
    """What graphs inside a node read of the graph around it stays."""
    for attribute in node.attributes.values():
        graphs = (
            [attribute.as_graph()] if attribute.type == ir.AttributeType.GRAPH
            else attribute.as_graphs() if attribute.type == ir.AttributeType.GRAPHS else []
        )  # fmt: skip
        for graph in graphs:
            for inner in ir.traversal.RecursiveGraphIterator(graph):
                for value in inner.inputs:
                    if name(value) in ties.shapes:
                        ties.freeze(name(value), f"{words(node)} holds a graph that reads it")


def weight_axes(node: ir.Node, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, int] | None:
    """The axes of a weighted node's weight that count outputs and inputs; None where its weight is no constant."""
    if node.op_type not in WEIGHTED or node.domain not in ("", "ai.onnx") or constant(node.inputs[1]) is None:
        return None
    if node.op_type == "Conv":
        return 0, 1
    if node.op_type == "ConvTranspose":
        return 1, 0
    if node.op_type == "Gemm":
        return (0, 1) if node.attributes.get_int("transB", 0) else (1, 0)
    rank = len(shapes.get(read(node, 1), ()))
    return (rank - 1, rank - 2) if rank >= 2 else None


def _weight_axes(
    graph: ir.Graph, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[dict[Axis, list[str]], dict[Axis, list[str]]]:
    """For axes of weights, the nodes whose outputs and whose sums they count."""
    produced: defaultdict[Axis, list[str]] = defaultdict(list)
    consumed: defaultdict[Axis, list[str]] = defaultdict(list)
    for node in graph:
        axes = weight_axes(node, shapes)
        if axes is None:
            continue
        output, weight = name(node.outputs[0]), read(node, 1)
        produced[weight, axes[0]].append(output)
        if "Conv" not in node.op_type or not rules.grouping(node, shapes[weight])[1]:
            consumed[weight, axes[1]].append(output)
    return produced, consumed


def _left_alone(
    graph: ir.Graph, ties: Ties, label: np.ndarray, reasons: Mapping[int, list[str]], units: Mapping[Axis, np.ndarray]
) -> dict[str, str]:
    found = {}
    for node in graph:
        if weight_axes(node, ties.shapes) is None or name(node.outputs[0]) not in ties.shapes:
            continue
        output = name(node.outputs[0])
        axis = 1 if "Conv" in node.op_type else ties.rank(output) - 1
        if axis >= ties.rank(output) or (units[output, axis] >= 0).any():
            continue
        why = [reason for root in np.unique(label[ties.atoms(output, axis)]) for reason in reasons.get(int(root), ())]
        found[output] = next(iter(dict.fromkeys(why)), "its channels are all tied together")
    return found
