"""What a Softmax at the end of a graph is given, in the place of what it gives.

One changed character in a line of text outweighs all other differences between two Softmax outputs, so that a few
samples tell by chance which of two models is closer. Before the Softmax every error counts by its size. A constant
added to all scores changes no answer, so each row has its mean taken off.
"""

from __future__ import annotations

import onnx_ir as ir

from edgepack.model import Model
from edgepack.passes.edits import replace, with_axes

_SOFT = frozenset({"Softmax", "LogSoftmax"})
_MOVING = frozenset({"Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten"})


def logits(model: Model) -> Model:
    """The model with the scores before each last Softmax as its output, centered; itself where there is none."""
    result = model.clone()
    graph = result.ir.graph
    found = [node for output in graph.outputs if (node := _last_softmax(output)) is not None]
    axes = [_axes(node, result.opset) for node in found]
    if not found or None in axes:
        return model
    for node, over in zip(found, axes, strict=True):
        assert over is not None
        _replace(graph, node, over, result.opset)
    return result


def _last_softmax(output: ir.Value) -> ir.Node | None:
    """The Softmax whose numbers an output holds in some order, and nothing else reads."""
    value: ir.Value | None = output
    while value is not None and (node := value.producer()) is not None and node.domain == "":
        if len(value.uses()) + value.is_graph_output() > 1:
            return None
        if node.op_type in _SOFT:
            return node
        if node.op_type not in _MOVING:
            return None
        value = node.inputs[0]
    return None


def _axes(node: ir.Node, opset: int) -> list[int] | None:
    """What a Softmax is over; None where that cannot be told. Before opset 13 it is all axes from its own on."""
    if opset >= 13:
        return [node.attributes.get_int("axis", -1)]
    scores = node.inputs[0]
    if scores is None or scores.shape is None:
        return None
    rank = len(scores.shape)
    return list(range(node.attributes.get_int("axis", 1) % rank, rank))


def _replace(graph: ir.Graph, node: ir.Node, axes: list[int], opset: int) -> None:
    scores = node.inputs[0]
    assert scores is not None
    mean = with_axes(graph, "ReduceMean", scores, axes, opset, keepdims=1)
    mean.outputs[0].name = f"{scores.name}_mean"
    centered = ir.node("Sub", [scores, mean.outputs[0]], name=f"{scores.name}_centered")
    centered.outputs[0].type, centered.outputs[0].shape = node.outputs[0].type, node.outputs[0].shape
    replace(graph, node, [mean, centered])
