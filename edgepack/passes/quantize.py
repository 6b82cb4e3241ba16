"""Static int8: ranges become scales, scales become a Q/DQ graph.

The quantization is uniform and affine as in Jacob et al., "Quantization and Training of Neural Networks for
Efficient Integer-Arithmetic-Only Inference" (2018): activations per tensor, weights symmetric per output channel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgepack.errors import UnsupportedOperator
from edgepack.model import Model, constant
from edgepack.passes import PassResult
from edgepack.passes.edits import initializer
from edgepack.passes.placement import Placement, bias_in, place
from edgepack.passes.saturate import write_saturating
from edgepack.quantization.layer import added_bias, addition, channel_axis
from edgepack.target import Scheme

# s_input·s_weight must stay a normal float32, and |bias| / (s_input·s_weight) within int32.
SMALLEST_SCALE = 1e-30
# A tensor that reaches no farther than 256 of these is zero.
_SMALLEST_STEP = 1e-24
_LARGEST_BIAS = 2.0**30


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A uniform grid: real = scale · (integer − zero_point). Arrays hold one scale a channel."""

    scale: np.ndarray
    zero_point: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Rounded:
    """A layer's weights as integers, int8 in the node's own layout, and their scale, one a channel.

    `shift` is what rounding adds to each channel's mean output, to be taken out of the bias (of a MatMul:
    of what is added behind it); None where it cannot.
    """

    integers: np.ndarray
    scale: np.ndarray
    shift: np.ndarray | None = None


def quantize(
    model: Model,
    scheme: Scheme,
    ranges: Mapping[str, tuple[float, float]],
    layers: Mapping[str, Rounded] | None = None,
    keep_float: frozenset[str] = frozenset(),
) -> PassResult:
    """Write `model` with Q/DQ by `scheme`, activations in the given (min, max) ranges.

    Args:
        layers: weights rounded before, by the name of their node's output; the rest is rounded to nearest.
        keep_float: layers that stay float, by the name of their node's output.

    Raises:
        UnsupportedOperator: nothing in the model can be quantized; it says why.
    """
    result = model.clone()
    placement = place(result, scheme, keep_float)
    refuse_empty(placement)
    grids = activation_grids(placement, ranges, scheme)
    weights: dict[tuple[object, ...], ir.Value] = {}
    for node in placement.weighted:
        _write_weights(result.ir.graph, node, grids, scheme, weights, (layers or {}).get(str(node.outputs[0].name)))
    for node in placement.light:
        _write_constants(result.ir.graph, node, scheme)
    values = {str(value.name): value for value in result.ir.graph.inputs}
    values |= {str(value.name): value for node in result.ir.graph for value in node.outputs}
    for name in placement.tensors:
        readers = placement.readers.get(name, ()) if scheme.apart else None
        _write_pair(result.ir.graph, values[name], grids[name], readers)
    for node in placement.light:
        if node.op_type in scheme.saturating:
            write_saturating(result.ir.graph, node)
    _drop_unused(result.ir.graph)
    counts = {"int8": len(placement.weighted) + len(placement.light), "float": placement.left_float.total()}
    note = f"{len(placement.weighted)} weighted and {len(placement.light)} other operators in int8"
    if placement.left_float:
        note += "; float: " + ", ".join(f"{n}× {what}" for what, n in placement.left_float.most_common(4))
    return PassResult(model=result, note=note, figures={k: float(v) for k, v in counts.items()})


def refuse_empty(placement: Placement) -> None:
    if not placement.weighted:
        named = ", ".join(f"{count}× {what}" for what, count in placement.left_float.most_common(4))
        raise UnsupportedOperator(
            f"nothing in this model can be computed in int8 ({named or 'it holds no Conv, Gemm or MatMul'})",
            "build it with --precision fp16 or fp32",
        )


def activation_grids(
    placement: Placement, ranges: Mapping[str, tuple[float, float]], scheme: Scheme
) -> dict[str, Grid]:
    """A grid for each tensor, from the joint range of those that share it."""
    joint: dict[str, tuple[float, float]] = {}
    for name, root in placement.tensors.items():
        low, high = np.clip(ranges[name], *placement.limits.get(name, (-np.inf, np.inf))).tolist()
        known = joint.get(root, (low, high))
        joint[root] = (min(low, known[0]), max(high, known[1]))
    return {name: activation_grid(*joint[root], scheme) for name, root in placement.tensors.items()}


