"""The smaller graph: weights without the removed channels, and every number that counted them put right."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from onnx import shape_inference
from onnx_ir.passes import common

from edgepack.errors import PruningError
from edgepack.model import LARGEST_MESSAGE, Model, constant
from edgepack.passes.edits import replace_constant
from edgepack.pruning.groups import Dependencies
from edgepack.pruning.rules import grouping, name, read
from edgepack.pruning.shape_rules import taken
from edgepack.pruning.ties import Axis
from edgepack.quantization.layer import WEIGHTED


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Which places of each axis stay, where some go: bool arrays by axis."""

    shapes: Mapping[str, tuple[int, ...]]
    kept: Mapping[Axis, np.ndarray]

    @classmethod
    def of(cls, found: Dependencies, keep: np.ndarray) -> Cut:
        """
        Args:
            keep: bool, by unit.
        """
        kept = {axis: (unit < 0) | keep[unit] for axis, unit in found.unit.items()}
        return cls(shapes=found.shapes, kept={axis: stays for axis, stays in kept.items() if not stays.all()})

    def of_axis(self, value: str, axis: int) -> np.ndarray:
        return self.kept.get((value, axis), np.ones(self.shapes[value][axis], bool))

    def array(self, value: str, array: np.ndarray) -> np.ndarray:
        """What stays of a value."""
        for axis in range(array.ndim):
            stays = self.kept.get((value, axis))
            if stays is not None and array.shape[axis] == len(stays):
                array = np.compress(stays, array, axis)
        return array

    def touches(self, value: str) -> bool:
        return any((value, axis) in self.kept for axis in range(len(self.shapes.get(value, ()))))


def untangled(model: Model) -> Model:
    """The model with a constant of its own for each reader, but for the weights that layers share."""
    result = model.clone()
    graph = result.ir.graph
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(result.ir)
    for value in list(graph.initializers.values()):
        uses = list(value.uses())
        if len(uses) < 2 or value.const_value is None or value.is_graph_input() or value.is_graph_output():
            continue
        # Layers with the same weights stay tied.
        spare = [(node, index) for node, index in uses if not (node.op_type in WEIGHTED and index == 1)]
        for serial, (node, index) in enumerate(spare[len(spare) == len(uses) :]):
            if node.graph is graph:
                own = ir.val(f"{value.name}/{serial}/{node.outputs[0].name}", const_value=value.const_value)
                graph.register_initializer(own)
                node.replace_input_with(index, own)
    return result


def cut(model: Model, found: Dependencies, keep: np.ndarray) -> Model:
    """The model without the units that are not kept.

    Args:
        model: the one (`untangled`) that the dependencies were found in.
        keep: bool, by unit.

    Raises:
        PruningError: the smaller graph does not hold together.
    """
    what = Cut.of(found, keep)
    result = model.clone()
    graph = result.ir.graph
    for node in graph:
        edit = _EDITS.get(node.op_type)
        if edit is not None and node.domain in ("", "ai.onnx"):
            edit(graph, node, what)
    for value in list(graph.initializers.values()):
        array = constant(value)
        if array is not None and what.touches(name(value)):
            smaller = np.ascontiguousarray(what.array(name(value), array))
            value.const_value = ir.tensor(smaller, name=value.name)
            value.shape = ir.Shape(smaller.shape)
    for node in graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None
    common.RemoveUnusedNodesPass()(result.ir)
    try:
        return checked(result)
    except Exception as error:  # of the checker's and of shape inference's own kinds
        if not _passes(model):  # so nothing can be told by it
            return result
        raise PruningError(
            f"the graph without these channels does not hold together: {str(error).splitlines()[0][:200]}",
            "leave --prune out, and please report the model",
        ) from error


def checked(model: Model) -> Model:
    """The model with its shapes, once ONNX's own checker and strict shape inference have nothing against it."""
    if model.weight_bytes >= LARGEST_MESSAGE:
        return model
    proto = model.proto()
    onnx.checker.check_model(proto)
    return Model.from_proto(shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True), model.source)


def _passes(model: Model) -> bool:
    try:
        checked(model)
    except Exception:
        return False
    return True


def _counts(stays: np.ndarray, edges: np.ndarray) -> list[int]:
    """How many places stay before each edge."""
    before = np.concatenate([[0], np.cumsum(stays)])
    return [int(before[edge]) for edge in edges]


def _convolution(graph: ir.Graph, node: ir.Node, what: Cut) -> None:
    weight = what.shapes[read(node, 1)]
    groups, whole = grouping(node, weight)
    if whole:
        node.attributes["group"] = ir.AttrInt64(
            "group", int(what.of_axis(read(node, 1), 0).reshape(groups, -1)[:, 0].sum())
        )
    _new_bias(graph, node, what)


def _new_bias(graph: ir.Graph, node: ir.Node, what: Cut) -> None:
    """A bias that a refit has added since the dependencies were found."""
    bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if bias is not None and read(node, 2) not in what.shapes:
        smaller = np.compress(what.of_axis(name(node.outputs[0]), 1), bias)
        replace_constant(graph, node, 2, smaller, f"{node.outputs[0].name}_bias_left")


