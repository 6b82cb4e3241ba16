"""Rules of placement: where pairs stand, and where TensorRT then cannot join layers."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from edgepack.device import Device
from edgepack.lint import ERROR, SLOW, Place, Rule
from edgepack.lint.qdq import (
    MOVING,
    at,
    dequantized_by,
    float_source,
    is_constant,
    is_dequantize,
    is_quantize,
    is_rounded,
    operand,
    pairs,
    readers,
    rounded_readers,
    weighted,
)
from edgepack.model import Model
from edgepack.quantization.layer import WEIGHTED

_RECOMMENDED = "Q/DQ placement recommendations (Working with Quantized Types)"
# Activations that TensorRT joins to the layer before them.
_ACTIVATIONS = frozenset(
    {
        "Relu", "Clip", "LeakyRelu", "PRelu", "Sigmoid", "Tanh", "Elu", "Selu", "Gelu", "HardSwish", "HardSigmoid",
        "Softplus", "BatchNormalization",
    }
)  # fmt: skip
_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
# What has no int8 form, so that a pair before it is rounding for nothing.
_FLOAT_ONLY = frozenset(
    {
        "Softmax", "LogSoftmax", "LayerNormalization", "InstanceNormalization", "GroupNormalization", "LRN",
        "RMSNormalization", "MeanVarianceNormalization", "LpNormalization", "TopK", "ArgMax", "ArgMin",
        "NonMaxSuppression", "Erf", "Exp", "Log", "Pow", "Sqrt", "Reciprocal", "Cast", "LSTM", "GRU", "RNN", "CumSum",
        "NonZero", "ScatterND", "GridSample", "RoiAlign", "If", "Loop", "Scan", "Attention",
    }
)  # fmt: skip
# What stands between a weighted layer and a normalization of its output.
_POINTWISE = frozenset({"Add", "Mul", "Sub", "Div", *_ACTIVATIONS, *MOVING})


def before_activation(model: Model, device: Device) -> Iterator[Place]:
    for node in pairs(model):
        source = float_source(node) if is_dequantize(node) else None
        made = source.producer() if source is not None else None
        if made is None or made.op_type not in (*WEIGHTED, "Add", "BatchNormalization"):
            continue
        if made.op_type == "Add" and not any(_fusable(value) for value in made.inputs):
            continue
        activation = _activation(rounded_readers(node))
        if activation and all(is_quantize(reader) for reader in readers(made.outputs[0])):
            yield at(node, source, f"between {made.op_type} and {activation.op_type}")


def _activation(found: list[ir.Node]) -> ir.Node | None:
    """The activation that alone reads a value, SiLU's x·sigmoid(x) counted as one."""
    if len(found) == 1 and found[0].op_type in _ACTIVATIONS:
        return found[0]
    gate = next((node for node in found if node.op_type in ("Sigmoid", "HardSigmoid")), None)
    if gate is not None and len(found) == 2:
        product = next(node for node in found if node is not gate)
        if product.op_type == "Mul" and any(value is gate.outputs[0] for value in product.inputs):
            return gate
    return None


def residual(model: Model, device: Device) -> Iterator[Place]:
    for node in model.nodes():
        if node.op_type not in ("Add", "Sum") or len(node.inputs) != 2 or any(map(is_constant, node.inputs)):
            continue
        found = [dequantized_by(value) for value in node.inputs]
        sources = [value if dq is None else float_source(dq) for value, dq in zip(node.inputs, found, strict=True)]
        layers = [_fusable(source) for source in sources]
        if not any(layers):
            continue
        if all(dq is not None for dq in found):
            at_layer = 0 if layers[0] else 1
            yield at(node, sources[at_layer], "pairs on both inputs of a residual Add")
        elif any(dq is not None for dq in found):
            index = 0 if found[0] is not None else 1
            if layers[index] and not layers[1 - index]:
                yield at(node, sources[index], "a pair between a layer and the Add behind it")


def _fusable(value: ir.Value | None) -> bool:
    """Whether a value leaves a convolution for one reader only, its pair or an Add that TensorRT joins to it.

    Products are left out: modelopt itself rounds both inputs of the Adds in a Transformer.
    """
    while value is not None:
        node = value.producer()
        if node is None or value.is_graph_output() or len(readers(value)) != 1:
            return False
        if node.op_type in _CONVOLUTIONS:
            return True
        if node.op_type not in ("Identity", "BatchNormalization") and not _adds_bias(node):
            return False
        value = next((entry for entry in node.inputs if not is_constant(entry)), None)
    return False