def activation_grid(low: float, high: float, scheme: Scheme) -> Grid:
    """The grid of 256 steps over [low, high], widened to hold zero exactly."""
    low, high = min(low, 0.0), max(high, 0.0)
    dtype = np.dtype(scheme.activation_dtype)
    limits = np.iinfo(dtype)
    if scheme.symmetric_activations:
        scale, zero = max(-low, high) / limits.max, 0
    else:
        scale = (high - low) / (limits.max - limits.min)
        zero = 0
    scale = scale if scale > _SMALLEST_STEP else 1.0
    if not scheme.symmetric_activations:
        zero = int(np.clip(np.rint(limits.min - low / scale), limits.min, limits.max))
    return Grid(scale=np.array(scale, np.float32), zero_point=np.array(zero, dtype))


def weight_grid(weight: np.ndarray, axis: int | None, bits: int, floor: np.ndarray | float = 0.0) -> Grid:
    """The symmetric grid of each channel along `axis` (None: of the whole tensor), scales at least `floor`."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    largest = np.abs(weight).max(axis=None if axis is None else others)
    scale = np.maximum(largest / (2 ** (bits - 1) - 1), floor)
    scale = np.where(scale > SMALLEST_SCALE, scale, 1.0).astype(np.float32)
    return Grid(scale=scale, zero_point=np.zeros(scale.shape, np.int8))


def round_to(weight: np.ndarray, grid: Grid, axis: int | None, bits: int) -> np.ndarray:
    """The nearest integers of the grid, int8."""
    limit = 2 ** (bits - 1) - 1
    scale = spread(grid.scale, weight.ndim, axis)
    integers: np.ndarray = np.clip(np.rint(weight / scale), -limit, limit).astype(np.int8)
    return integers


def spread(scale: np.ndarray, rank: int, axis: int | None) -> np.ndarray:
    """One scale a channel, shaped to multiply a weight of that rank."""
    return scale if axis is None else np.expand_dims(scale, tuple(i for i in range(rank) if i != axis))


def bias_floor(bias: np.ndarray, input_scale: float) -> np.ndarray:
    """The smallest weight scales with which the biases fit into int32."""
    return np.asarray(np.abs(bias) / (_LARGEST_BIAS * input_scale))


def rounded_nearest(node: ir.Node, input_scale: float, scheme: Scheme) -> Rounded:
    """A layer's weights on the grid that just holds them."""
    weight = constant(node.inputs[1])
    assert weight is not None
    axis, bias = channel_axis(node, weight), bias_in(node, scheme)
    floor: np.ndarray | float = max(SMALLEST_SCALE / input_scale, scheme.least_scale)
    if bias is not None and scheme.bias_bits == 32:
        floor = np.maximum(floor, bias_floor(bias if axis is not None else np.abs(bias).max(), input_scale))
    grid = weight_grid(weight, axis, scheme.weight_bits, floor)
    return Rounded(integers=round_to(weight, grid, axis, scheme.weight_bits), scale=grid.scale)


def _write_weights(
    graph: ir.Graph,
    node: ir.Node,
    grids: Mapping[str, Grid],
    scheme: Scheme,
    written: dict[tuple[object, ...], ir.Value],
    rounded: Rounded | None,
) -> None:
    """Weights on their grid, and a bias that makes up for what that did to the mean output."""
    value, data = node.inputs[1], node.inputs[0]
    weight = constant(value)
    assert value is not None and weight is not None and data is not None
    axis = channel_axis(node, weight)
    input_scale = float(grids[str(data.name)].scale)
    bias = bias_in(node, scheme)
    added = (addition(node) if node.op_type in scheme.biased else None) or (node, 2)
    rounded = rounded or rounded_nearest(node, input_scale, scheme)
    grid = Grid(scale=rounded.scale, zero_point=np.zeros(rounded.scale.shape, np.int8))
    if rounded.shift is not None and node.op_type == "MatMul" and bias is None:
        _shift_behind(graph, node, rounded.shift)
    elif rounded.shift is not None:
        bias = (0.0 if bias is None else bias) - rounded.shift
    key = (value.name, axis, grid.scale.tobytes())
    if key not in written:
        written[key] = _dequantized(graph, node, f"{value.name}", rounded.integers, grid, axis)
    node.replace_input_with(1, written[key])
    if bias is not None:
        name = f"{value.name}_bias_{node.name or node.outputs[0].name}"
        scale = (np.float64(input_scale) * grid.scale).astype(np.float32)
        _write_bias(graph, node, added, name, bias, scale, scheme)