def _split(graph: ir.Graph, node: ir.Node, what: Cut) -> None:
    data = read(node, 0)
    along = node.attributes.get_int("axis", 0) % len(what.shapes[data])
    if (data, along) not in what.kept:
        return
    sizes = [int(what.of_axis(name(part), along).sum()) for part in node.outputs]
    node.attributes.pop("num_outputs", None)
    if "split" in node.attributes:
        node.attributes["split"] = ir.AttrInt64s("split", sizes)
        return
    replace_constant(graph, node, 1, np.array(sizes, np.int64), f"{node.outputs[0].name}_sizes")


def _slice(graph: ir.Graph, node: ir.Node, what: Cut) -> None:
    data = read(node, 0)
    places = taken(node, what.shapes[data])
    touched = [axis for axis in (places or {}) if (data, axis) in what.kept]
    if places is None or not touched:
        return
    starts, ends = [], []
    for axis, chosen in places.items():
        stays = what.of_axis(data, axis)
        if axis in touched:
            start, end = _counts(stays, np.array([chosen[0], chosen[-1] + 1]))
        else:
            start, end = int(chosen[0]), int(chosen[-1]) + 1
        starts.append(start)
        ends.append(end)
    if len(node.inputs) < 2:
        for key, numbers in (("starts", starts), ("ends", ends), ("axes", list(places))):
            node.attributes[key] = ir.AttrInt64s(key, numbers)
        return
    # Axes that are not touched may be open: as they were written, they still mean the same.
    given = [constant(value) for value in node.inputs[1:3]]
    for number, axis in enumerate(places):
        if axis not in touched and given[0] is not None and given[1] is not None:
            starts[number], ends[number] = int(given[0].reshape(-1)[number]), int(given[1].reshape(-1)[number])
    for index, numbers in ((1, starts), (2, ends)):
        replace_constant(
            graph, node, index, np.array(numbers, np.int64), f"{node.outputs[0].name}_{('starts', 'ends')[index - 1]}"
        )
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        replace_constant(graph, node, 3, np.array(list(places), np.int64), f"{node.outputs[0].name}_axes")
    if len(node.inputs) > 4 and node.inputs[4] is not None and constant(node.inputs[4]).dtype != np.int64:  # type: ignore[union-attr]
        steps = constant(node.inputs[4])
        assert steps is not None
        replace_constant(graph, node, 4, steps.astype(np.int64), f"{node.outputs[0].name}_steps")


def _gather(graph: ir.Graph, node: ir.Node, what: Cut) -> None:
    data = read(node, 0)
    along = node.attributes.get_int("axis", 0) % len(what.shapes[data])
    chosen = constant(node.inputs[1])
    if (data, along) not in what.kept or chosen is None:
        return
    stays = what.of_axis(data, along)
    places = chosen.astype(np.int64) % len(stays)
    moved = np.array(_counts(stays, places[stays[places]]), np.int64)
    replace_constant(graph, node, 1, moved, f"{node.outputs[0].name}_places")


def _reshape(graph: ir.Graph, node: ir.Node, what: Cut) -> None:
    output = name(node.outputs[0])
    if not what.touches(output):
        return
    target = constant(node.inputs[1])
    if target is not None:
        sizes = target.astype(np.int64).copy()
        for axis in range(len(sizes)):
            if (output, axis) in what.kept and sizes[axis] > 0:
                sizes[axis] = int(what.of_axis(output, axis).sum())
        replace_constant(graph, node, 1, sizes, f"{output}_shape")
        return
    joined = node.inputs[1].producer()  # type: ignore[union-attr]
    assert joined is not None
    for axis in range(len(joined.inputs)):
        part = constant(joined.inputs[axis])
        if (output, axis) in what.kept and part is not None and part[0] > 0:
            size = np.array([what.of_axis(output, axis).sum()], np.int64)
            replace_constant(graph, joined, axis, size, f"{output}_shape_{axis}")


def _lengths(index: int) -> Callable[[ir.Graph, ir.Node, Cut], None]:
    """Expand and Resize, whose input `index` may say how long the output is."""

    def edit(graph: ir.Graph, node: ir.Node, what: Cut) -> None:
        output = name(node.outputs[0])
        target = constant(node.inputs[index]) if len(node.inputs) > index else None
        if target is None or not target.size or not what.touches(output):
            return
        sizes = target.copy()
        offset = len(what.shapes[output]) - len(sizes)
        for axis in range(len(sizes)):
            if (output, axis + offset) in what.kept and sizes[axis] != 1:
                sizes[axis] = what.of_axis(output, axis + offset).sum()
        replace_constant(graph, node, index, sizes, f"{output}_sizes")

    return edit


_EDITS: dict[str, Callable[[ir.Graph, ir.Node, Cut], None]] = {
    "Conv": _convolution,
    "ConvTranspose": _convolution,
    "Gemm": _new_bias,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "Reshape": _reshape,
    "Expand": _lengths(1),
    "Resize": _lengths(3),
}
