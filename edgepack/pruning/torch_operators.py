"""ONNX operators as differentiable torch functions. Imported by autograd.py alone, once torch is known to be there.

A function takes the node and its inputs, None where one is not given, and returns its output, or a list of them.
Semantics are those of https://onnx.ai/onnx/operators; what is left out of one raises UnsupportedOperator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch.nn import functional as F

from edgepack.errors import UnsupportedOperator
from edgepack.pruning.rules import opset, words

Tensor = Any
Operator = Callable[..., Any]


def refused(node: ir.Node, what: str = "") -> UnsupportedOperator:
    return UnsupportedOperator(
        f"importance by gradients knows no {words(node)}{what and f' {what}'}", "take --prune-importance second-order"
    )


def _numbers(tensor: Tensor) -> list[int]:
    return [int(number) for number in tensor.reshape(-1).tolist()]


def _listed(node: ir.Node, given: Sequence[Tensor], index: int, key: str) -> list[int] | None:
    """What newer opsets have as an input and older ones as an attribute."""
    if len(given) > index and given[index] is not None:
        return _numbers(given[index])
    return list(node.attributes.get_ints(key)) if key in node.attributes else None


def _around(node: ir.Node, x: Tensor, kernel: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """Strides, dilations, and pads as F.pad wants them: the last axis first, begin and end of each."""
    rank = len(kernel)
    strides = list(node.attributes.get_ints("strides", [1] * rank))
    dilations = list(node.attributes.get_ints("dilations", [1] * rank))
    auto = node.attributes.get_string("auto_pad", "NOTSET")
    pads = list(node.attributes.get_ints("pads", [0] * 2 * rank)) if auto in ("NOTSET", "") else [0] * 2 * rank
    for axis in range(rank) if auto.startswith("SAME") else ():
        size, step, reach = x.shape[2 + axis], strides[axis], dilations[axis] * (kernel[axis] - 1) + 1
        total = max((math.ceil(size / step) - 1) * step + reach - size, 0)
        begin = total // 2 if auto == "SAME_UPPER" else total - total // 2
        pads[axis], pads[axis + rank] = begin, total - begin
    return strides, dilations, [pads[axis + side * rank] for axis in reversed(range(rank)) for side in (0, 1)]


def _conv(node: ir.Node, x: Tensor, weight: Tensor, bias: Tensor = None) -> Tensor:
    strides, dilations, pads = _around(node, x, weight.shape[2:])
    run = (F.conv1d, F.conv2d, F.conv3d)[weight.ndim - 3]
    groups = node.attributes.get_int("group", 1)
    return run(F.pad(x, pads), weight, bias, strides, 0, dilations, groups)


def _conv_transpose(node: ir.Node, x: Tensor, weight: Tensor, bias: Tensor = None) -> Tensor:
    if "output_shape" in node.attributes or node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
        raise refused(node, "whose padding follows from its output's shape")
    strides, dilations, pads = _around(node, x, weight.shape[2:])
    more = list(node.attributes.get_ints("output_padding", [0] * len(strides)))
    run = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[weight.ndim - 3]
    whole = run(x, weight, bias, strides, 0, more, node.attributes.get_int("group", 1), dilations)
    return F.pad(whole, [-pad for pad in pads])


def _gemm(node: ir.Node, a: Tensor, b: Tensor, c: Tensor = None) -> Tensor:
    one = a.T if node.attributes.get_int("transA", 0) else a
    other = b.T if node.attributes.get_int("transB", 0) else b
    product = node.attributes.get_float("alpha", 1.0) * (one @ other)
    return product if c is None else product + node.attributes.get_float("beta", 1.0) * c


def _batch_norm(node: ir.Node, x: Tensor, *rest: Tensor) -> Tensor:
    if node.attributes.get_int("training_mode", 0):
        raise refused(node, "in training mode")
    scale, bias, mean, variance = (one.reshape(-1, *[1] * (x.ndim - 2)) for one in rest)
    return (x - mean) / torch.sqrt(variance + node.attributes.get_float("epsilon", 1e-5)) * scale + bias


def _instance_norm(node: ir.Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return F.instance_norm(x, weight=scale, bias=bias, eps=node.attributes.get_float("epsilon", 1e-5))


def _layer_norm(node: ir.Node, x: Tensor, scale: Tensor, bias: Tensor = None) -> Tensor:
    axis = node.attributes.get_int("axis", -1) % x.ndim
    normed = F.layer_norm(x, x.shape[axis:], eps=node.attributes.get_float("epsilon", 1e-5)) * scale
    return normed if bias is None else normed + bias


def _softmax(node: ir.Node, x: Tensor) -> Tensor:
    run = F.log_softmax if node.op_type == "LogSoftmax" else F.softmax
    if opset(node) >= 13:
        return run(x, node.attributes.get_int("axis", -1))
    axis = node.attributes.get_int("axis", 1) % x.ndim
    return run(x.reshape(*x.shape[:axis], -1), -1).reshape(x.shape)


def _max_pool(node: ir.Node, x: Tensor) -> Tensor:
    kernel = list(node.attributes.get_ints("kernel_shape"))
    strides, dilations, pads = _around(node, x, kernel)
    run = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(kernel) - 1]
    padded = F.pad(x, pads, value=-math.inf)
    return run(padded, kernel, strides, 0, dilations, bool(node.attributes.get_int("ceil_mode", 0)))


def _average_pool(node: ir.Node, x: Tensor) -> Tensor:
    kernel = list(node.attributes.get_ints("kernel_shape"))
    strides, _, pads = _around(node, x, kernel)
    run = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[len(kernel) - 1]
    ceil = bool(node.attributes.get_int("ceil_mode", 0))
    whole = run(F.pad(x, pads), kernel, strides, 0, ceil)
    if node.attributes.get_int("count_include_pad", 0) or not any(pads):
        return whole
    return whole / run(F.pad(torch.ones_like(x), pads), kernel, strides, 0, ceil)


def _reduce(node: ir.Node, x: Tensor, *rest: Tensor) -> Tensor:
    axes = _listed(node, (x, *rest), 1, "axes")
    if not axes:
        if node.attributes.get_int("noop_with_empty_axes", 0):
            return x
        axes = list(range(x.ndim))
    run = {"ReduceMean": torch.mean, "ReduceSum": torch.sum, "ReduceMax": torch.amax, "ReduceMin": torch.amin,
           "ReduceL2": torch.linalg.vector_norm}[node.op_type]  # fmt: skip
    return run(x, dim=axes, keepdim=bool(node.attributes.get_int("keepdims", 1)))


def _reshape(node: ir.Node, x: Tensor, target: Tensor) -> Tensor:
    sizes = _numbers(target)
    if not node.attributes.get_int("allowzero", 0):
        sizes = [x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    return x.reshape(sizes)


def _flatten(node: ir.Node, x: Tensor) -> Tensor:
    axis = node.attributes.get_int("axis", 1)
    return x.reshape(math.prod(x.shape[: axis % x.ndim if axis < 0 else axis]), -1)


def _transpose(node: ir.Node, x: Tensor) -> Tensor:
    return x.permute(list(node.attributes.get_ints("perm", list(range(x.ndim))[::-1])))


def _squeeze(node: ir.Node, x: Tensor, *rest: Tensor) -> Tensor:
    axes = _listed(node, (x, *rest), 1, "axes")
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


def _unsqueeze(node: ir.Node, x: Tensor, *rest: Tensor) -> Tensor:
    axes = _listed(node, (x, *rest), 1, "axes") or []
    for axis in sorted(axis % (x.ndim + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _split(node: ir.Node, x: Tensor, *rest: Tensor) -> list[Tensor]:
    axis, parts = node.attributes.get_int("axis", 0), len(node.outputs)
    sizes = _listed(node, (x, *rest), 1, "split")
    return list(torch.split(x, sizes or -(-x.shape[axis] // parts), axis))


def _slice(node: ir.Node, x: Tensor, *rest: Tensor) -> Tensor:
    given = (x, *rest)
    starts, ends = _listed(node, given, 1, "starts") or [], _listed(node, given, 2, "ends") or []
    axes = _listed(node, given, 3, "axes") or list(range(len(starts)))
    steps = _listed(node, given, 4, "steps") or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = x.shape[axis]
        # Python reads -size - 1 as before the first place, as ONNX does.
        places = range(size)[slice(start, end if end >= -size else None if step < 0 else 0, step)]
        x = x.index_select(axis, torch.tensor(places, dtype=torch.int64))
    return x


def _gather(node: ir.Node, x: Tensor, places: Tensor) -> Tensor:
    axis = node.attributes.get_int("axis", 0) % x.ndim
    picked = x.index_select(axis, places.reshape(-1).to(torch.int64) % x.shape[axis])
    return picked.reshape(*x.shape[:axis], *places.shape, *x.shape[axis + 1 :])


def _pad(node: ir.Node, x: Tensor, *rest: Tensor) -> Tensor:
    mode = node.attributes.get_string("mode", "constant")
    pads = _listed(node, (x, *rest), 1, "pads") or []
    axes = _numbers(rest[2]) if len(rest) > 2 and rest[2] is not None else list(range(x.ndim))
    around = [[0, 0] for _ in range(x.ndim)]
    for number, axis in enumerate(axes):
        around[axis] = [pads[number], pads[number + len(axes)]]
    if mode != "constant":
        around = around[2:]
    value = float(rest[1]) if len(rest) > 1 and rest[1] is not None else node.attributes.get_float("value", 0.0)
    flat = [pad for pair in reversed(around) for pad in pair]
    if mode == "constant":
        return F.pad(x, flat, value=value)
    return F.pad(x, flat, {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}[mode])


def _resize(node: ir.Node, x: Tensor, *rest: Tensor) -> Tensor:
    given = (x, *rest)
    sizes = given[3] if len(given) > 3 else None
    target = _numbers(sizes) if sizes is not None else [
        math.floor(size * float(scale)) for size, scale in zip(x.shape, given[2], strict=True)
    ]  # fmt: skip
    mode = node.attributes.get_string("mode", "nearest")
    frame = node.attributes.get_string("coordinate_transformation_mode", "half_pixel")
    if mode == "nearest":
        # Whether these are the places that the node means is told by the comparison with ONNX Runtime.
        return F.interpolate(x, target[2:], mode="nearest" if frame == "asymmetric" else "nearest-exact")
    kind = {3: "linear", 4: "bilinear", 5: "trilinear"}.get(x.ndim)
    if mode != "linear" or kind is None:
        raise refused(node, f"with mode {mode}")
    return F.interpolate(x, target[2:], mode=kind, align_corners=frame == "align_corners")


def _depth_to_space(node: ir.Node, x: Tensor) -> Tensor:
    b, (n, c, h, w) = node.attributes.get_int("blocksize", 1), x.shape
    if node.attributes.get_string("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, b)
    return x.reshape(n, b, b, c // b**2, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c // b**2, h * b, w * b)


def _space_to_depth(node: ir.Node, x: Tensor) -> Tensor:
    b, (n, c, h, w) = node.attributes.get_int("blocksize", 1), x.shape
    return x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4).reshape(n, c * b**2, h // b, w // b)


def _shape(node: ir.Node, x: Tensor) -> Tensor:
    sizes = list(x.shape)
    return torch.tensor(sizes[node.attributes.get_int("start", 0) : node.attributes.get_int("end", len(sizes))])


def _constant_of_shape(node: ir.Node, sizes: Tensor) -> Tensor:
    value = node.attributes["value"].as_tensor().numpy() if "value" in node.attributes else np.zeros(1, np.float32)
    return torch.from_numpy(np.full(_numbers(sizes), value.reshape(-1)[0]))


def _cast(node: ir.Node, x: Tensor) -> Tensor:
    dtype = ir.DataType(node.attributes.get_int("to", 1)).numpy()
    return x.to(torch.from_numpy(np.zeros(0, dtype)).dtype)


def _clip(node: ir.Node, x: Tensor, *rest: Tensor) -> Tensor:
    bounds = [float(one) if one is not None else None for one in rest]
    bounds += [None] * (2 - len(bounds))
    for side, key in enumerate(("min", "max")):
        if bounds[side] is None and key in node.attributes:
            bounds[side] = node.attributes.get_float(key)
    return x if bounds == [None, None] else torch.clamp(x, *bounds)


def _leaky(node: ir.Node, x: Tensor) -> Tensor:
    return F.leaky_relu(x, node.attributes.get_float("alpha", 0.01))


def _hard_sigmoid(node: ir.Node, x: Tensor) -> Tensor:
    return torch.clamp(node.attributes.get_float("alpha", 0.2) * x + node.attributes.get_float("beta", 0.5), 0, 1)


def _gelu(node: ir.Node, x: Tensor) -> Tensor:
    return F.gelu(x, approximate=node.attributes.get_string("approximate", "none"))


def _div(node: ir.Node, a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _einsum(node: ir.Node, *given: Tensor) -> Tensor:
    return torch.einsum(node.attributes.get_string("equation", ""), *given)


def _global(run: Callable[..., Tensor]) -> Operator:
    return lambda node, x: run(x, dim=list(range(2, x.ndim)), keepdim=True)


def _plain(run: Callable[..., Tensor]) -> Operator:
    return lambda node, *given: run(*given)


def _folded(run: Callable[..., Tensor]) -> Operator:
    """Operators that take any number of inputs, as torch takes two."""

    def several(node: ir.Node, first: Tensor, *others: Tensor) -> Tensor:
        for other in others:
            first = run(first, other)
        return first

    return several


OPERATORS: dict[str, Operator] = {
    "Conv": _conv, "ConvTranspose": _conv_transpose, "Gemm": _gemm, "MatMul": _plain(torch.matmul), "Einsum": _einsum,
    "BatchNormalization": _batch_norm, "InstanceNormalization": _instance_norm, "LayerNormalization": _layer_norm,
    "Add": _plain(torch.add), "Sub": _plain(torch.sub), "Mul": _plain(torch.mul), "Div": _div,
    "Pow": _plain(torch.pow), "Max": _folded(torch.maximum), "Min": _folded(torch.minimum), "Sum": _folded(torch.add),
    "Where": _plain(torch.where), "Neg": _plain(torch.neg), "Abs": _plain(torch.abs), "Exp": _plain(torch.exp),
    "Log": _plain(torch.log), "Sqrt": _plain(torch.sqrt), "Reciprocal": _plain(torch.reciprocal),
    "Erf": _plain(torch.erf), "Relu": _plain(torch.relu), "LeakyRelu": _leaky, "PRelu": _plain(lambda x, slope:
    torch.where(x < 0, slope * x, x)), "Sigmoid": _plain(torch.sigmoid), "Tanh": _plain(torch.tanh),
    "HardSigmoid": _hard_sigmoid, "HardSwish": _plain(F.hardswish), "Softplus": _plain(F.softplus),
    "Mish": _plain(F.mish), "Gelu": _gelu, "Clip": _clip, "Softmax": _softmax, "LogSoftmax": _softmax,
    "Identity": _plain(lambda x: x), "Dropout": _plain(lambda x, *rest: x), "Cast": _cast,
    "MaxPool": _max_pool, "AveragePool": _average_pool, "GlobalAveragePool": _global(torch.mean),
    "GlobalMaxPool": _global(torch.amax),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2"), _reduce),
    "Reshape": _reshape, "Flatten": _flatten, "Transpose": _transpose, "Squeeze": _squeeze, "Unsqueeze": _unsqueeze,
    "Concat": lambda node, *given: torch.cat(given, node.attributes.get_int("axis", 0)), "Split": _split,
    "Slice": _slice, "Gather": _gather, "Expand": lambda node, x, sizes: x * torch.ones(_numbers(sizes), dtype=x.dtype),
    "Pad": _pad, "Resize": _resize, "DepthToSpace": _depth_to_space, "SpaceToDepth": _space_to_depth, "Shape": _shape,
    "ConstantOfShape": _constant_of_shape, "Equal": _plain(torch.eq),
}  # fmt: skip
