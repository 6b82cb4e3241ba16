"""Which channels can be scaled together without changing what a model answers.

A channel that a weighted operator makes may be divided by s > 0 there and multiplied by s in the weights of all that
read it, as long as everything between is positively homogeneous, f(x / s) = f(x) / s (Nagel et al., "Data-Free
Quantization Through Weight Equalization and Bias Correction", 2019; Meller et al., "Same, Same But Different", 2019):

1. Relu, LeakyRelu and PRelu; Clip only where it is a Relu; pooling, resizing and ReduceMean over other axes.
2. Flatten, Reshape to [batch, everything], Transpose, Squeeze and Unsqueeze move the channels.
3. Add and Sub need equal scales on both sides; with constants, the constants are divided.
4. Concat along the channels puts scales side by side, along another axis it needs equal ones.
5. Mul by a gate (what comes from a Sigmoid or HardSigmoid) passes the other factor's scale on.

What anything else reads or makes, what is an input or output of the model, and what nested graphs read, keeps the
scale 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from edgepack.model import Model, constant
from edgepack.passes.scale_rules import input_channels, is_homogeneous, moved, owns_weights
from edgepack.quantization.layer import to_matrix

LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
# What stands before the layers of a Transformer: their scale and shift can take a factor too.
NORMS = frozenset({"LayerNormalization", "Mul"})
_UNARY = frozenset(
    {"Relu", "LeakyRelu", "Identity", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Resize"}
)
_GATES = frozenset({"Sigmoid", "HardSigmoid"})


@dataclass(frozen=True, kw_only=True)
class Channels:
    """Of a value: the axis that counts channels, and for each channel the class whose scale it has."""

    axis: int
    classes: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Port:
    """Where scales are written: a node, and the classes of the channels that it makes or reads.

    For nodes that are no layer, `index` is the constant input that takes it, along its `axis`, counted from the last.
    """

    node: ir.Node
    classes: np.ndarray
    index: int = 1
    axis: int = -1


@dataclass(kw_only=True)
class ScaleGroups:
    """Classes of channels are numbered; `free` says which may have a scale other than 1.

    `makers` are divided by the scale and `readers` multiplied with it; `constants` are divided.
    """

    values: dict[str, Channels] = field(default_factory=dict)
    makers: list[Port] = field(default_factory=list)
    readers: list[Port] = field(default_factory=list)
    constants: list[Port] = field(default_factory=list)
    free: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))

    def components(self) -> list[np.ndarray]:
        """The free classes, in sets that share no value."""
        joined = [
            (np.full(channels.classes.size, channels.classes[0]), channels.classes)
            for channels in self.values.values()
            if channels.classes.size
        ]
        free = np.flatnonzero(self.free)
        root = lowest_equal(self.free.size, joined)[free]
        return [free[root == one] for one in np.unique(root)]


def lowest_equal(count: int, equal: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """For each of `count` numbers the lowest that pairs make equal to it."""
    root = np.arange(count)
    while True:
        before = root.copy()
        for one, other in equal:
            lowest = np.minimum(root[one], root[other])
            np.minimum.at(root, one, lowest)
            np.minimum.at(root, other, lowest)
        root = root[root]
        if (before == root).all():
            return root


def trace(model: Model, makers: frozenset[str] = LAYERS) -> ScaleGroups:
    """Follow channels from the operators in `makers` to what reads them.

    Args:
        model: with inferred shapes.
    """
    return _Tracing(model, makers).groups()


class _Tracing:
    """One walk over a graph; classes that must be equal and those that must stay 1 are gathered and resolved last."""

    def __init__(self, model: Model, makers: frozenset[str]) -> None:
        self.graph = model.ir.graph
        self.top = set(self.graph)
        self.wanted = makers
        self.found = ScaleGroups()
        self.count = 0
        self.equal: list[tuple[np.ndarray, np.ndarray]] = []
        self.fixed: list[np.ndarray] = []
        self.named: dict[str, ir.Value] = {}

    def groups(self) -> ScaleGroups:
        for node in self.graph:
            self.visit(node)
        for name, channels in self.found.values.items():
            value = self.named[name]
            if value.is_graph_output() or any(reader not in self.top for reader, _ in value.uses()):
                self.fixed.append(channels.classes)
        root = lowest_equal(self.count, self.equal)
        free = np.ones(self.count, bool)
        for classes in self.fixed:
            free[root[classes]] = False
        free &= root == np.arange(self.count)

        def resolved(ports: list[Port]) -> list[Port]:
            return [replace(port, classes=root[port.classes]) for port in ports]

        found = self.found
        return ScaleGroups(
            values={name: replace(channels, classes=root[channels.classes]) for name, channels in found.values.items()},
            makers=resolved(found.makers),
            readers=resolved(found.readers),
            constants=resolved(found.constants),
            free=free,
        )

    def visit(self, node: ir.Node) -> None:
        follow = _FOLLOWED.get(node.op_type) if node.domain == "" else None
        if follow is None or not follow(self, node):
            self.fix(*node.inputs)

    def fix(self, *values: ir.Value | None) -> None:
        """Keep the scale 1 on all channels of the values."""
        self.fixed += [self.found.values[str(v.name)].classes for v in values if v is not None and self.of(v)]

    def of(self, value: ir.Value | None) -> Channels | None:
        return None if value is None else self.found.values.get(str(value.name))

    def new(self, count: int) -> np.ndarray:
        self.count += count
        return np.arange(self.count - count, self.count)

    def give(self, node: ir.Node, axis: int, classes: np.ndarray) -> bool:
        """Let the node's output have these channels; whether its shape agrees."""
        output = node.outputs[0]
        shape = output.shape
        if len(node.outputs) > 1 or shape is None or not 0 <= axis < len(shape) or shape[axis] != classes.size:
            return False
        self.found.values[str(output.name)] = Channels(axis=axis, classes=classes)
        self.named[str(output.name)] = output
        return True

    # Each returns False where the inputs' channels must keep the scale 1.

    def layer(self, node: ir.Node) -> bool:
        data, weight = node.inputs[0], constant(node.inputs[1])
        if not owns_weights(node) or weight is None or data is None:
            return False
        groups, outputs, _ = to_matrix(node, weight).shape
        last = node.op_type == "MatMul"
        shape = node.outputs[0].shape
        if node.op_type in self.wanted and shape is not None:
            classes = self.new(groups * outputs)
            if self.give(node, len(shape) - 1 if last else 1, classes):
                self.found.makers.append(Port(node=node, classes=classes))
        read = self.of(data)
        if read is None or data.shape is None or read.axis != (len(data.shape) - 1 if last else 1):
            return False
        if read.classes.size != input_channels(node, weight):
            return False
        self.found.readers.append(Port(node=node, classes=read.classes))
        return True

    def norm(self, node: ir.Node) -> bool:
        """LayerNormalization over the last axis, whose scale and shift take the factor."""
        shape = node.outputs[0].shape
        held = [constant(value) for value in node.inputs[1:3]]
        if node.op_type not in self.wanted or shape is None or any(a is None or a.ndim != 1 for a in held):
            return False
        if node.attributes.get_int("axis", -1) not in (-1, len(shape) - 1) or not isinstance(shape[-1], int):
            return False
        classes = self.new(shape[-1])
        if self.give(node, len(shape) - 1, classes):
            self.found.makers += [Port(node=node, classes=classes, index=1 + i) for i in range(len(held))]
        return False

    def unary(self, node: ir.Node) -> bool:
        data = self.of(node.inputs[0])
        return data is not None and is_homogeneous(node, data.axis) and self.give(node, data.axis, data.classes)

    def moved(self, node: ir.Node) -> bool:
        """Flatten, Reshape, Transpose, Squeeze, Unsqueeze."""
        data = self.of(node.inputs[0])
        if data is None:
            return False
        found = moved(node, data.axis, data.classes)
        return found is not None and self.give(node, *found)

    def sum(self, node: ir.Node) -> bool:
        left, right = node.inputs
        if constant(left) is not None or constant(right) is not None:
            return self.shift(node, *((right, 0) if constant(left) is not None else (left, 1)))
        one, other = self.of(left), self.of(right)
        if one is None or other is None or left is None or right is None or left.shape is None or right.shape is None:
            return False
        ranks = len(left.shape), len(right.shape)
        if one.axis - ranks[0] != other.axis - ranks[1] or one.classes.size != other.classes.size:
            return False
        self.equal.append((one.classes, other.classes))
        return self.give(node, one.axis + max(ranks) - ranks[0], one.classes)

    def shift(self, node: ir.Node, data: ir.Value | None, index: int) -> bool:
        """Add or Sub of a constant."""
        channels, array = self.of(data), constant(node.inputs[index])
        if channels is None or array is None or array.dtype != np.float32 or data is None or data.shape is None:
            return False
        if array.ndim > len(data.shape):
            return False
        axis = channels.axis - len(data.shape)
        if array.ndim >= -axis and array.shape[axis] not in (1, channels.classes.size):
            return False
        if not self.give(node, channels.axis, channels.classes):
            return False
        self.found.constants.append(Port(node=node, classes=channels.classes, index=index, axis=axis))
        return True

    def product(self, node: ir.Node) -> bool:
        """Mul and Div by constants, Mul by gates."""
        left, right = node.inputs
        if constant(right) is not None or (constant(left) is not None and node.op_type == "Mul"):
            data, index = (left, 1) if constant(right) is not None else (right, 0)
            channels = self.of(data)
            if channels is not None:
                return self.give(node, channels.axis, channels.classes)
            return self.scale(node, index)
        if node.op_type != "Mul":
            return False
        for data, gate in ((left, right), (right, left)):
            made_by = gate.producer() if gate is not None else None
            channels = self.of(data)
            if made_by is not None and made_by.op_type in _GATES and self.of(gate) is None and channels is not None:
                return self.give(node, channels.axis, channels.classes)
        return False

    def scale(self, node: ir.Node, index: int) -> bool:
        """A Mul by one constant a channel makes channels, as behind a normalization that is spelled out."""
        array, shape = constant(node.inputs[index]), node.outputs[0].shape
        if "Mul" not in self.wanted or node.op_type != "Mul" or array is None or shape is None:
            return False
        long = [i - array.ndim for i, size in enumerate(array.shape) if size > 1]
        if array.dtype != np.float32 or array.ndim > len(shape) or len(long) != 1:
            return False
        classes = self.new(array.size)
        if self.give(node, len(shape) + long[0], classes):
            self.found.makers.append(Port(node=node, classes=classes, index=index, axis=long[0]))
        return False

    def concatenation(self, node: ir.Node) -> bool:
        parts = [self.of(value) for value in node.inputs]
        known = next((part for part in parts if part is not None), None)
        shape = node.outputs[0].shape
        if known is None or shape is None or any(part is not None and part.axis != known.axis for part in parts):
            return False
        axis = node.attributes.get_int("axis", 0) % len(shape)
        if axis != known.axis:
            if any(part is None or part.classes.size != known.classes.size for part in parts):
                return False
            self.equal += [(known.classes, part.classes) for part in parts if part is not None]
            return self.give(node, known.axis, known.classes)
        classes = []
        for value, part in zip(node.inputs, parts, strict=True):
            size = value.shape[axis] if value is not None and value.shape is not None else None
            if part is None:
                if not isinstance(size, int):
                    return False
                self.fixed.append(self.new(size))
            classes.append(part.classes if part is not None else self.fixed[-1])
        return self.give(node, axis, np.concatenate(classes))


_FOLLOWED: dict[str, Callable[[_Tracing, ir.Node], bool]] = {
    **dict.fromkeys(LAYERS, _Tracing.layer),
    **dict.fromkeys(_UNARY | {"PRelu", "Clip", "ReduceMean"}, _Tracing.unary),
    **dict.fromkeys(("Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze"), _Tracing.moved),
    **dict.fromkeys(("Add", "Sub"), _Tracing.sum),
    **dict.fromkeys(("Mul", "Div"), _Tracing.product),
    "LayerNormalization": _Tracing.norm,
    "Concat": _Tracing.concatenation,
}
