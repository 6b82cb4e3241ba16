"""Rules of operators and opsets: what the parser of the board's TensorRT takes."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from edgepack.device import Device
from edgepack.lint import ADVICE, ERROR, Place, Rule
from edgepack.lint.qdq import DEQUANTIZE, QUANTIZE, at, rounded, roundings
from edgepack.model import QUANTIZED_OPS, Model

from .versions import opsets, takes, tensorrt_of

_OPERATORS_MD = "onnx-tensorrt, docs/operators.md"
_ONNX = ("", "ai.onnx")
# NVIDIA's own operators and plugins, which the parser finds by name.
_NVIDIA = ("trt", "trt.plugins", "com.nvidia", "tensorrt")


def integer_operator(model: Model, device: Device) -> Iterator[Place]:
    for node in model.nodes():
        if node.op_type in QUANTIZED_OPS - {QUANTIZE, DEQUANTIZE}:
            yield at(node, node.outputs[0], node.op_type)


def microsoft_pair(model: Model, device: Device) -> Iterator[Place]:
    for node in roundings(model):
        if node.domain not in _ONNX and not _is_nvidia(node):
            yield at(node, rounded(node), f"{node.op_type} of {node.domain}")


def operator(model: Model, device: Device) -> Iterator[Place]:
    found = tensorrt_of(device)
    for node in _parsed(model):
        if node.domain not in _ONNX:
            yield at(node, node.outputs[0], f"{node.op_type} of {node.domain}, which is no operator of ONNX")
        elif takes(node.op_type, found) is False:
            yield at(node, node.outputs[0], f"{node.op_type} is not in TensorRT {found}'s parser")


def operator_unsure(model: Model, device: Device) -> Iterator[Place]:
    found = tensorrt_of(device)
    for node in _parsed(model):
        if node.domain in _ONNX and takes(node.op_type, found) is None:
            yield at(node, node.outputs[0], f"{node.op_type} came to the parser about TensorRT {found}")


def opset(model: Model, device: Device) -> Iterator[Place]:
    found = tensorrt_of(device)
    if model.is_quantized and model.opset > opsets(found)[1]:
        yield Place(node="", tensor="", what=f"opset {model.opset}; TensorRT {found} reads up to {opsets(found)[1]}")


def opset_unsure(model: Model, device: Device) -> Iterator[Place]:
    found = tensorrt_of(device)
    sure, perhaps = opsets(found)
    limit = perhaps if model.is_quantized else 10**6
    if sure < model.opset <= limit:
        yield Place(node="", tensor="", what=f"opset {model.opset}; TensorRT {found} surely reads up to {sure}")


def _parsed(model: Model) -> Iterator[ir.Node]:
    """Nodes that no other rule speaks of: no pairs, no integer operators, no functions of the model's own."""
    own = {(function.domain, function.name) for function in model.ir.functions.values()}
    for node in model.nodes():
        if node.op_type not in QUANTIZED_OPS and (node.domain, node.op_type) not in own and not _is_nvidia(node):
            yield node


def _is_nvidia(node: ir.Node) -> bool:
    return node.domain in _NVIDIA or "TRT" in node.op_type


RULES = (
    Rule(
        name="integer-operator",
        severity=ERROR,
        why="TensorRT takes integers as QuantizeLinear and DequantizeLinear around float operators only",
        advice="quantize in the QDQ form (ONNX Runtime: QuantFormat.QDQ)",
        source=f"{_OPERATORS_MD}: QLinearConv, QLinearMatMul, ConvInteger, MatMulInteger, DynamicQuantizeLinear: N",
        check=integer_operator,
    ),
    Rule(
        name="microsoft-pair",
        severity=ERROR,
        why="the parser knows the pairs of ONNX, not those of ONNX Runtime",
        advice="write ONNX's own QuantizeLinear and DequantizeLinear (ONNX Runtime: UseQDQContribOps=False)",
        source=_OPERATORS_MD,
        check=microsoft_pair,
    ),
    Rule(
        name="operator",
        severity=ERROR,
        why="the parser of this TensorRT has no such operator",
        advice="write it with others, give TensorRT a plugin of that name, or take a newer JetPack",
        source=_OPERATORS_MD,
        check=operator,
    ),
    Rule(
        name="operator-unsure",
        severity=ADVICE,
        why="the parser got this operator between two versions whose tables are known",
        advice="try it on the board: trtexec --onnx",
        source=_OPERATORS_MD,
        check=operator_unsure,
    ),
    Rule(
        name="opset",
        severity=ERROR,
        why="operators of newer opsets may mean something else there",
        advice="export with an older opset; edgepack build writes one that fits from a float model",
        source=f"{_OPERATORS_MD}: the range of opsets",
        check=opset,
    ),
    Rule(
        name="opset-unsure",
        severity=ADVICE,
        why="the known tables do not say whether this TensorRT reads the opset",
        advice="edgepack build writes one that fits from a float model; else try it: trtexec --onnx",
        source=f"{_OPERATORS_MD}: the range of opsets",
        check=opset_unsure,
    ),
)
