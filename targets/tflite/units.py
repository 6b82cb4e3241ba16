"""Which nodes become one operator: a node, the activation it can take with it, and the Q and DQ around it.

A node between DequantizeLinear and QuantizeLinear is an int8 operator on the integers themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper

from .flatbuffer import Quantization

if TYPE_CHECKING:
    from .lowering import Lowering

Lower = Callable[["Lowering", "Unit"], None]
# Activations that an operator may take with it, by what they clip to.
FUSED = {(0.0, np.inf): 1, (-1.0, 1.0): 2, (0.0, 6.0): 3}
FUSES = frozenset({"Conv", "Gemm", "MatMul", "Add", "Sub", "Mul", "Div", "MaxPool", "AveragePool"})


class NoForm(Exception):
    """A node has no TFLite form; the message says why."""


@dataclass(kw_only=True)
class Unit:
    """A node and what goes with it: a fused activation (the schema's number) and, if `int8`, the Q and DQ around it.

    `bias` names the constant that is added behind a product of matrices.
    """

    node: onnx.NodeProto
    output: str
    bias: str = ""
    activation: int = 0
    int8: bool = False
    quantization: Quantization | None = None
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Form:
    """How an operator is lowered, and whether a node of it computes on integers where it could."""

    lower: Lower
    int8: Callable[[Lowering, onnx.NodeProto], bool]


def unit_of(low: Lowering, node: onnx.NodeProto, forms: Mapping[str, Form]) -> Unit:
    """The node, with the activation and the quantizer that can go with it."""
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    outputs = [name for name in node.output if name]
    unit = Unit(node=node, output=outputs[0], attributes=attributes)
    integers = _reads_integers(low, node)
    if len(outputs) > 1:
        unit.int8 = (
            integers and all(low.quantizer(name) is not None for name in outputs) and _has_int8(low, node, forms)
        )
        return unit
    adder = _adder(low, node)
    if adder is not None:
        low.done.add(id(adder[0]))
        unit.output, unit.bias = adder[0].output[0], adder[1]
    follower = low.only_reader(unit.output) if _fuses(low, node) else None
    limits = low.limits(follower) if follower is not None else None
    quantizer = low.quantizer(follower.output[0] if follower is not None and limits else unit.output)
    grid = low.grid(quantizer) if quantizer is not None else None
    free = integers and grid is not None and limits is not None and _holds(limits, grid)
    fused = limits in FUSED or free
    if follower is not None and limits is not None and fused:
        unit.activation, unit.output = 0 if free else FUSED[limits], follower.output[0]
        low.done.add(id(follower))
    elif follower is not None:
        quantizer = low.quantizer(unit.output)
        grid = low.grid(quantizer) if quantizer is not None else None
    if integers and grid is not None and _has_int8(low, node, forms):
        unit.int8, unit.quantization = True, grid
    if unit.int8:
        assert quantizer is not None
        low.done.add(id(quantizer))
        unit.output = quantizer.output[0]
        low.grids[unit.output] = unit.quantization  # type: ignore[assignment]
        low.shapes.setdefault(unit.output, low.shapes[quantizer.input[0]])
    return unit


def _adder(low: Lowering, node: onnx.NodeProto) -> tuple[onnx.NodeProto, str] | None:
    """The Add of a constant to each row that a MatMul by constant weights makes, and the constant's name.

    In integers it is a bias only if it is on the grid of the sum.
    """
    product = node.op_type == "MatMul" and _fuses(low, node) and len(low.shapes.get(node.input[0], ())) > 1
    reader = low.only_reader(node.output[0]) if product else None
    if reader is None or reader.op_type != "Add" or low.shapes.get(reader.output[0]) != low.shapes.get(node.output[0]):
        return None
    name = next((name for name in reader.input if name != node.output[0]), "")
    array, columns = low.value(name) if name else None, low.shape(node.output[0])[-1]
    fits = array is not None and array.shape[-1:] == (columns,) and array.size == columns
    on_grid = name in low.integers and low.dtype(low.integers[name]) == np.int32
    return (reader, name) if fits and (on_grid or not _reads_integers(low, node)) else None


def _fuses(low: Lowering, node: onnx.NodeProto) -> bool:
    if node.op_type in ("Gemm", "MatMul"):  # a product of two activations takes nothing with it
        array = low.value(node.input[1])
        return array is not None and array.ndim == 2
    return node.op_type in FUSES


def _has_int8(low: Lowering, node: onnx.NodeProto, forms: Mapping[str, Form]) -> bool:
    form = forms.get(node.op_type)
    return form is not None and form.int8(low, node)


def _reads_integers(low: Lowering, node: onnx.NodeProto) -> bool:
    """Whether all that it computes on are integers, or constants that can be."""
    data = [name for name in node.input if name and low.dtype(name) == np.float32]
    return any(name in low.integers for name in data) and all(
        name in low.integers for name in data if not _parameter(node, name)
    )


def _parameter(node: onnx.NodeProto, name: str) -> bool:
    """Inputs that are numbers of the operator's, such as a Clip's limits or a Pad's value."""
    return node.op_type in ("Clip", "Pad", "Resize") and node.input[0] != name


def _holds(limits: tuple[float, float], grid: Quantization) -> bool:
    """Whether the grid ends within the limits, so that rounding to it clips as they do."""
    low, high = ((end - float(grid.zero_point)) * float(grid.scale) for end in (-128, 127))
    half = 0.501 * float(grid.scale)
    return limits[0] <= low + half and high - half <= limits[1]
