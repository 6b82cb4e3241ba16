"""What single operators do to the places of axes: a rule an operator, and what has none is frozen by its name.

A rule ties what must be removed together, such that the smaller operator answers as the whole one does where the
removed places are zero for whoever multiplies them with weights. It freezes what no smaller operator could answer.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from edgepack.model import constant
from edgepack.pruning.ties import Ties

Rule = Callable[[ir.Node, Ties], None]

UNARY = frozenset(
    {
        "Relu", "LeakyRelu", "Elu", "Selu", "Celu", "ThresholdedRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Swish",
        "Tanh", "Softplus", "Softsign", "Mish", "Gelu", "QuickGelu", "FastGelu", "Erf", "Exp", "Log", "Sqrt", "Abs",
        "Neg", "Reciprocal", "Floor", "Ceil", "Round", "Sign", "Sin", "Cos", "Identity", "Dropout", "Cast", "Clip",
        "Not", "IsNaN", "Shrink", "BitShift",
    }
)  # fmt: skip
ELEMENTWISE = frozenset(
    {
        "Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Mean", "Sum", "Where", "PRelu", "Mod", "And", "Or", "Xor",
        "Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual", "BiasGelu",
    }
)  # fmt: skip
POOLS = frozenset({"MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"})


def name(value: ir.Value | None) -> str:
    return "" if value is None else str(value.name)


def words(node: ir.Node) -> str:
    """A node as messages name it."""
    return f"{node.op_type} {node.outputs[0].name}"


def read(node: ir.Node, index: int) -> str:
    """The name of an input; empty where it is not given."""
    return name(node.inputs[index]) if len(node.inputs) > index else ""


def opset(node: ir.Node) -> int:
    """The version of ONNX's operators that the node's graph is written in."""
    imports = {} if node.graph is None else node.graph.opset_imports
    return int(imports.get("", imports.get("ai.onnx", 13)))


def same(ties: Ties, one: str, other: str, axes: list[int] | None = None) -> None:
    """Axes of two values that count the same, all of them if none are given."""
    for axis in range(ties.rank(one)) if axes is None else axes:
        ties.tie_axes((one, axis), (other, axis))


def unary(node: ir.Node, ties: Ties) -> None:
    for output in node.outputs:
        if name(output) in ties.shapes:
            same(ties, read(node, 0), name(output))


def elementwise(node: ir.Node, ties: Ties) -> None:
    """Axes are aligned at the end; one of length 1 is repeated and tells nothing of the other's places."""
    output = name(node.outputs[0])
    for value in node.inputs:
        given = name(value)
        offset = ties.rank(output) - ties.rank(given) if given else 0
        for axis in range(ties.rank(given)) if given else ():
            if ties.size(given, axis) == ties.size(output, axis + offset):
                ties.tie_axes((given, axis), (output, axis + offset))