def _shift_behind(graph: ir.Graph, node: ir.Node, shift: np.ndarray) -> None:
    """A MatMul has no bias of its own; what is added behind it, in float, takes the shift."""
    added, bias = addition(node), added_bias(node)
    assert added is not None and bias is not None
    reader, index = added
    shifted = (bias - shift).astype(np.float32)
    reader.replace_input_with(index, initializer(graph, f"{node.outputs[0].name}_shifted", shifted))


def _write_bias(
    graph: ir.Graph,
    node: ir.Node,
    added: tuple[ir.Node, int],
    name: str,
    bias: np.ndarray,
    scale: np.ndarray,
    scheme: Scheme,
) -> None:
    """A layer's bias, as the input of that number of the node that adds it."""
    reader, index = added
    if len(reader.inputs) <= index:
        reader.resize_inputs(index + 1)
    if scheme.bias_bits == 0:
        reader.replace_input_with(index, initializer(graph, name, bias.astype(np.float32)))
        return
    integers = np.clip(np.rint(bias / scale.astype(np.float64)), -(2**31), 2**31 - 1).astype(np.int32)
    bias_grid = Grid(scale=scale, zero_point=np.zeros(scale.shape, np.int32))
    restored = _dequantized(graph, node, name, integers, bias_grid, 0 if scale.ndim else None)
    reader.replace_input_with(index, restored)


def _write_constants(graph: ir.Graph, node: ir.Node, scheme: Scheme) -> None:
    """Constant operands of a light node, on a grid of their own."""
    if node.op_type not in ("Add", "Mul", "Concat"):
        return
    for index, value in enumerate(node.inputs):
        array = constant(value)
        if array is None or value is None or array.dtype != np.float32:
            continue
        grid = activation_grid(float(array.min()), float(array.max()), scheme)
        limits = np.iinfo(grid.zero_point.dtype)
        steps = np.rint(array / grid.scale) + float(grid.zero_point)
        integers = np.clip(steps, limits.min, limits.max).astype(grid.zero_point.dtype)
        name = f"{value.name}_{node.name or node.outputs[0].name}"
        node.replace_input_with(index, _dequantized(graph, node, name, integers, grid, None))


def _dequantized(
    graph: ir.Graph, before: ir.Node, name: str, integers: np.ndarray, grid: Grid, axis: int | None
) -> ir.Value:
    """A DequantizeLinear of constants, placed before a node."""
    unique, serial = name, 0
    while f"{unique}_q" in graph.initializers:
        unique, serial = f"{name}_{serial}", serial + 1
    inputs = [
        initializer(graph, f"{unique}_q", integers),
        initializer(graph, f"{unique}_scale", np.asarray(grid.scale)),
        initializer(graph, f"{unique}_zero_point", np.asarray(grid.zero_point)),
    ]
    attributes = {} if axis is None else {"axis": axis}
    node = ir.node("DequantizeLinear", inputs, attributes=attributes, name=f"{unique}_DequantizeLinear")
    output = node.outputs[0]
    output.name, output.dtype, output.shape = f"{unique}_dq", ir.DataType.FLOAT, ir.Shape(integers.shape)
    graph.insert_before(before, node)
    return output


def _write_pair(graph: ir.Graph, value: ir.Value, grid: Grid, readers: Iterable[tuple[ir.Node, int]] | None) -> None:
    """Q/DQ on a tensor; these readers, else every one and the graph's output, take the dequantized value."""
    name = str(value.name)
    uses = list(value.uses() if readers is None else readers)
    scale = initializer(graph, f"{name}_scale", np.asarray(grid.scale))
    zero = initializer(graph, f"{name}_zero_point", np.asarray(grid.zero_point))
    quantized = ir.node("QuantizeLinear", [value, scale, zero], name=f"{name}_QuantizeLinear")
    restored = ir.node("DequantizeLinear", [quantized.outputs[0], scale, zero], name=f"{name}_DequantizeLinear")
    quantized.outputs[0].name = f"{name}_quantized"
    quantized.outputs[0].dtype = ir.DataType.from_numpy(grid.zero_point.dtype)
    quantized.outputs[0].shape = value.shape
    output = restored.outputs[0]
    output.name, output.type, output.shape = f"{name}_dequantized", value.type, value.shape
    producer = value.producer()
    if producer is None:
        graph.insert_before(next(iter(graph)), [quantized, restored])
    else:
        graph.insert_after(producer, [quantized, restored])
    for node, index in uses:
        node.replace_input_with(index, output)
    for index, result in enumerate(graph.outputs):
        if result is value and producer is not None and readers is None:  # an input keeps its name
            value.name, output.name = f"{name}_float", name
            graph.outputs[index] = output


def _drop_unused(graph: ir.Graph) -> None:
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
            del graph.initializers[name]
