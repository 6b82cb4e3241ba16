"""Activations that exporters spell out become one operator, which runtimes fuse and the quantizer knows.

The cases, each exact but for the order of float operations:

1. `clip(a·x + b, 0, c) / c` → HardSigmoid(alpha=a/c, beta=b/c). The sum may be missing its product (a = 1), the
   clip may be Clip, Relu with Min, or Min with Max in either order, and the division may be a multiplication by 1/c
   or, where c = 1, not be there at all.
2. `x · HardSigmoid(x)` with alpha = 1/6 and beta = 1/2 → HardSwish, from opset 14 on.
3. `x · clip(x + 3, 0, 6)`, divided by 6 before, after or on either factor → HardSwish likewise, before opset 14
   `x · HardSigmoid(x)`. Howard et al., "Searching for MobileNetV3" (2019), section 5.2.

Nothing is rewritten where a value in the middle of the pattern has another reader or is an output of the graph, nor
where a constant is another one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgepack.model import Model, constant
from edgepack.passes import PassResult

HARD_SWISH_OPSET = 14
# Constants are stored as float32, and 1/6 often as 0.16666667 or 0.166667.
_CLOSE = 1e-5


@dataclass(frozen=True, kw_only=True)
class Clipped:
    """The value `clip(slope·x + offset, 0, top)`, and the nodes that compute nothing else."""

    x: ir.Value
    slope: float
    offset: float
    top: float


@dataclass(frozen=True, kw_only=True)
class Product:
    """A chain of Mul and Div as `factor` times the values."""

    factor: float
    values: tuple[ir.Value, ...]


def fuse_activations(model: Model) -> PassResult:
    """Rewrite the cases above, wherever they occur in the main graph."""
    result = model.clone()
    graph = result.ir.graph
    counts = {"HardSigmoid": 0, "HardSwish": 0}
    # Backwards, so that a product is seen whole before its parts are.
    for node in reversed(list(graph)):
        if node.graph is None or not _is_float(node):
            continue
        fused = _hard_swish(node, result.opset) or _hard_sigmoid(node)
        if fused is not None:
            _replace(graph, node, fused)
            counts[fused[-1].op_type if fused[-1].op_type in counts else "HardSwish"] += 1
    if not any(counts.values()):
        return PassResult(model=model, note="")
    text = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    figures = {name: float(count) for name, count in counts.items()}
    return PassResult(model=result, note=f"written as one operator: {text}", figures=figures)


def _hard_swish(node: ir.Node, opset: int) -> list[ir.Node] | None:
    """Cases 2 and 3: the nodes that replace a product, None where it is another."""
    if node.op_type not in ("Mul", "Div"):
        return None
    product = _product(node)
    if product is None or len(product.values) != 2:
        return None
    for x, gate in (product.values, product.values[::-1]):
        found = _gate(gate)
        if found is None or found.x is not x:
            continue
        scale = product.factor
        if _near(found.slope * scale, 1 / 6) and _near(found.offset * scale, 0.5) and _near(found.top * scale, 1.0):
            if opset >= HARD_SWISH_OPSET:
                return [_like(node, "HardSwish", [x], {})]
            inner = _like(node, "HardSigmoid", [x], {"alpha": 1 / 6, "beta": 0.5})
            inner.outputs[0].name = f"{node.outputs[0].name}_gate"
            return [inner, _like(node, "Mul", [x, inner.outputs[0]], {})]
    return None


def _hard_sigmoid(node: ir.Node) -> list[ir.Node] | None:
    """Case 1: the node that replaces a clipped line from 0 to 1, None where it is none."""
    scale, value = 1.0, node.outputs[0]
    if node.op_type in ("Mul", "Div"):
        product = _product(node)
        if product is None or len(product.values) != 1:
            return None
        scale, value = product.factor, product.values[0]
        inner = value.producer()
        if inner is None or not _only_reader(value):
            return None
        node_clip = inner
    else:
        node_clip = node
    found = _clipped(node_clip)
    if found is None or not _near(found.top * scale, 1.0):
        return None
    return [_like(node, "HardSigmoid", [found.x], {"alpha": found.slope * scale, "beta": found.offset * scale})]


def _gate(value: ir.Value) -> Clipped | None:
    """What a factor computes, where nothing else reads it."""
    node = value.producer()
    if node is None or not _only_reader(value):
        return None
    if node.op_type == "HardSigmoid" and node.domain == "" and node.inputs[0] is not None:
        return Clipped(
            x=node.inputs[0],
            slope=node.attributes.get_float("alpha", 0.2),
            offset=node.attributes.get_float("beta", 0.5),
            top=1.0,
        )
    return _clipped(node)


def _clipped(node: ir.Node) -> Clipped | None:
    """`clip(a·x + b, 0, c)` ending in this node, in the spellings of case 1."""
    limits = _limits(node)
    if limits is None:
        return None
    value, low, high = limits
    if low != 0.0 or not 0.0 < high < np.inf or not _only_reader(value):
        return None
    line = value.producer()
    if line is None or line.op_type != "Add" or line.domain != "":
        return None
    x, offset = _value_and_scalar(line)
    if x is None or offset is None:
        return None
    slope = 1.0
    scaled = x.producer()
    if scaled is not None and scaled.op_type == "Mul" and scaled.domain == "" and _only_reader(x):
        inner, number = _value_and_scalar(scaled)
        if inner is not None and number is not None:
            x, slope = inner, number
    return Clipped(x=x, slope=slope, offset=offset, top=high)


def _limits(node: ir.Node) -> tuple[ir.Value, float, float] | None:
    """A value and the limits that this node, or it and the one before, hold it within."""
    own = _own_limits(node)
    if own is None:
        return None
    value, low, high = own
    before = value.producer()
    if node.op_type != "Clip" and before is not None and before.op_type != "Clip" and _only_reader(value):
        inner = _own_limits(before)
        if inner is not None:
            # The outer limit holds last; they cross only in nonsense, which no case then matches.
            return inner[0], max(inner[1], low), min(inner[2], high)
    return own


def _own_limits(node: ir.Node) -> tuple[ir.Value, float, float] | None:
    first = node.inputs[0] if node.inputs else None
    if node.domain != "" or first is None:
        return None
    if node.op_type == "Relu":
        return first, 0.0, np.inf
    if node.op_type in ("Min", "Max") and len(node.inputs) == 2:
        value, number = _value_and_scalar(node)
        if value is None or number is None:
            return None
        return (value, -np.inf, number) if node.op_type == "Min" else (value, number, np.inf)
    if node.op_type != "Clip":
        return None
    ends = [node.attributes.get_float(name, default) for name, default in (("min", -np.inf), ("max", np.inf))]
    for index in (1, 2):
        if len(node.inputs) > index and node.inputs[index] is not None:
            number = _scalar(node.inputs[index])
            if number is None:
                return None
            ends[index - 1] = number
    return first, ends[0], ends[1]


def _product(node: ir.Node) -> Product | None:
    """The node's output as a product, chains of constant factors before it included; None where it is none."""
    if node.domain != "" or len(node.inputs) != 2:
        return None
    left, right = node.inputs
    if left is None or right is None:
        return None
    number = _scalar(right)
    if node.op_type == "Div":
        if not number or _scalar(left) is not None:
            return None
        return _scaled(left, 1 / number)
    if number is not None:
        return _scaled(left, number)
    number = _scalar(left)
    if number is not None:
        return _scaled(right, number)
    parts = (_scaled_only(left), _scaled_only(right))
    return Product(factor=parts[0][0] * parts[1][0], values=(parts[0][1], parts[1][1]))


