"""Dynamic int8: weights in int8, activations quantized when they are there, so nothing is calibrated.

A matrix product becomes DynamicQuantizeLinear and MatMulInteger (Bhandare et al., "Efficient 8-Bit Quantization of
Transformer Neural Machine Language Translation Model", 2019, did so with static ranges), which ONNX Runtime fuses, and
an LSTM becomes its DynamicQuantizeLSTM. A runtime that quantizes the activations of compressed weights by itself
gets those (`Scheme.keeps_compressed`), and is told to in the model's metadata.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir

from edgepack.errors import UnsupportedOperator
from edgepack.model import Model, constant
from edgepack.passes import PassResult
from edgepack.passes.blocks import Layout, Rounding, nearest
from edgepack.passes.edits import MICROSOFT, bias_of, drop, initializer, replace
from edgepack.passes.weight_only import compress, words
from edgepack.passes.weights import Weight, find_weights, matrix_of
from edgepack.target import ACTIVATION_GROUP, Scheme

_FLOAT = int(ir.DataType.FLOAT)
# OpenVINO multiplies in float where a row is shorter than a group; 128 would be a tenth faster on long ones.
_GROUP = 32


def dynamic(model: Model, scheme: Scheme, rounding: Rounding = nearest) -> PassResult:
    """Matrix products and LSTMs of `scheme.dynamic` in int8, tables in int8, everything else as it was.

    Raises:
        UnsupportedOperator: nothing in the model can be computed so; it says why.
    """
    result = model.clone()
    graph = result.ir.graph
    weights = find_weights(result)
    left_float = Counter(weights.left_float)
    layout = Layout(bits=scheme.weight_bits)
    quantized: dict[str, tuple[ir.Value, ...]] = {}
    counts: Counter[str] = Counter()
    recurrent: dict[int, ir.Node] = {}
    for weight in weights.found:
        matrix = matrix_of(weight, graph)
        operators = {node.op_type for node, _ in weight.uses}
        product = matrix is not None or (operators == {"Conv"} and scheme.keeps_compressed)
        if product and operators <= scheme.dynamic:
            if scheme.keeps_compressed:
                compress(graph, weight, scheme, rounding)
            elif matrix is not None:
                _write_product(graph, weight, matrix, layout, rounding, quantized)
            counts["convolutions" if operators == {"Conv"} else "matrix products"] += len(weight.uses)
        elif operators == {"LSTM"} <= scheme.dynamic and all(node.graph is graph for node, _ in weight.uses):
            recurrent.update((id(node), node) for node, _ in weight.uses)
        elif operators == {"Gather"}:
            compress(graph, weight, scheme, rounding)
            counts["tables"] += 1
        else:
            left_float[f"not computed from int8 at run time: {'/'.join(sorted(operators))}"] += 1
    written: dict[str, tuple[ir.Value, ...]] = {}
    for node in recurrent.values():
        reason = _why_not(node)
        if reason:
            left_float[f"{reason}: LSTM"] += 1
        else:
            _write_lstm(graph, node, layout, rounding, written)
            counts["LSTMs"] += 1
    if not counts.keys() - {"tables"}:
        raise UnsupportedOperator(
            f"nothing in this model can be computed in int8 without calibration{words(left_float)}",
            "build it with --precision int8, which takes --data, or fp32",
        )
    if scheme.keeps_compressed:
        result.ir.metadata_props[ACTIVATION_GROUP] = str(_GROUP)
    done = ", ".join(f"{count} {what}" for what, count in counts.items())
    note = f"{done} in int8, activations quantized at run time"
    return PassResult(model=result, note=note + words(left_float), figures={k: float(v) for k, v in counts.items()})


def _write_product(
    graph: ir.Graph,
    weight: Weight,
    matrix: np.ndarray,
    layout: Layout,
    rounding: Rounding,
    quantized: dict[str, tuple[ir.Value, ...]],
) -> None:
    rounded = rounding(matrix, layout, None)
    integers = initializer(graph, f"{weight.name}_int8", np.ascontiguousarray(rounded.integers.T))
    scale = initializer(graph, f"{weight.name}_scale", rounded.scale[:, 0])
    for node, _ in weight.uses:
        name = node.outputs[0].name
        data = node.inputs[0]
        assert data is not None
        if data.name not in quantized:
            # Once for all that read it: query, key and value of an attention layer.
            quantized[str(data.name)] = _quantized(graph, data)
        values, step, zero = quantized[str(data.name)]
        product = ir.node("MatMulInteger", [values, integers, zero], name=f"{name}_product")
        cast = ir.node("Cast", [product.outputs[0]], attributes={"to": _FLOAT}, name=f"{name}_cast")
        scales = ir.node("Mul", [step, scale], name=f"{name}_scale")
        restored = ir.node("Mul", [cast.outputs[0], scales.outputs[0]], name=f"{name}_restore")
        nodes = [product, cast, scales, restored]
        replace(graph, node, [*nodes, *bias_of(node, restored.outputs[0])])
    drop(graph, weight.value)


def _quantized(graph: ir.Graph, data: ir.Value) -> tuple[ir.Value, ...]:
    """The tensor in uint8, its scale and its zero point, as early as it is there."""
    node = ir.node("DynamicQuantizeLinear", [data], num_outputs=3, name=f"{data.name}_quantize")
    producer = data.producer()
    if producer is None:
        graph.insert_before(next(iter(graph)), node)
    else:
        graph.insert_after(producer, node)
    return tuple(node.outputs)


def _why_not(node: ir.Node) -> str:
    """Why an LSTM cannot take int8 weights; empty if it can."""
    for index in (1, 2):
        array = constant(node.inputs[index])
        if array is None or array.dtype != np.float32 or not np.all(np.isfinite(array)):
            return "its weights are computed, not float32 or not finite"
    return "its layout is batch first" if node.attributes.get_int("layout", 0) else ""


def _write_lstm(
    graph: ir.Graph,
    node: ir.Node,
    layout: Layout,
    rounding: Rounding,
    written: dict[str, tuple[ir.Value, ...]],
) -> None:
    """com.microsoft.DynamicQuantizeLSTM: W and R transposed to [directions, in, 4 · hidden], a scale a column."""
    inputs = list(node.inputs) + [None] * (8 - len(node.inputs))
    scales: list[ir.Value | None] = []
    for index in (1, 2):
        value = node.inputs[index]
        assert value is not None
        name = str(value.name)
        if name not in written:
            written[name] = _recurrent_weights(graph, value, layout, rounding)
        inputs[index], *grid = written[name]
        scales += grid
    attributes = {name: attribute for name, attribute in node.attributes.items() if name != "layout"}
    fast = ir.Node(
        MICROSOFT,
        "DynamicQuantizeLSTM",
        [*inputs, *scales],
        attributes.values(),
        num_outputs=len(node.outputs),
        name=f"{node.name or node.outputs[0].name}_int8",
    )
    graph.opset_imports[MICROSOFT] = 1
    old = [value for value in (node.inputs[1], node.inputs[2]) if value is not None]
    ir.convenience.replace_nodes_and_values(graph, node, [node], [fast], list(node.outputs), list(fast.outputs))
    for value in old:
        drop(graph, value)


def _recurrent_weights(
    graph: ir.Graph, value: ir.Value, layout: Layout, rounding: Rounding
) -> tuple[ir.Value, ir.Value, ir.Value]:
    array = constant(value)
    assert array is not None
    directions, gates, width = array.shape
    rounded = rounding(array.reshape(-1, width), layout, None)
    integers = rounded.integers.reshape(directions, gates, width).transpose(0, 2, 1)
    return (
        initializer(graph, f"{value.name}_int8", np.ascontiguousarray(integers)),
        initializer(graph, f"{value.name}_scale", rounded.scale.reshape(directions, gates)),
        initializer(graph, f"{value.name}_zero_point", np.zeros((directions, gates), np.int8)),
    )
