"""Fold what scales and shifts channels into the weights around it, where exactly that can be done.

BatchNormalization (Ioffe and Szegedy, 2015) at inference, and Mul, Div, Add and Sub by constants, are affine maps per
channel; a chain of them is one. Clean-up folds a BatchNormalization right behind a convolution. The cases left over,
each exact but for rounding:

1. Behind a Conv, ConvTranspose or Gemm: into its weights and bias.
2. Before them, also with MaxPool (positive scale), AveragePool, GlobalAveragePool or Flatten between, for all
   readers: into their weights and biases. A shift cannot pass zero padding, which it would have to move too.
3. A positive scale behind Relu or LeakyRelu goes through it into the weights before, since they are positively
   homogeneous (as in cross-layer equalization, Nagel et al. 2019); the shift stays as an Add.
4. Before a padded convolution: the scale into its weights, the shift (divided by the scale) stays as an Add.

Values that something else reads, or that are outputs, are left alone, and so are weights that two nodes share.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from edgepack.model import Model
from edgepack.passes import PassResult
from edgepack.passes.affine import (
    Affine,
    fold_before,
    fold_behind,
    foldable,
    gives,
    may_shift,
    only_reader,
    read,
    takes,
)
from edgepack.passes.edits import initializer
from edgepack.passes.fuse_activations import drop_unread

_HOMOGENEOUS = frozenset({"Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool"})


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A weighted node that a map can be folded into; a Flatten between repeats each channel so many times."""

    node: ir.Node
    repeats: int


def fold_batchnorm(model: Model) -> PassResult:
    """Apply the cases above to the main graph until none holds."""
    result = model.clone()
    common.ShapeInferencePass()(result.ir)
    graph = result.ir.graph
    folded = 0
    progressing = True
    while progressing:
        progressing = False
        for node in reversed(list(graph)):
            if node.graph is None:
                continue
            affine = read(node)
            if affine is not None and _fold(graph, node, affine):
                folded, progressing = folded + 1, True
    if not folded:
        return PassResult(model=model, note="")
    return PassResult(
        model=result, note=f"{folded} scales and shifts folded into weights", figures={"folded": float(folded)}
    )


def _fold(graph: ir.Graph, node: ir.Node, affine: Affine) -> bool:
    """Cases 1 to 4; whether one held."""
    before = affine.data.producer()
    size = max(affine.scale.size, affine.shift.size)
    if before is not None and only_reader(affine.data) and foldable(before) and gives(before, size):
        fold_behind(graph, before, affine.scale, affine.shift)
        _bypass(graph, node, affine.data, None)
        return True
    readers = _readers(node.outputs[0], affine)
    if not all(takes(reader.node, size * reader.repeats if size > 1 else 1) for reader in readers):
        readers = []
    if readers and not (affine.shifts and not all(may_shift(reader.node) for reader in readers)):
        for reader in readers:
            fold_before(graph, reader.node, _repeat(affine.scale, reader), _repeat(affine.shift, reader))
        _bypass(graph, node, affine.data, None)
        return True
    if not affine.scales:
        return False
    source = _source(affine)
    if source is not None:
        fold_behind(graph, source, affine.scale, np.zeros(1))
        _bypass(graph, node, affine.data, affine.shift if affine.shifts else None)
        return True
    if readers and np.all(affine.scale != 0.0):
        for reader in readers:
            fold_before(graph, reader.node, _repeat(affine.scale, reader), np.zeros(1))
        _bypass(graph, node, affine.data, affine.shift / affine.scale)
        return True
    return False


def _readers(value: ir.Value, affine: Affine) -> list[Reader]:
    """The weighted nodes that all the value's readers lead to; empty where one leads elsewhere."""
    if value.is_graph_output() or not value.uses():
        return []
    found: list[Reader] = []
    for node, index in value.uses():
        if index != 0 or node.domain != "":
            return []
        if foldable(node):
            further = [Reader(node=node, repeats=1)]
        elif _commutes(node, affine):
            further = _readers(node.outputs[0], affine) if len(node.outputs) == 1 else []
            if node.op_type == "Flatten":
                repeats = _flattened(node)
                further = [Reader(node=reader.node, repeats=repeats * reader.repeats) for reader in further]
        else:
            further = []
        if not further:
            return []
        found += further
    # A node that takes the value twice would be folded into twice.
    return found if len({id(reader.node) for reader in found}) == len(found) else []


def _commutes(node: ir.Node, affine: Affine) -> bool:
    """Whether the map may be applied behind the node instead of before it."""
    if node.op_type == "MaxPool":
        return bool(np.all(affine.scale > 0.0))
    if node.op_type == "AveragePool":
        padded = node.attributes.get_int("count_include_pad", 0) and any(node.attributes.get_ints("pads", ()))
        return not (affine.shifts and padded)
    if node.op_type == "Flatten":
        return node.attributes.get_int("axis", 1) == 1 and _flattened(node) > 0
    return node.op_type == "GlobalAveragePool"


def _flattened(node: ir.Node) -> int:
    """How many numbers a channel has before a Flatten; 0 where that is not known."""
    value = node.inputs[0]
    shape = value.shape if value is not None else None
    if shape is None or len(shape) < 2 or not all(isinstance(dim, int) for dim in shape[1:]):
        return 0
    return int(np.prod([dim for dim in shape[2:] if isinstance(dim, int)], dtype=np.int64))


def _repeat(array: np.ndarray, reader: Reader) -> np.ndarray:
    return array if array.size == 1 else np.repeat(array, reader.repeats)


def _source(affine: Affine) -> ir.Node | None:
    """Case 3: the weighted node that a positive scale can be folded into, through what lies between."""
    if not np.all(affine.scale > 0.0):
        return None
    value = affine.data
    while only_reader(value):
        node = value.producer()
        if node is None or node.domain != "":
            return None
        if foldable(node):
            return node if gives(node, affine.scale.size) else None
        if node.op_type not in _HOMOGENEOUS or node.inputs[0] is None or len(node.outputs) != 1:
            return None
        value = node.inputs[0]
    return None


def _bypass(graph: ir.Graph, node: ir.Node, data: ir.Value, shift: np.ndarray | None) -> None:
    """Take a map out of the graph; a shift stays as an Add."""
    output = node.outputs[0]
    name = output.name
    if shift is None:
        by = data
        if output.is_graph_output():
            data.name, output.name = name, f"{name}_unfolded"
    else:
        add = _add(graph, data, shift, str(name))
        output.name = f"{name}_unfolded"
        graph.insert_after(node, add)
        by = add.outputs[0]
    by.type = by.type or output.type
    output.replace_all_uses_with(by, replace_graph_outputs=True)
    drop_unread(graph, node)


def _add(graph: ir.Graph, data: ir.Value, shift: np.ndarray, name: str) -> ir.Node:
    """An Add of one number a channel, named after its output."""
    assert data.shape is not None
    array = shift if shift.size == 1 else shift.reshape(-1, *(1,) * (len(data.shape) - 2))
    value = initializer(graph, f"{name}_shift", array.astype(np.float32))
    node = ir.node("Add", [data, value], name=f"{name}_Add")
    node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = name, data.type, data.shape
    return node
