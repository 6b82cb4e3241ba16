"""Which weights of a graph can be stored as integers, and along which axes their channels lie: decided, not written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from edgepack.model import Model, constant

# The operands that are weights: operator -> inputs.
OPERANDS = {
    "Conv": (1,),
    "ConvTranspose": (1,),
    "Gemm": (1,),
    "MatMul": (0, 1),
    "Gather": (0,),
    "LSTM": (1, 2),
    "GRU": (1, 2),
    "RNN": (1, 2),
}
# Below this the scales and the nodes that undo them take what the integers save.
SMALLEST = 512


@dataclass(frozen=True, kw_only=True)
class Weight:
    """A constant that weighted operators read; `channels` are the axes whose entries have scales of their own."""

    value: ir.Value
    array: np.ndarray
    channels: tuple[int, ...]
    uses: tuple[tuple[ir.Node, int], ...]

    @property
    def name(self) -> str:
        return str(self.value.name)

    def as_matrix(self) -> np.ndarray:
        """[channels, everything else]: what `edgepack.passes.blocks` rounds."""
        others = [axis for axis in range(self.array.ndim) if axis not in self.channels]
        rows = int(np.prod([self.array.shape[axis] for axis in self.channels], dtype=np.int64))
        return np.transpose(self.array, (*self.channels, *others)).reshape(rows, -1)

    def from_matrix(self, matrix: np.ndarray) -> np.ndarray:
        """Back to the weight's own shape; a matrix of one column becomes a scale that broadcasts over it."""
        others = [axis for axis in range(self.array.ndim) if axis not in self.channels]
        order = (*self.channels, *others)
        shape = [self.array.shape[axis] for axis in self.channels]
        shape += [self.array.shape[axis] if matrix.shape[1] > 1 else 1 for axis in others]
        return np.ascontiguousarray(np.transpose(matrix.reshape(shape), np.argsort(order)))


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The weights found; `left_float` counts what is not among them though an operator reads it, and why."""

    found: tuple[Weight, ...]
    left_float: Counter[str] = field(default_factory=Counter)


def find_weights(model: Model) -> Weights:
    """The float32 constants of at least SMALLEST numbers that an operand of OPERANDS is, each once.

    What lies inside control flow stays as it is, and is counted.
    """
    found: dict[int, Weight] = {}
    left_float = _nested(model)
    for node in model.ir.graph:
        for index, value in _operands(node):
            array = constant(value)
            if array is None or array.size < SMALLEST or array.ndim < 2 or id(value) in found:
                continue
            if array.dtype != np.float32:
                left_float[f"weights of {array.dtype.name}: {node.op_type}"] += 1
            elif not np.all(np.isfinite(array)):
                left_float[f"weights that are not finite: {node.op_type}"] += 1
            elif not value.is_graph_output() and not value.is_graph_input():
                found[id(value)] = Weight(
                    value=value, array=array, channels=_channels(node, index, array), uses=tuple(value.uses())
                )
    return Weights(found=tuple(found.values()), left_float=left_float)


def matrix_of(weight: Weight, graph: ir.Graph) -> np.ndarray | None:
    """[out, in] where every reader is in `graph` and multiplies activations by this matrix on the right; else None."""
    forms = {_form(node, index) if node.graph is graph else "" for node, index in weight.uses}
    if weight.array.ndim != 2 or len(forms) != 1 or forms == {""}:
        return None
    return weight.array if forms == {"out, in"} else weight.array.T


def _form(node: ir.Node, index: int) -> str:
    """How a node holds a matrix that it multiplies by; empty where it does something else."""
    if node.domain != "" or index != 1 or node.inputs[0] is None or constant(node.inputs[0]) is not None:
        return ""
    if node.op_type == "MatMul":
        shape = node.inputs[0].shape
        return "in, out" if shape is None or len(shape) >= 2 else ""
    if node.op_type != "Gemm" or node.attributes.get_int("transA", 0) != 0:
        return ""
    if node.attributes.get_float("alpha", 1.0) != 1.0 or node.attributes.get_float("beta", 1.0) != 1.0:
        return ""
    return "out, in" if node.attributes.get_int("transB", 0) else "in, out"


def _operands(node: ir.Node) -> Iterator[tuple[int, ir.Value]]:
    for index in OPERANDS.get(node.op_type, ()) if node.domain == "" else ():
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is not None:
            yield index, value


def _channels(node: ir.Node, index: int, array: np.ndarray) -> tuple[int, ...]:
    """The axes over which the operator does not sum."""
    last = array.ndim - 1
    if node.op_type == "Gather":
        return (node.attributes.get_int("axis", 0) % array.ndim,)
    if node.op_type == "Conv":
        return (0,)
    if node.op_type == "ConvTranspose":
        return (1,) if node.attributes.get_int("group", 1) == 1 else (0, 1)
    if node.op_type == "Gemm":
        return (0,) if node.attributes.get_int("transB", 0) else (1,)
    if node.op_type == "MatMul":
        summed = last if index == 0 else last - 1
        return tuple(axis for axis in range(array.ndim) if axis != summed)
    return (0, 1)  # recurrent: [directions, gates · hidden, inputs]


def _nested(model: Model) -> Counter[str]:
    top = set(model.ir.graph)
    return Counter(
        f"inside control flow: {node.op_type}"
        for node in model.nodes()
        if node not in top and node.op_type in OPERANDS and node.op_type not in ("Gather",)
    )
