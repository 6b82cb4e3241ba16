"""Normalizations, one sum, difference and product after the other, and Softmax."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..axes import last
from ..flatbuffer import Tensor
from ..formula import TABLES, Formula
from ..lowering import Lowering
from ..units import NoForm, Unit
from .registry import operator, optional


@operator("BatchNormalization")
def _batch(low: Lowering, unit: Unit) -> None:
    rank = len(low.shape(unit.node.input[0]))
    if unit.attributes.get("training_mode"):
        raise NoForm("it is in training")
    arrays = [low.value(name) for name in unit.node.input[1:5]]
    if any(array is None for array in arrays):
        raise NoForm("numbers that are computed")
    gain, offset, mean, variance = (np.asarray(array, np.float64) for array in arrays)
    factor = gain / np.sqrt(variance + unit.attributes.get("epsilon", 1e-5))
    perm = last(rank)
    make = Formula(low=low, unit=unit)
    x = low.read(unit.node.input[0], perm)
    scaled = make("MUL", x, make.constant(factor.astype(np.float32)))
    make.answer(make("ADD", scaled, make.constant((offset - mean * factor).astype(np.float32))), perm)


def normalized(make: Formula, x: Tensor, axes: tuple[int, ...], epsilon: float) -> Tensor:
    """(x − mean) / √(variance + ε) over axes of the tensor."""
    apart = make("SUB", x, make.over("MEAN", x, axes))
    variance = make.over("MEAN", make.square(apart), axes)
    return make("MUL", apart, make("RSQRT", make("ADD", variance, epsilon)))


@operator("LayerNormalization")
def _layer(low: Lowering, unit: Unit) -> None:
    if len([name for name in unit.node.output if name]) > 1:
        raise NoForm("its mean and deviation as outputs")
    rank = len(low.shape(unit.node.input[0]))
    axis = int(unit.attributes.get("axis", -1)) % rank
    make = Formula(low=low, unit=unit)
    x = low.read(unit.node.input[0])
    found = normalized(make, x, tuple(range(axis, rank)), float(unit.attributes.get("epsilon", 1e-5)))
    make.answer(_scaled(make, found, optional(unit, 1), optional(unit, 2)))


def _scaled(make: Formula, x: Tensor, gain: str, offset: str) -> Tensor:
    for kind, name in (("MUL", gain), ("ADD", offset)):
        x = make(kind, x, make.low.read(name)) if name else x
    return x


@operator("RMSNormalization")
def _root_mean_square(low: Lowering, unit: Unit) -> None:
    rank = len(low.shape(unit.node.input[0]))
    axes = tuple(range(int(unit.attributes.get("axis", -1)) % rank, rank))
    make = Formula(low=low, unit=unit)
    x = low.read(unit.node.input[0])
    square = make.over("MEAN", make.square(x), axes)
    root = make("RSQRT", make("ADD", square, float(unit.attributes.get("epsilon", 1e-5))))
    make.answer(_scaled(make, make("MUL", x, root), optional(unit, 1), ""))


@operator("InstanceNormalization")
def _instance(low: Lowering, unit: Unit) -> None:
    """Over the space of each channel, channels last."""
    rank = len(low.shape(unit.node.input[0]))
    make = Formula(low=low, unit=unit)
    x = low.read(unit.node.input[0], last(rank))
    found = normalized(make, x, tuple(range(1, rank - 1)), float(unit.attributes.get("epsilon", 1e-5)))
    make.answer(_scaled(make, found, unit.node.input[1], unit.node.input[2]), last(rank))


@operator("GroupNormalization")
def _group(low: Lowering, unit: Unit) -> None:
    """Over the space and the channels of each group; gain and offset a group before opset 21, then a channel."""
    shape, groups = low.shape(unit.node.input[0]), int(unit.attributes["num_groups"])
    make = Formula(low=low, unit=unit)
    numbers = []
    for name in unit.node.input[1:3]:
        array = low.value(name)
        if array is None:
            raise NoForm("a gain or offset that is computed")
        by_channel = np.repeat(array, shape[1] // len(array))
        numbers.append(make.constant(by_channel.reshape(shape[1], *[1] * (len(shape) - 2))))
    x = make.reshape(low.read(unit.node.input[0]), (shape[0], groups, math.prod(shape[1:]) // groups))
    found = normalized(make, x, (2,), float(unit.attributes.get("epsilon", 1e-5)))
    found = make.reshape(found, shape)
    make.answer(make("ADD", make("MUL", found, numbers[0]), numbers[1]))


@operator("LpNormalization")
def _length(low: Lowering, unit: Unit) -> None:
    if unit.attributes.get("p", 2) != 2:
        raise NoForm("another power than squares")
    name = unit.node.input[0]
    perm = low.perm(name)
    make = Formula(low=low, unit=unit)
    x = low.read(name, perm)
    axis = perm.index(int(unit.attributes.get("axis", -1)) % len(perm))
    make.answer(make("DIV", x, make("SQRT", make.over("SUM", make.square(x), (axis,)))), perm)


@operator("Softmax", "LogSoftmax")
def _softmax(low: Lowering, unit: Unit) -> None:
    name, shape = unit.node.input[0], low.shape(unit.node.input[0])
    rank = len(shape)
    kind = "SOFTMAX" if unit.node.op_type == "Softmax" else "LOG_SOFTMAX"
    options: dict[str, Any] = {"beta": 1.0} if kind == "SOFTMAX" else {}
    axis = int(unit.attributes.get("axis", -1 if low.opset >= 13 else 1)) % rank
    if low.opset < 13 and math.prod(shape[axis + 1 :]) != 1:  # over all axes from its own on
        make = Formula(low=low, unit=unit)
        flat = make.reshape(low.read(name), (math.prod(shape[:axis]), math.prod(shape[axis:])))
        make.answer(make.reshape(make(kind, flat, **options), shape))
        return
    perm = low.perm(name)
    if perm[-1] != axis:
        perm = (*(a for a in range(rank) if a != axis), axis)
    low.add(kind, [low.read(name, perm)], [low.result(unit, perm)], TABLES[kind], options)
