"""Arithmetic, comparison and choice between tensors that are broadcast against each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..axes import Perm, common, identity
from ..flatbuffer import Tensor
from ..formula import TABLES, Formula
from ..lowering import Lowering
from ..units import NoForm, Unit
from .registry import always, operator

_BINARY = {
    "Add": "ADD", "Sub": "SUB", "Mul": "MUL", "Div": "DIV", "Greater": "GREATER", "GreaterOrEqual": "GREATER_EQUAL",
    "Less": "LESS", "LessOrEqual": "LESS_EQUAL", "Equal": "EQUAL", "And": "LOGICAL_AND", "Or": "LOGICAL_OR",
    "Xor": "NOT_EQUAL",
}  # fmt: skip
_ACTIVATED = frozenset({"ADD", "SUB", "MUL", "DIV"})
# What computes along the last of ONNX's axes, and what takes channels last.
_IN_ORDER = frozenset({"MatMul", "Gemm", "LayerNormalization", "RMSNormalization"})
_AS_PICTURES = frozenset({"Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool", "Resize"})
_SEVERAL = {"Max": "MAXIMUM", "Min": "MINIMUM", "Sum": "ADD", "Mean": "ADD"}


@operator("Add", "Mul", int8=always)
def _integer_binary(low: Lowering, unit: Unit) -> None:
    _binary(low, unit)


@operator(*(name for name in _BINARY if name not in ("Add", "Mul")))
def _binary(low: Lowering, unit: Unit) -> None:
    kind = _BINARY[unit.node.op_type]
    operands, perm = _met(low, unit)
    options = {"fusedActivationFunction": unit.activation} if kind in _ACTIVATED else {}
    low.add(kind, [*operands], [low.result(unit, perm)], TABLES[kind], options)


@operator(*_SEVERAL)
def _several(low: Lowering, unit: Unit) -> None:
    operands, perm = _met(low, unit)
    make = Formula(low=low, unit=unit)
    found = operands[0]
    for operand in operands[1:]:
        found = make(_SEVERAL[unit.node.op_type], found, operand)
    if unit.node.op_type == "Mean":
        found = make("MUL", found, 1 / len(operands))
    make.answer(found, perm)


@operator("Pow")
def _power(low: Lowering, unit: Unit) -> None:
    operands, perm = _met(low, unit)
    make = Formula(low=low, unit=unit)
    x = operands[0]
    held = low.value(unit.node.input[1])
    exponent = float(held.reshape(())) if held is not None and held.size == 1 else None
    wide = len(low.shape(unit.output)) == len(x.shape)
    if x.dtype == np.float32 and wide and exponent in (1.0, 2.0, 3.0, 0.5, -0.5, -1.0):
        make.answer(_simple_power(make, x, exponent), perm)
        return
    other = operands[1] if operands[1].dtype == x.dtype else make("CAST", operands[1], dtype=x.dtype)
    make.answer(make("POW", x, other), perm)


def _simple_power(make: Formula, x: Tensor, exponent: float) -> Tensor:
    if exponent in (2.0, 3.0):
        square = make.square(x)
        return square if exponent == 2.0 else make("MUL", square, x)
    if exponent == -1.0:
        return make("DIV", make.constant(np.ones((), np.float32)), x)
    return x if exponent == 1.0 else make("SQRT" if exponent > 0 else "RSQRT", x)


@operator("Mod")
def _mod(low: Lowering, unit: Unit) -> None:
    """The remainder has the divisor's sign, with fmod the dividend's."""
    (x, divisor), perm = _met(low, unit)
    make = Formula(low=low, unit=unit)
    if not unit.attributes.get("fmod", 0):
        make.answer(make("FLOOR_MOD", x, divisor), perm)
    elif x.dtype != np.float32:
        raise NoForm("fmod of integers")
    else:
        make.answer(make("MUL", make("SIGN", x), make("FLOOR_MOD", make("ABS", x), make("ABS", divisor))), perm)


@operator("Where")
def _where(low: Lowering, unit: Unit) -> None:
    operands, perm = _met(low, unit)
    low.add("SELECT_V2", [*operands], [low.result(unit, perm)], "SelectV2Options")


@operator("IsNaN")
def _is_nan(low: Lowering, unit: Unit) -> None:
    perm = low.perm(unit.node.input[0])
    x = low.read(unit.node.input[0], perm)
    low.add("NOT_EQUAL", [x, x], [low.result(unit, perm)], "NotEqualOptions")


def _met(low: Lowering, unit: Unit) -> tuple[list[Tensor], Perm]:
    """A node's operands, in the order in which they meet."""
    names = [low.data(unit, index) for index in range(len(unit.node.input))]
    perm = joint(low, names, len(low.shape(unit.output)))
    if _is_wanted_in_order(low, unit, names, perm):
        perm = identity(len(perm))
    return [operand(low, name, perm) for name in names], perm


def _is_wanted_in_order(low: Lowering, unit: Unit, names: Sequence[str], perm: Perm) -> bool:
    """Whether what reads it needs ONNX's own order, so that one operand is better turned here than all later.

    So a Transformer's stream of tokens, which begins as a picture, is turned once and not behind every block.
    """
    readers = {reader.op_type for reader in low.readers.get(unit.output, [])}
    turned = [name for name in names if low.perm(name) == perm and low.view(name).tensor.data is None]
    return len(turned) == 1 and bool(readers & _IN_ORDER) and not readers & _AS_PICTURES


def joint(low: Lowering, names: Sequence[str], rank: int) -> Perm:
    """The order in which values of that rank meet."""
    perms = [low.perm(name) for name in names if len(low.shape(name)) == rank and low.view(name).tensor.data is None]
    return common(perms) if perms else identity(rank)


def operand(low: Lowering, name: str, perm: Perm) -> Tensor:
    """A value to be broadcast against others stored in that order; one of fewer axes gets those in front."""
    shape, rank = low.shape(name), len(perm)
    missing = rank - len(shape)
    if not missing:
        return low.read(name, perm)
    view = low.view(name)
    if perm == identity(rank) or int(np.prod(shape)) == 1:
        return low.read(name)
    whole_shape = (1,) * missing + tuple(shape)
    if view.tensor.data is not None:
        array = low.read(name).data
        assert array is not None
        return low.constant(array.reshape(whole_shape).transpose(perm), name, view.tensor.quantization)
    plain = low.read(name)
    grid = plain.quantization
    whole = Tensor(name=f"{name}/whole", shape=whole_shape, dtype=plain.dtype, quantization=grid)
    low.reshape(plain, whole)
    ordered = tuple(whole_shape[axis] for axis in perm)
    made = Tensor(name=f"{name}/ordered", shape=ordered, dtype=plain.dtype, quantization=grid)
    return low.add("TRANSPOSE", [whole, low.numbers(perm, f"{name}/order")], [made], "TransposeOptions")
