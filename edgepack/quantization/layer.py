"""A weighted node as a matrix: each output channel is a row of weights that meets patches of the input.

Conv, ConvTranspose, Gemm and MatMul all become `output = matrix · patch` by group, so that statistics, rounding and
bias correction are written once. G groups, O output channels a group, K weights a channel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgepack.model import constant

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


def to_matrix(node: ir.Node, weight: np.ndarray) -> np.ndarray:
    """The weight as [G, O, K]; a MatMul of more than two axes has no such form.

    Raises:
        ValueError: the weight has no such form.
    """
    if node.op_type == "Conv":
        groups = node.attributes.get_int("group", 1)
        return np.asarray(weight.reshape(groups, weight.shape[0] // groups, -1))
    if node.op_type == "ConvTranspose":
        groups = node.attributes.get_int("group", 1)
        split = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
        return np.asarray(split.transpose(0, 2, 1, 3).reshape(groups, weight.shape[1], -1))
    if weight.ndim != 2:
        raise ValueError(f"a {node.op_type} with weights of {weight.ndim} axes is no matrix")
    return (weight if _transposed(node) else weight.T)[None]


def from_matrix(node: ir.Node, matrix: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `to_matrix`, for a weight of that shape."""
    if node.op_type == "Conv":
        return np.asarray(matrix.reshape(shape))
    if node.op_type == "ConvTranspose":
        groups, outputs = matrix.shape[:2]
        split = matrix.reshape(groups, outputs, shape[0] // groups, -1)
        return np.asarray(split.transpose(0, 2, 1, 3).reshape(shape))
    return np.asarray(matrix[0] if _transposed(node) else matrix[0].T)


def _transposed(node: ir.Node) -> bool:
    return node.op_type == "Gemm" and bool(node.attributes.get_int("transB", 0))


def channel_axis(node: ir.Node, weight: np.ndarray) -> int | None:
    """The axis of the weight that counts output channels; None where no single axis does."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1 if node.attributes.get_int("group", 1) == 1 else None
    if node.op_type == "Gemm":
        return 0 if _transposed(node) else 1
    return weight.ndim - 1 if weight.ndim == 2 else None


def output_axis(node: ir.Node) -> int:
    """The axis of the output that counts channels."""
    return 1 if node.op_type in ("Conv", "ConvTranspose", "Gemm") else -1


def bias_of(node: ir.Node) -> np.ndarray | None:
    """The node's bias, one float64 a channel; None if it has none."""
    array = constant(node.inputs[2]) if len(node.inputs) > 2 and node.op_type != "MatMul" else None
    weight = constant(node.inputs[1])
    if array is None or weight is None:
        return None
    bias = array.reshape(-1).astype(np.float64)
    axis = channel_axis(node, weight)
    # Gemm takes one number for all channels too.
    return np.broadcast_to(bias, (weight.shape[axis],)) if node.op_type == "Gemm" and axis is not None else bias


def addition(node: ir.Node) -> tuple[ir.Node, int] | None:
    """The Add of one constant a column to all that a MatMul makes, and which operand the constant is; else None."""
    weight, output = constant(node.inputs[1]), node.outputs[0]
    uses = list(output.uses())
    if node.op_type != "MatMul" or weight is None or weight.ndim != 2 or len(uses) != 1 or output.is_graph_output():
        return None
    reader, index = uses[0]
    added = constant(reader.inputs[1 - index]) if reader.op_type == "Add" and reader.domain == "" else None
    if added is None or added.dtype != np.float32 or not added.size == weight.shape[1] == added.shape[-1]:
        return None
    # With more axes than the product has, it would give it more.
    rank = 1 if output.shape is None else len(output.shape)
    return (reader, 1 - index) if added.ndim <= rank else None


def added_bias(node: ir.Node) -> np.ndarray | None:
    """What is added to each column of a MatMul's product, float64; None where nothing is (`addition`)."""
    added = addition(node)
    array = constant(added[0].inputs[added[1]]) if added is not None else None
    return None if array is None else array.reshape(-1).astype(np.float64)


def channel_count(node: ir.Node, weight: np.ndarray) -> int | None:
    """How many output channels there are; None where the weight is no matrix."""
    if node.op_type == "ConvTranspose":
        return int(weight.shape[1]) * node.attributes.get_int("group", 1)
    axis = channel_axis(node, weight)
    return None if axis is None else int(weight.shape[axis])


@dataclass(frozen=True, kw_only=True)
class Window:
    """How a convolution walks over its input, each tuple by spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]


def patches(node: ir.Node, data: np.ndarray, rows: int, random: np.random.Generator) -> np.ndarray | None:
    """What the rows of `to_matrix` are multiplied with, at up to `rows` places of each sample, chosen at random.

    Args:
        data: the node's input, batch first.

    Returns:
        float32 array [places, G, K]; None where the node walks in a way that is not followed here.
    """
    weight = constant(node.inputs[1])
    assert weight is not None
    if node.op_type in ("Gemm", "MatMul"):
        flat = data.reshape(-1, data.shape[-1])
        if len(flat) > rows * len(data):
            flat = flat[random.choice(len(flat), rows * len(data), replace=False)]
        return np.asarray(flat[:, None, :], np.float32)
    groups = node.attributes.get_int("group", 1)
    window = window_of(node, weight.shape[2:], data.shape[2:])
    if window is None:
        return None
    if node.op_type == "ConvTranspose":
        data, window = _as_convolution(data, window, _strides(node, weight.ndim - 2))
    reach = [
        range(-begin, size + end - (kernel - 1) * dilation, step)
        for begin, size, end, kernel, dilation, step in zip(
            window.begins, data.shape[2:], window.ends, window.kernel, window.dilations, window.strides, strict=True
        )
    ]
    counts = [len(axis) for axis in reach]
    total = int(np.prod(counts))
    if not total:
        return None
    picks = np.sort(random.choice(total, rows, replace=False)) if total > rows else np.arange(total)
    starts = [axis.start + axis.step * at for axis, at in zip(reach, np.unravel_index(picks, counts), strict=True)]
    taps = np.indices(window.kernel).reshape(len(counts), -1) * np.array(window.dilations)[:, None]
    index = np.stack(starts)[:, :, None] + taps[:, None, :]  # [axis, places, taps]
    sizes = np.array(data.shape[2:]).reshape(-1, 1, 1)
    inside = ((index >= 0) & (index < sizes)).all(axis=0)
    flat = np.ravel_multi_index(tuple(np.clip(index, 0, sizes - 1)), data.shape[2:])
    chosen = np.take(data.reshape(*data.shape[:2], -1), flat.reshape(-1), axis=2)
    chosen = chosen.reshape(len(data), groups, -1, *flat.shape)  # [N, G, C, places, taps]
    if not inside.all():
        chosen = np.where(inside, chosen, np.float32(0))
    if node.op_type == "ConvTranspose":
        chosen = np.flip(chosen, axis=-1)
    # Each group lies by itself, since it is multiplied by itself.
    by_group = np.ascontiguousarray(chosen.transpose(1, 0, 3, 2, 4), np.float32)
    return by_group.reshape(groups, len(data) * len(flat), -1).transpose(1, 0, 2)


def _strides(node: ir.Node, rank: int) -> tuple[int, ...]:
    return tuple(node.attributes.get_ints("strides", [1] * rank))


def window_of(node: ir.Node, kernel: tuple[int, ...], sizes: tuple[int, ...]) -> Window | None:
    """How a node with such a kernel walks over an input of these sizes; None where that is not followed here."""
    rank = len(kernel)
    strides = _strides(node, rank)
    dilations = tuple(node.attributes.get_ints("dilations", [1] * rank))
    pads = list(node.attributes.get_ints("pads", [0] * (2 * rank)))
    auto = node.attributes.get_string("auto_pad", "NOTSET")
    extra = list(node.attributes.get_ints("output_padding", [0] * rank))
    if auto in ("SAME_UPPER", "SAME_LOWER") and node.op_type != "ConvTranspose":
        for axis in range(rank):
            span = (kernel[axis] - 1) * dilations[axis] + 1
            total = max(0, (-(-sizes[axis] // strides[axis]) - 1) * strides[axis] + span - sizes[axis])
            less, more = total // 2, total - total // 2
            pads[axis], pads[rank + axis] = (less, more) if auto == "SAME_UPPER" else (more, less)
    elif auto not in ("NOTSET", "VALID") or "output_shape" in node.attributes:
        return None
    if min(pads, default=0) < 0:
        return None
    ends = [pad - more for pad, more in zip(pads[rank:], extra, strict=True)]
    return Window(kernel=kernel, strides=strides, dilations=dilations, begins=tuple(pads[:rank]), ends=tuple(ends))


def _as_convolution(data: np.ndarray, window: Window, strides: tuple[int, ...]) -> tuple[np.ndarray, Window]:
    """A transposed convolution is one over its input with zeros between, with the kernel turned around."""
    sizes = [(size - 1) * step + 1 for size, step in zip(data.shape[2:], strides, strict=True)]
    spread = np.zeros((*data.shape[:2], *sizes), data.dtype)
    spread[(slice(None), slice(None), *(slice(None, None, step) for step in strides))] = data
    reach = [(k - 1) * d for k, d in zip(window.kernel, window.dilations, strict=True)]
    # Padding of a transposed convolution crops: where it crops more than the kernel reaches, so does a slice here.
    begins = [r - b for r, b in zip(reach, window.begins, strict=True)]
    ends = [r - e for r, e in zip(reach, window.ends, strict=True)]
    crop = tuple(slice(max(0, -b), size - max(0, -e)) for b, e, size in zip(begins, ends, sizes, strict=True))
    return spread[(slice(None), slice(None), *crop)], Window(
        kernel=window.kernel,
        strides=(1,) * len(strides),
        dilations=window.dilations,
        begins=tuple(max(0, b) for b in begins),
        ends=tuple(max(0, e) for e in ends),
    )