def grouping(node: ir.Node, weight: tuple[int, ...]) -> tuple[int, bool]:
    """A convolution's groups, and whether they are removed whole; else the same places of every group are removed."""
    groups = node.attributes.get_int("group", 1)
    first, second = (weight[0] // groups, weight[1])
    return groups, groups > 1 and groups >= max(first, second)


def conv(node: ir.Node, ties: Ties) -> None:
    """Conv and ConvTranspose: of the weight's axes 0 and 1 one counts outputs, the other inputs of a group."""
    data, weight, output = read(node, 0), read(node, 1), name(node.outputs[0])
    outputs, inputs = (1, 0) if node.op_type == "ConvTranspose" else (0, 1)
    groups, whole = grouping(node, ties.shapes[weight])
    sides = {outputs: ties.atoms(output, 1).reshape(groups, -1), inputs: ties.atoms(data, 1).reshape(groups, -1)}
    if whole:
        leaders = sides[0][:, :1]
        for atoms in (*sides.values(), ties.atoms(weight, 0).reshape(groups, -1)):
            ties.tie(leaders, atoms)
        ties.freeze(weight, f"{words(node)} loses whole groups", [1])
    else:
        ties.tie(ties.atoms(weight, 0).reshape(groups, -1), sides[0])
        ties.tie(ties.atoms(weight, 1)[None, :], sides[1])
        for atoms in sides.values() if groups > 1 else ():
            ties.tie(atoms[:1], atoms)
    if read(node, 2):
        ties.tie_axes((read(node, 2), 0), (output, 1))
    reason = f"{words(node)} slides along it"
    for value in (data, output):
        ties.freeze(value, reason, list(range(2, ties.rank(value))))
    ties.tie_axes((data, 0), (output, 0))


def gemm(node: ir.Node, ties: Ties) -> None:
    one, other, output = read(node, 0), read(node, 1), name(node.outputs[0])
    rows = 1 if node.attributes.get_int("transA", 0) else 0
    columns = 0 if node.attributes.get_int("transB", 0) else 1
    ties.tie_axes((one, 1 - rows), (other, 1 - columns))
    ties.tie_axes((one, rows), (output, 0))
    ties.tie_axes((other, columns), (output, 1))
    added = read(node, 2)
    for axis in range(ties.rank(added)) if added else ():
        place = axis + 2 - ties.rank(added)
        if ties.size(added, axis) == ties.size(output, place):
            ties.tie_axes((added, axis), (output, place))


def matmul(node: ir.Node, ties: Ties) -> None:
    one, other, output = read(node, 0), read(node, 1), name(node.outputs[0])
    if min(ties.rank(one), ties.rank(other)) < 2:
        freeze_all(node, ties)
        return
    ties.tie_axes((one, ties.rank(one) - 1), (other, ties.rank(other) - 2))
    ties.tie_axes((one, ties.rank(one) - 2), (output, ties.rank(output) - 2))
    ties.tie_axes((other, ties.rank(other) - 1), (output, ties.rank(output) - 1))
    for value in (one, other):
        offset = ties.rank(output) - ties.rank(value)
        for axis in range(ties.rank(value) - 2):
            if ties.size(value, axis) == ties.size(output, axis + offset):
                ties.tie_axes((value, axis), (output, axis + offset))


def einsum(node: ir.Node, ties: Ties) -> None:
    """Axes of one letter belong together."""
    equation = node.attributes.get_string("equation", "").replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    letters = [*terms, right]
    values = [name(value) for value in (*node.inputs, node.outputs[0])]
    if not arrow or "." in equation or any(len(set(term)) < len(term) for term in letters):
        freeze_all(node, ties)
        return
    where: dict[str, tuple[str, int]] = {}
    for value, term in zip(values, letters, strict=True):
        for axis, letter in enumerate(term):
            first = where.setdefault(letter, (value, axis))
            ties.tie_axes(first, (value, axis))
    for letter, (value, axis) in where.items():
        if letter not in right and sum(letter in term for term in terms) == 1:
            ties.freeze(value, f"{words(node)} sums over it", [axis])


def batch_norm(node: ir.Node, ties: Ties) -> None:
    """BatchNormalization and InstanceNormalization: statistics of each channel by itself."""
    data = read(node, 0)
    same(ties, data, name(node.outputs[0]))
    for value in node.inputs[1:]:
        ties.tie_axes((name(value), 0), (data, 1))
    if node.op_type == "InstanceNormalization":
        ties.freeze(data, f"{words(node)} takes means along it", list(range(2, ties.rank(data))))


def along(node: ir.Node, ties: Ties) -> None:
    """Softmax, LayerNormalization and the like: each place depends on all others along one axis, or from it on."""
    data, output = read(node, 0), name(node.outputs[0])
    axis = node.attributes.get_int("axis", -1) % ties.rank(data)
    old = "max" in node.op_type and opset(node) < 13
    if old:  # all axes from its own on, 1 if not given
        axis = node.attributes.get_int("axis", 1) % ties.rank(data)
    to_the_end = old or node.op_type in ("LayerNormalization", "RMSNormalization")
    same(ties, data, output)
    mixed = list(range(axis, ties.rank(data))) if to_the_end else [axis]
    ties.freeze(data, f"{words(node)} mixes all places along it", mixed)
    for value in node.inputs[1:]:
        if name(value) in ties.shapes:
            ties.freeze(name(value), f"{words(node)} mixes all places along it")


def pool(node: ir.Node, ties: Ties) -> None:
    data = read(node, 0)
    for output in node.outputs:
        if name(output) in ties.shapes:
            same(ties, data, name(output), [0, 1])
            ties.freeze(name(output), f"{words(node)} pools along it", list(range(2, ties.rank(name(output)))))
    ties.freeze(data, f"{words(node)} pools along it", list(range(2, ties.rank(data))))


def reduce(node: ir.Node, ties: Ties) -> None:
    """Means, sums and extremes along some axes, which mix them."""
    data, output = read(node, 0), name(node.outputs[0])
    rank = ties.rank(data)
    axes = [axis % rank for axis in reduced_axes(node, rank)]
    keep = node.attributes.get_int("keepdims", 1)
    ties.freeze(data, f"{words(node)} mixes all places along it", axes)
    for axis in range(rank):
        if axis not in axes:
            ties.tie_axes((data, axis), (output, axis if keep else axis - sum(a < axis for a in axes)))


def reduced_axes(node: ir.Node, rank: int) -> list[int]:
    """The axes that a Reduce operator works along, as written."""
    if node.op_type in ("ArgMax", "ArgMin"):
        return [node.attributes.get_int("axis", 0)]
    given = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if given is not None:
        return [int(axis) for axis in given.reshape(-1)]
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        return list(range(rank))
    return list(node.attributes.get_ints("axes", [])) or list(range(rank))


def transpose(node: ir.Node, ties: Ties) -> None:
    data, output = read(node, 0), name(node.outputs[0])
    order = node.attributes.get_ints("perm", list(range(ties.rank(data)))[::-1])
    for axis, source in enumerate(order):
        ties.tie_axes((data, source), (output, axis))


def freeze_all(node: ir.Node, ties: Ties) -> None:
    """An operator without a rule: whatever it reads and makes stays as it is."""
    for value in (*node.inputs, *node.outputs):
        if name(value) in ties.shapes:
            ties.freeze(name(value), f"{words(node)} has no rule")
