"""Per-channel affine maps in a graph: reading them, and folding them into the weights on either side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgepack.model import constant
from edgepack.passes.edits import replace_constant

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm"})


@dataclass(frozen=True, kw_only=True)
class Affine:
    """`scale · data + shift` by channel (axis 1); float64 arrays of shape [channels] or [1]."""

    data: ir.Value
    scale: np.ndarray
    shift: np.ndarray

    @property
    def scales(self) -> bool:
        return bool(np.any(self.scale != 1.0))

    @property
    def shifts(self) -> bool:
        return bool(np.any(self.shift != 0.0))


def read(node: ir.Node) -> Affine | None:
    """What the node computes together with those before it that only it reads; None where it is not affine."""
    outer = _own(node)
    if outer is None:
        return None
    before = outer.data.producer()
    inner = read(before) if before is not None and only_reader(outer.data) else None
    if inner is None:
        return outer
    return Affine(data=inner.data, scale=inner.scale * outer.scale, shift=inner.shift * outer.scale + outer.shift)


def _own(node: ir.Node) -> Affine | None:
    """The map of one BatchNormalization, Add, Sub, Mul or Div with constants."""
    if node.domain != "" or not node.inputs or node.inputs[0] is None:
        return None
    if node.op_type == "BatchNormalization":
        arrays = [constant(value) for value in node.inputs[1:5]]
        if len(node.outputs) != 1 or node.attributes.get_int("training_mode", 0) != 0 or not all_floats(arrays):
            return None
        gamma, beta, mean, variance = (array.astype(np.float64) for array in arrays if array is not None)
        scale = gamma / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
        return _sound(Affine(data=node.inputs[0], scale=scale, shift=beta - mean * scale))
    if node.op_type not in ("Add", "Sub", "Mul", "Div") or len(node.inputs) != 2:
        return None
    left, right = node.inputs
    number = _by_channel(right, left)
    if number is not None and left is not None:
        one, zero = np.ones(1), np.zeros(1)
        if node.op_type == "Div" and np.any(number == 0.0):
            return None
        scale = number if node.op_type == "Mul" else 1 / number if node.op_type == "Div" else one
        shift = number if node.op_type == "Add" else -number if node.op_type == "Sub" else zero
        return _sound(Affine(data=left, scale=scale, shift=shift))
    number = _by_channel(left, right) if node.op_type in ("Add", "Mul") else None
    if number is None or right is None:
        return None
    if node.op_type == "Mul":
        return _sound(Affine(data=right, scale=number, shift=np.zeros(1)))
    return _sound(Affine(data=right, scale=np.ones(1), shift=number))


def _sound(affine: Affine) -> Affine | None:
    return affine if np.isfinite(affine.scale).all() and np.isfinite(affine.shift).all() else None


def _by_channel(value: ir.Value | None, data: ir.Value | None) -> np.ndarray | None:
    """A constant operand as float64 [channels] or [1], where it spans no other axis of the data nor widens it."""
    array = constant(value)
    if array is None or data is None or constant(data) is not None or array.dtype != np.float32:
        return None
    if data.shape is None or array.ndim > len(data.shape):
        return None
    if array.size == 1:
        return array.reshape(1).astype(np.float64)
    rank = len(data.shape)
    full = array.reshape((1,) * (rank - array.ndim) + array.shape)
    if rank < 2 or full.size != full.shape[1] or data.shape[1] != full.shape[1]:
        return None
    return full.reshape(-1).astype(np.float64)


def only_reader(value: ir.Value) -> bool:
    return not value.is_graph_output() and len(value.uses()) == 1


def all_floats(arrays: list[np.ndarray | None]) -> bool:
    return all(array is not None and array.dtype == np.float32 for array in arrays)


def foldable(node: ir.Node | None) -> bool:
    """Whether the node's weights and bias are constants of its own, and nothing else is in its formula."""
    if node is None or node.op_type not in WEIGHTED or node.domain != "":
        return False
    held = [value for value in node.inputs[1:] if value is not None]
    if not held or not all_floats([constant(value) for value in held]) or constant(node.inputs[0]) is not None:
        return False
    if any(value.is_graph_input() for value in held):  # files from before IR 4 list weights as inputs too
        return False
    if len(held[0].uses()) != 1 or held[0].is_graph_output():
        return False
    if node.op_type != "Gemm":
        return True
    bias = constant(held[1]) if len(held) > 1 else None
    return (
        node.attributes.get_float("alpha", 1.0) == 1.0
        and node.attributes.get_float("beta", 1.0) == 1.0
        and node.attributes.get_int("transA", 0) == 0
        and (bias is None or bias.size in (1, _output_channels(node, _weight(node))))
    )