def _adds_bias(node: ir.Node) -> bool:
    return node.op_type == "Add" and any(map(is_constant, node.inputs))


def half_quantized(model: Model, device: Device) -> Iterator[Place]:
    for node in weighted(model):
        data, weights = operand(node, 0), operand(node, 1)
        has_data, has_weights = is_rounded(data), is_rounded(weights)
        if has_data and not has_weights:
            yield at(node, weights, f"{node.op_type} has a pair on its input and none on {_other(weights)}")
        elif has_weights and not has_data and not is_constant(data):
            yield at(node, data, f"{node.op_type} has a pair on {_other(weights)} and none on its input")


def _other(weights: ir.Value | None) -> str:
    return "its weights" if is_constant(weights) else "its second input"


def idle(model: Model, device: Device) -> Iterator[Place]:
    for node in pairs(model):
        if not is_dequantize(node) or is_constant(operand(node, 0)):
            continue
        users, ends = _users(node.outputs[0])
        source = float_source(node)
        others = [reader for reader in rounded_readers(node) if reader not in readers(node.outputs[0])]
        if any(reader.op_type not in _FLOAT_ONLY for reader in others):
            continue
        if ends and not users:
            yield at(node, source, "only the model's output reads it")
        elif users and all(user.op_type in _FLOAT_ONLY for user in users) and not ends:
            if users[0].op_type == "LayerNormalization" and _leaves_layer(source):
                continue  # modelopt: the layer before writes int8, which is faster
            yield at(node, source, f"before {users[0].op_type}, which computes in float")


def _users(value: ir.Value) -> tuple[list[ir.Node], bool]:
    """What computes with a value, past steps that only move it; and whether it is a model's output on the way."""
    found, ends, waiting, seen = [], False, [value], set()
    while waiting:
        current = waiting.pop()
        ends = ends or current.is_graph_output()
        for node in readers(current):
            if id(node) in seen:
                continue
            seen.add(id(node))
            if node.op_type in MOVING:
                waiting.extend(node.outputs)
            else:
                found.append(node)
    return found, ends


def _leaves_layer(value: ir.Value | None) -> bool:
    """Whether a weighted layer computes a value, with nothing but pointwise steps behind it."""
    waiting, seen = [value], set()
    while waiting:
        current = waiting.pop()
        node = current.producer() if current is not None else None
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if node.op_type in WEIGHTED:
            return True
        if node.op_type in _POINTWISE:
            waiting.extend(node.inputs)
        elif is_dequantize(node):
            waiting.append(float_source(node))
    return False


def weights_not_constant(model: Model, device: Device) -> Iterator[Place]:
    for node in weighted(model):
        kernel = operand(node, 1)
        if node.op_type in _CONVOLUTIONS and is_rounded(kernel) and not is_constant(kernel):
            yield at(node, kernel, f"the weights of {node.op_type} are computed when the model runs")


RULES = (
    Rule(
        name="before-activation",
        severity=SLOW,
        why="a pair keeps TensorRT from joining a layer and its activation",
        advice="put the pair behind the activation",
        source=f"{_RECOMMENDED}: do not simulate batch-normalization and ReLU fusions; conservative pairs",
        check=before_activation,
    ),
    Rule(
        name="residual",
        severity=SLOW,
        why="TensorRT joins the Add to the convolution before it, whose output then needs no pair of its own",
        advice="keep the pair on the shortcut only",
        source=f"{_RECOMMENDED}: quantize the residual input in skip connections; suboptimal fusions",
        check=residual,
    ),
    Rule(
        name="half-quantized",
        severity=SLOW,
        why="a layer computes in int8 only if all it multiplies is int8",
        advice="put pairs on both inputs, or on neither",
        source=f"{_RECOMMENDED}: quantize all inputs of weighted operations",
        check=half_quantized,
    ),
    Rule(
        name="idle",
        severity=SLOW,
        why="nothing behind the pair computes in int8, so it costs time and accuracy for nothing",
        advice="take the pair out",
        source=f"{_RECOMMENDED}: do not quantize the outputs of weighted operations by default",
        check=idle,
    ),
    Rule(
        name="weights-not-constant",
        severity=ERROR,
        why="int8 convolutions take weights that are known when the engine is built",
        advice="make the weights constants, or leave the layer in float",
        source="NvInfer.h of 8.6, IConvolutionLayer::setInput: a build-time constant behind a dequantize layer",
        check=weights_not_constant,
    ),
)
