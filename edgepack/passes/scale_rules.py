"""What single operators do to channels that are scaled: rules for passes/scale_groups.py."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgepack.model import constant
from edgepack.passes.affine import foldable
from edgepack.quantization.layer import to_matrix


def input_channels(node: ir.Node, weight: np.ndarray) -> int:
    if node.op_type == "Conv":
        return int(weight.shape[1]) * node.attributes.get_int("group", 1)
    if node.op_type == "ConvTranspose":
        return int(weight.shape[0])
    return int(to_matrix(node, weight).shape[2])


def owns_weights(node: ir.Node) -> bool:
    if node.op_type != "MatMul":
        return foldable(node)
    weight = node.inputs[1]
    array = constant(weight)
    return (
        array is not None
        and array.ndim == 2
        and array.dtype == np.float32
        and weight is not None
        and len(weight.uses()) == 1
    )


def is_homogeneous(node: ir.Node, axis: int) -> bool:
    """Whether f(x / s) = f(x) / s for a scale of each channel on that axis."""
    if node.op_type == "Clip":
        ends = [constant(value) for value in node.inputs[1:]]
        missing = [value is None for value in node.inputs[1:]]
        return (
            len(ends) >= 1
            and ends[0] is not None
            and float(ends[0]) == 0.0
            and (
                len(ends) == 1 or missing[1] or (ends[1] is not None and not float(ends[1]) < np.finfo(np.float32).max)
            )
        )
    if node.op_type == "PRelu":
        return constant(node.inputs[1]) is not None
    if node.op_type == "Resize":
        return node.attributes.get_string("coordinate_transformation_mode", "half_pixel") != "tf_crop_and_resize"
    if node.op_type == "ReduceMean":
        axes = node.attributes.get_ints("axes", None) if "axes" in node.attributes else None
        given = constant(node.inputs[1]) if len(node.inputs) > 1 else None
        axes = axes if axes is not None else given.reshape(-1).tolist() if given is not None else None
        shape = node.inputs[0].shape if node.inputs[0] is not None else None
        if axes is None or shape is None or node.attributes.get_int("keepdims", 1) != 1:
            return False
        return axis not in [a % len(shape) for a in axes]
    return True


def moved(node: ir.Node, axis: int, classes: np.ndarray) -> tuple[int, np.ndarray] | None:
    """Where Flatten, Reshape, Transpose, Squeeze and Unsqueeze put channels; None where they mix them.

    In memory a tensor is [outer, channels, inner]; it still is if the dims behind some axis come to the same inner.
    """
    value, output = node.inputs[0], node.outputs[0]
    if value is None or value.shape is None or output.shape is None:
        return None
    before, after = list(value.shape), list(output.shape)
    if node.op_type == "Transpose":
        order = list(node.attributes.get_ints("perm", range(len(before))[::-1]))
        return order.index(axis), classes
    inner = _product(before[axis + 1 :])
    if inner is None:
        return None
    for place, size in enumerate(after):
        if size == classes.size and _product(after[place + 1 :]) == inner:
            return place, classes
    if after and after[-1] == classes.size * inner:  # each channel is there once for each of its places
        return len(after) - 1, np.repeat(classes, inner)
    return None


def _product(dims: list[int | ir.SymbolicDim]) -> int | None:
    return int(np.prod([d for d in dims if isinstance(d, int)])) if all(isinstance(d, int) for d in dims) else None