def is_padded(node: ir.Node) -> bool:
    """Whether a convolution reads zeros that lie around its input."""
    if node.op_type == "Gemm":
        return False
    pads = node.attributes.get_ints("pads", ())
    return node.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or any(pads)


def takes(node: ir.Node, channels: int) -> bool:
    """Whether the node's input has so many channels; 1 is a number for all of them."""
    weight = _weight(node)
    if node.op_type == "Conv":
        count = weight.shape[1] * node.attributes.get_int("group", 1)
    elif node.op_type == "ConvTranspose":
        count = weight.shape[0]
    else:
        count = weight.shape[1 if node.attributes.get_int("transB", 0) else 0]
    return channels in (1, count)


def gives(node: ir.Node, channels: int) -> bool:
    return channels in (1, _output_channels(node, _weight(node)))


def fold_behind(graph: ir.Graph, node: ir.Node, scale: np.ndarray, shift: np.ndarray) -> None:
    """Let the node answer `scale · y + shift` instead of y."""
    weight = _weight(node)
    count = _output_channels(node, weight)
    scale, shift = np.broadcast_to(scale, (count,)), np.broadcast_to(shift, (count,))
    if node.op_type == "ConvTranspose":
        groups = node.attributes.get_int("group", 1)
        grouped = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
        factor = scale.reshape(groups, 1, weight.shape[1], *(1,) * (weight.ndim - 2))
        _write(graph, node, 1, (grouped * factor).reshape(weight.shape))
    else:
        axis = 0 if node.op_type == "Conv" or node.attributes.get_int("transB", 0) != 0 else 1
        _write(graph, node, 1, weight * np.expand_dims(scale, tuple(i for i in range(weight.ndim) if i != axis)))
    bias = _bias(node, count)
    if bias is not None or np.any(shift != 0.0):
        _write(graph, node, 2, (0.0 if bias is None else bias) * scale + shift)


def fold_before(graph: ir.Graph, node: ir.Node, scale: np.ndarray, shift: np.ndarray) -> None:
    """Let the node take x where it took `scale · x + shift`; with a shift it must not be padded."""
    weight = _weight(node)
    if node.op_type == "Conv":
        groups = node.attributes.get_int("group", 1)
        grouped = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
        layout = (groups, 1, weight.shape[1], *(1,) * (weight.ndim - 2))
        count = groups * weight.shape[1]
        moved = (grouped * np.broadcast_to(shift, (count,)).reshape(layout)).sum(axis=tuple(range(2, grouped.ndim)))
        scaled = (grouped * np.broadcast_to(scale, (count,)).reshape(layout)).reshape(weight.shape)
    elif node.op_type == "ConvTranspose":
        # Its border sees fewer taps than its middle, so only a scale is exact; see `may_shift`.
        scaled = weight * np.broadcast_to(scale, weight.shape[:1]).reshape(-1, *(1,) * (weight.ndim - 1))
        moved = np.zeros(1)
    else:
        matrix = weight.T if node.attributes.get_int("transB", 0) else weight  # [inputs, outputs]
        moved = np.broadcast_to(shift, matrix.shape[:1]) @ matrix
        scaled = matrix * np.broadcast_to(scale, matrix.shape[:1])[:, None]
        scaled = scaled.T if node.attributes.get_int("transB", 0) else scaled
    _write(graph, node, 1, scaled)
    if np.any(shift != 0.0):
        bias = _bias(node, moved.size)
        _write(graph, node, 2, (0.0 if bias is None else bias) + moved.reshape(-1))


def may_shift(node: ir.Node) -> bool:
    """Whether a shift of the node's input is the same for every place of its output."""
    return node.op_type != "ConvTranspose" and not is_padded(node)


def _weight(node: ir.Node) -> np.ndarray:
    """The node's weights, float64."""
    array = constant(node.inputs[1])
    assert array is not None
    return array.astype(np.float64)


def _output_channels(node: ir.Node, weight: np.ndarray) -> int:
    if node.op_type == "Conv":
        return int(weight.shape[0])
    if node.op_type == "ConvTranspose":
        return int(weight.shape[1]) * node.attributes.get_int("group", 1)
    return int(weight.shape[0 if node.attributes.get_int("transB", 0) else 1])


def _bias(node: ir.Node, count: int) -> np.ndarray | None:
    array = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    return None if array is None else np.broadcast_to(array.reshape(-1).astype(np.float64), (count,))


def _write(graph: ir.Graph, node: ir.Node, index: int, array: np.ndarray) -> None:
    """A float32 constant as the node's input, in the place of the old one."""
    old = node.inputs[index] if len(node.inputs) > index else None
    stem = str(old.name) if old is not None else f"{node.name or node.outputs[0].name}_bias"
    replace_constant(graph, node, index, array.astype(np.float32), f"{stem}_folded")