def _scaled(value: ir.Value, factor: float) -> Product:
    """`factor · value`, looking one product further where nothing else reads it."""
    node = value.producer()
    if node is not None and node.op_type in ("Mul", "Div") and _only_reader(value):
        inner = _product(node)
        if inner is not None:
            return Product(factor=inner.factor * factor, values=inner.values)
    return Product(factor=factor, values=(value,))


def _scaled_only(value: ir.Value) -> tuple[float, ir.Value]:
    """A factor of a product: the number in it, and the rest."""
    node = value.producer()
    if node is not None and node.op_type in ("Mul", "Div") and _only_reader(value):
        inner = _product(node)
        if inner is not None and len(inner.values) == 1:
            return inner.factor, inner.values[0]
    return 1.0, value


def _value_and_scalar(node: ir.Node) -> tuple[ir.Value | None, float | None]:
    """The operands of a commutative node where one of the two is a number."""
    if len(node.inputs) != 2:
        return None, None
    left, right = node.inputs
    number = _scalar(right)
    return (left, number) if number is not None else (right, _scalar(left))


def _scalar(value: ir.Value | None) -> float | None:
    """The number that a constant of one element holds, or of equal elements along a broadcast axis."""
    if value is None or value.is_graph_input():
        return None
    array = constant(value)
    if array is None or array.size != 1 or array.ndim > 1 or array.dtype.kind != "f":
        return None
    return float(array.reshape(()))


def _near(value: float, wanted: float) -> bool:
    return abs(value - wanted) <= _CLOSE * abs(wanted)


def _only_reader(value: ir.Value) -> bool:
    return not value.is_graph_output() and len(value.uses()) == 1


def _is_float(node: ir.Node) -> bool:
    return node.domain == "" and len(node.outputs) == 1 and node.outputs[0].dtype in (ir.DataType.FLOAT, None)


def _like(node: ir.Node, op_type: str, inputs: list[ir.Value], attributes: dict[str, float]) -> ir.Node:
    """A node whose output has the type and shape of another's."""
    made = ir.node(op_type, inputs, attributes=attributes, name=f"{node.outputs[0].name}_{op_type}")
    made.outputs[0].type, made.outputs[0].shape = node.outputs[0].type, node.outputs[0].shape
    return made


def _replace(graph: ir.Graph, node: ir.Node, by: list[ir.Node]) -> None:
    """Put nodes in a node's place, and drop what nothing reads any more."""
    old, new = node.outputs[0], by[-1].outputs[0]
    graph.insert_after(node, by)
    name = old.name
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    old.name, new.name = f"{name}_unfused", name
    drop_unread(graph, node)


def drop_unread(graph: ir.Graph, node: ir.Node) -> None:
    """Remove the node and, going back, all that only it read."""
    before = [value.producer() for value in node.inputs if value is not None]
    graph.remove(node, safe=True)
    for other in before:
        if (
            other is not None
            and other.graph is graph
            and not any(out.uses() or out.is_graph_output() for out in other.outputs)
        ):
            drop_unread(graph, other)
