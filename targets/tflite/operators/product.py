"""Products of matrices: with constant weights FULLY_CONNECTED, else BATCH_MATMUL."""

from __future__ import annotations

import math

import numpy as np
import onnx

from ..flatbuffer import Tensor
from ..formula import Formula
from ..lowering import Lowering
from ..units import NoForm, Unit
from .registry import always, operator, optional
from .weights import bias_of, filters_of, weights_of

_MOST_AXES = 4


@operator("Gemm", int8=always)
def _gemm(low: Lowering, unit: Unit) -> None:
    alpha, beta = (float(unit.attributes.get(key, 1.0)) for key in ("alpha", "beta"))
    turned = bool(unit.attributes.get("transB", 0))
    bias = low.value(unit.node.input[2]) if optional(unit, 2) else np.zeros(1, np.float32)
    rows = low.shape(unit.output)[0]
    plain = bias is not None and (bias.ndim < 2 or bias.shape[0] == 1)
    if low.value(unit.node.input[1]) is not None and plain and (alpha == beta == 1.0 or not unit.int8):
        x = low.read(low.data(unit, 0), (1, 0) if unit.attributes.get("transA") else None)
        _fully_connected(low, unit, x, turned, alpha, beta)
        return
    if unit.int8 or unit.activation or rows == 0:
        raise NoForm("both factors or the bias are computed, in integers")
    make = Formula(low=low, unit=unit)
    first = low.read(unit.node.input[0], (1, 0) if unit.attributes.get("transA") else None)
    second = low.read(unit.node.input[1], (1, 0) if turned else None)
    answer = _product(make, first, second)
    if alpha != 1.0:
        answer = make("MUL", answer, alpha)
    if optional(unit, 2):
        offset = low.read(unit.node.input[2])
        answer = make("ADD", answer, offset if beta == 1.0 else make("MUL", offset, beta))
    make.answer(answer)


def _apart(low: Lowering, node: onnx.NodeProto) -> bool:
    """In integers a constant factor is a matrix of scales by column."""
    second = low.value(node.input[1])
    return second is not None and second.ndim == 2 and len(low.shape(node.input[0])) > 1


@operator("MatMul", int8=_apart)
def _matmul(low: Lowering, unit: Unit) -> None:
    shapes = [low.shape(name) for name in unit.node.input]
    second = low.value(unit.node.input[1])
    if second is not None and second.ndim == 2 and len(shapes[0]) > 1:
        _fully_connected(low, unit, low.read(low.data(unit, 0)), turned=False)
        return
    make = Formula(low=low, unit=unit)
    turned = (*range(len(shapes[1]) - 2), len(shapes[1]) - 1, len(shapes[1]) - 2)
    if len(shapes[0]) == len(shapes[1]) <= _MOST_AXES and low.perm(unit.node.input[1]) == turned and second is None:
        # A matrix stored by columns, as keys are, is read so.
        x, stored = low.read(unit.node.input[0]), low.read(unit.node.input[1], turned)
        make.answer(make("BATCH_MATMUL", x, stored, shape=low.shape(unit.output), adjX=False, adjY=True))
        return
    first, other = (low.read(name) for name in unit.node.input)
    # A vector is a matrix of one row, or of one column.
    first = make.reshape(first, (1, *first.shape)) if len(shapes[0]) == 1 else first
    other = make.reshape(other, (*other.shape, 1)) if len(shapes[1]) == 1 else other
    make.answer(make.reshape(_product(make, first, other), low.shape(unit.output)))


def _product(make: Formula, first: Tensor, second: Tensor) -> Tensor:
    """[…, n, k] times […, k, m], the axes in front broadcast against each other."""
    batches = [first.shape[:-2], second.shape[:-2]]
    joint = np.broadcast_shapes(*batches)
    matrix = (first.shape[-2], second.shape[-1])
    if len(joint) + 2 > _MOST_AXES:
        if any(batch != joint and math.prod(batch) != 1 for batch in batches):
            raise NoForm(f"a product over {len(joint) + 2} axes, some of them broadcast")
        first, second = (make.reshape(t, (math.prod(t.shape[:-2]), *t.shape[-2:])) for t in (first, second))
        flat = (max(first.shape[0], second.shape[0]), *matrix)
        return make.reshape(_batches(make, first, second, flat), (*joint, *matrix))
    return _batches(make, first, second, (*joint, *matrix))


def _batches(make: Formula, first: Tensor, second: Tensor, shape: tuple[int, ...]) -> Tensor:
    return make("BATCH_MATMUL", first, second, shape=shape, adjX=False, adjY=False)


def _fully_connected(
    low: Lowering,
    unit: Unit,
    x: Tensor,
    turned: bool,
    alpha: float = 1.0,
    beta: float = 1.0,
) -> None:
    """`turned` weights come as [outputs, inputs]."""
    name = unit.node.input[1]
    array, scales = weights_of(low, unit, 1)
    array = array if turned else array.T
    if alpha != 1.0:
        array = (array * np.float32(alpha)).astype(np.float32)
    filters = filters_of(low, name, array, (0, 1), scales, 0)
    bias = bias_of(low, unit, unit.bias or optional(unit, 2), scales, array.shape[0], x)
    if beta != 1.0 and bias.data is not None:
        bias = low.constant((bias.data * np.float32(beta)).astype(np.float32), bias.name)
    made = low.result(unit)
    options = {"fusedActivationFunction": unit.activation, "keepNumDims": len(made.shape) > 2}
    low.add("FULLY_CONNECTED", [x, filters, bias], [made], "FullyConnectedOptions", options)


@operator("Einsum")
def _einsum(low: Lowering, unit: Unit) -> None:
    """Products over two operands in which each axis is shared, summed over, or of one alone: a BATCH_MATMUL."""
    text = str(unit.attributes["equation"].decode()).replace(" ", "")
    terms = text.split("->")[0].split(",")
    if "->" not in text or "." in text or len(terms) != 2 or any(len(set(term)) != len(term) for term in terms):
        raise NoForm(f"the equation {text}")
    left, right = terms
    out = text.split("->")[1]
    shared = [axis for axis in out if axis in left and axis in right]
    summed = [axis for axis in left if axis in right and axis not in out]
    alone = [[axis for axis in term if axis in out and axis not in shared] for term in terms]
    if set(left + right) != set(shared + summed + alone[0] + alone[1]):
        raise NoForm(f"the equation {text}, with a sum over one operand alone")
    size: dict[str, int] = {}
    for term, name in zip(terms, unit.node.input, strict=True):
        size.update(zip(term, low.shape(name), strict=True))

    def count(axes: list[str]) -> int:
        return math.prod(size[axis] for axis in axes)

    make = Formula(low=low, unit=unit)
    orders = [[*shared, *alone[0], *summed], [*shared, *summed, *alone[1]]]
    first, second = (
        low.read(name, tuple(term.index(axis) for axis in order))
        for name, term, order in zip(unit.node.input, terms, orders, strict=True)
    )
    first = make.reshape(first, (count(shared), count(alone[0]), count(summed)))
    second = make.reshape(second, (count(shared), count(summed), count(alone[1])))
    answer = _product(make, first, second)
    order = [*shared, *alone[0], *alone[1]]
    answer = make.reshape(answer, tuple(size[axis] for axis in order))
    make.answer(answer, tuple(out.index(axis) for axis in order))
