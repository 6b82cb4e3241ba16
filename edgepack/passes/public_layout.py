"""Inputs and outputs in another order of axes than the model's own: a Transpose behind each input, before each output.

Runtimes that store pictures channels last anyway (TFLite) write no operator for them.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from edgepack.model import Model
from edgepack.passes import PassResult

Perm = tuple[int, ...]
NHWC: Perm = (0, 2, 3, 1)
NCHW: Perm = (0, 3, 1, 2)
# What an image may pass on its way without another meaning of its axes.
_ELEMENTWISE = frozenset(
    {"Identity", "Cast", "Add", "Sub", "Mul", "Div", "Clip", "Relu", "Sigmoid", "QuantizeLinear", "DequantizeLinear"}
)


def own_layout(value: ir.Value) -> str:
    """ "nhwc" where a graph's input is turned channels first, or its output channels last, by the graph itself."""
    pending, seen, turned = [value], {id(value)}, NCHW if value.is_graph_input() else NHWC
    while pending:
        at = pending.pop()
        producer = at.producer()
        nodes = [use.node for use in at.uses()] if value.is_graph_input() else [producer] if producer else []
        for node in nodes:
            perm = node.attributes.get("perm")
            if node.op_type == "Transpose" and perm is not None and tuple(perm.as_ints()) == turned:
                return "nhwc"
            if node.op_type in _ELEMENTWISE:
                more = node.outputs if value.is_graph_input() else node.inputs[:1]
                fresh = [other for other in more if other is not None and id(other) not in seen]
                seen.update(id(other) for other in fresh)
                pending += fresh
    return "nchw"


def public_layout(model: Model, perms: Mapping[str, Perm]) -> PassResult:
    """The named inputs and outputs with other axes: axis i is axis `perms[name][i]` of the model's own."""
    if not perms:
        return PassResult(model=model, note="")
    turned = model.clone()
    graph = turned.ir.graph
    for place, value in enumerate(graph.inputs):
        if str(value.name) in perms:
            _turn_input(graph, place, perms[str(value.name)])
    for place, value in enumerate(graph.outputs):
        if str(value.name) in perms:
            _turn_output(graph, place, perms[str(value.name)])
    return PassResult(model=turned, note=f"other axes of {', '.join(sorted(perms))}")


def _turn_input(graph: ir.Graph, place: int, perm: Perm) -> None:
    value = graph.inputs[place]
    name = str(value.name)
    public = ir.Value(name=name, type=value.type, shape=_turned(value.shape, perm))
    inverse = [perm.index(axis) for axis in range(len(perm))]
    node = ir.node("Transpose", [public], attributes={"perm": inverse}, name=f"{name}_own_layout")
    value.name = f"{name}_own"
    graph.inputs[place] = public
    _copy_kind(value, node.outputs[0])
    ir.convenience.replace_all_uses_with(value, node.outputs[0], replace_graph_outputs=True)
    node.outputs[0].name = value.name
    graph.insert_before(next(iter(graph)), node)


def _turn_output(graph: ir.Graph, place: int, perm: Perm) -> None:
    value = graph.outputs[place]
    name = str(value.name)
    node = ir.node("Transpose", [value], attributes={"perm": list(perm)}, name=f"{name}_public_layout")
    public = node.outputs[0]
    value.name, public.name = f"{name}_own", name
    public.type, public.shape = value.type, _turned(value.shape, perm)
    graph.append(node)
    graph.outputs[place] = public


def _copy_kind(source: ir.Value, made: ir.Value) -> None:
    made.type, made.shape = source.type, source.shape


def _turned(shape: ir.Shape | None, perm: Perm) -> ir.Shape | None:
    return None if shape is None or len(shape) != len(perm) else ir.Shape([shape[axis] for axis in perm])
