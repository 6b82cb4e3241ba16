"""Rules of the grid: what a pair rounds to, and by which scales."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from edgepack.device import Device
from edgepack.lint import ERROR, Place, Rule
from edgepack.lint.qdq import (
    at,
    is_constant,
    is_quantize,
    operand,
    pairs,
    per_channel,
    quantized_type,
    rounded,
    roundings,
    scale_of,
    zero_point_of,
)
from edgepack.model import Model

from .versions import older_than

_HEADER = "NvInfer.h, IQuantizeLayer and IDequantizeLayer"
_PARSER = "onnx-tensorrt, QuantDequantLinearHelper"
_TYPES = ir.DataType
_UNSIGNED = (_TYPES.UINT8,)
_FP8 = (_TYPES.FLOAT8E4M3FN,)
_INT4 = (_TYPES.INT4,)
_TAKEN = (_TYPES.INT8, *_FP8, *_INT4, _TYPES.FLOAT4E2M1)


def zero_point(model: Model, device: Device) -> Iterator[Place]:
    for node in roundings(model):
        point = zero_point_of(node)
        if point is not None and np.any(point.astype(np.int64) if point.dtype.kind in "iu" else point != 0):
            value = int(point.ravel()[np.argmax(point.ravel() != 0)])
            yield at(node, rounded(node), f"zero point {value}")


def unsigned(model: Model, device: Device) -> Iterator[Place]:
    for node in roundings(model):
        if quantized_type(node) in _UNSIGNED:
            yield at(node, rounded(node), "uint8")
        elif is_quantize(node) and quantized_type(node) is None and operand(node, 2) is None:
            yield at(node, rounded(node), "no zero point, which ONNX takes for uint8 and TensorRT for int8")


def zero_point_missing(model: Model, device: Device) -> Iterator[Place]:
    if older_than(device, "10.0"):
        for node in pairs(model):
            if operand(node, 2) is None:
                yield at(node, rounded(node), "no zero point")


def kind(model: Model, device: Device) -> Iterator[Place]:
    for node in roundings(model):
        found = quantized_type(node)
        if found is None or found in _UNSIGNED or found == _TYPES.INT32:
            continue
        if found not in _TAKEN:
            yield at(node, rounded(node), f"{found.name.lower()} numbers")
        elif found in _INT4 and older_than(device, "10.0"):
            yield at(node, rounded(node), "int4 numbers, which TensorRT takes from 10.0 on")
        elif found not in (_TYPES.INT8, *_INT4) and _compute(device) < (8, 9):
            yield at(node, rounded(node), f"{found.name.lower()} numbers, which this GPU does not have")


def blocks(model: Model, device: Device) -> Iterator[Place]:
    for node in roundings(model):
        scale = scale_of(node)
        if scale is not None and scale.ndim > 1 and scale.size > 1 and quantized_type(node) == _TYPES.INT8:
            yield at(node, rounded(node), f"int8 with a scale for each block, {scale.shape}")


def scale(model: Model, device: Device) -> Iterator[Place]:
    for node in roundings(model):
        found = scale_of(node)
        if found is None:
            yield at(node, operand(node, 1), "a scale that is computed when the model runs")
        elif found.size == 0 or not np.all(np.isfinite(found) & (found > 0)):
            yield at(node, operand(node, 1), f"a scale of {float(np.min(found)) if found.size else 'no numbers'}")


def activation_per_channel(model: Model, device: Device) -> Iterator[Place]:
    for node in roundings(model):
        value = operand(node, 0)
        if per_channel(node) and not is_constant(value):
            yield at(node, rounded(node), f"{_count(node)} scales for an activation")


def _count(node: ir.Node) -> int:
    found = scale_of(node)
    return 0 if found is None else found.size


def _compute(device: Device) -> tuple[int, ...]:
    return tuple(int(part) for part in device.gpu.compute.split(".")) if device.gpu is not None else (0,)


RULES = (
    Rule(
        name="zero-point",
        severity=ERROR,
        why="TensorRT quantizes symmetrically only; the parser refuses any zero point but 0",
        advice="quantize symmetrically, activations too",
        source=f"{_HEADER}: only symmetric quantization is supported; {_PARSER}: the zero point must be all zeros",
        check=zero_point,
    ),
    Rule(
        name="unsigned",
        severity=ERROR,
        why="8-bit integers are int8; the parser refuses uint8 in a pair",
        advice="quantize to int8, and give each QuantizeLinear an int8 zero point of 0",
        source=f"{_PARSER}: notInvalidType(UINT8)",
        check=unsigned,
    ),
    Rule(
        name="zero-point-missing",
        severity=ERROR,
        why="before TensorRT 10 the parser asks for all three inputs",
        advice="give it a zero point of 0",
        source=f"{_PARSER} of 8.5 and 8.6: this version of TensorRT requires 3 inputs",
        check=zero_point_missing,
    ),
    Rule(
        name="type",
        severity=ERROR,
        why="pairs round to int8; from TensorRT 10 to int4 (weights), on GPUs from compute capability 8.9 to fp8",
        advice="quantize to int8",
        source="onnx-tensorrt, docs/operators.md: types of DequantizeLinear; support matrix of TensorRT",
        check=kind,
    ),
    Rule(
        name="blocks",
        severity=ERROR,
        why="scales by block are for 4-bit weights",
        advice="one scale a channel for int8 weights",
        source=f"{_HEADER}: block quantization is supported for kINT4 only",
        check=blocks,
    ),
    Rule(
        name="scale",
        severity=ERROR,
        why="scales are constants above 0, known when the engine is built",
        advice="give a tensor that is always 0 any scale above 0",
        source=f"{_PARSER}: scale coefficients must all be positive; {_HEADER}: a build-time constant",
        check=scale,
    ),
    Rule(
        name="activation-per-channel",
        severity=ERROR,
        why="an activation has one scale",
        advice="quantize activations per tensor",
        source=f"{_HEADER}: per-channel quantization is supported only for weight inputs",
        check=activation_per_channel,
    ),
)
