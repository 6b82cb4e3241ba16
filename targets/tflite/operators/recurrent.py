"""LSTM, GRU and RNN, unrolled: one product for the inputs of all steps, then a few small operators a step.

TFLite's own recurrent operators keep their state between calls and take other gates; a graph of the length that the
model was given needs neither. Longer sequences than 512 steps are refused, since the graph grows with each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..flatbuffer import Tensor
from ..formula import Formula
from ..lowering import Lowering
from ..units import NoForm, Unit
from .registry import operator, optional

MOST_STEPS = 512
_DEFAULTS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
_INITIAL = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One direction of a layer. `inward` are the inputs' products of all steps, a tensor [batch, gates·width] each.

    `recurrent` [gates·width, width] and `offset` are the recurrent weights and biases, as ONNX orders gates.
    """

    make: Formula
    inward: list[Tensor]
    recurrent: np.ndarray
    offset: np.ndarray
    width: int
    batch: int

    def product(self, x: Tensor, gates: slice, offset: bool = True) -> Tensor:
        """The recurrent product of some gates."""
        rows = slice(gates.start * self.width, gates.stop * self.width)
        bias = self.offset[rows] if offset else np.zeros_like(self.offset[rows])
        return linear(self.make, x, self.recurrent[rows], bias)

    def parts(self, x: Tensor, count: int) -> list[Tensor]:
        """The gates of a tensor, each [batch, width]."""
        if count == 1:
            return [x]
        axis = self.make.constant(np.array(1, np.int32))
        return self.make.several("SPLIT", [axis, x], [(self.batch, self.width)] * count, numSplits=count)


State = tuple[Tensor | None, ...]
Step = Callable[[Cell, Tensor, State], State]


def linear(make: Formula, x: Tensor, weight: np.ndarray, bias: np.ndarray) -> Tensor:
    """x · weightᵀ + bias along the last axis."""
    shape = (*x.shape[:-1], weight.shape[0])
    held = (make.constant(np.ascontiguousarray(weight)), make.constant(bias.astype(np.float32)))
    return make("FULLY_CONNECTED", x, *held, shape=shape, keepNumDims=len(shape) > 2, fusedActivationFunction=0)


def _lstm(cell: Cell, inward: Tensor, state: State) -> State:
    """Gates i, o, f, c: C = f∘C + i∘c, H = o∘tanh(C)."""
    make, (hidden, memory) = cell.make, state
    gates = inward if hidden is None else make("ADD", inward, cell.product(hidden, slice(0, 4), offset=False))
    i, o, f, c = cell.parts(gates, 4)
    fresh = make("MUL", make("LOGISTIC", i), make("TANH", c))
    if memory is not None:
        fresh = make("ADD", make("MUL", make("LOGISTIC", f), memory), fresh)
    return make("MUL", make("LOGISTIC", o), make("TANH", fresh)), fresh


def _gru(cell: Cell, inward: Tensor, state: State) -> State:
    """Gates z, r, h: H = h + z∘(H − h), with the reset before the recurrent product or behind it."""
    make, hidden = cell.make, state[0]
    assert hidden is not None
    behind = bool(make.unit.attributes.get("linear_before_reset", 0))
    z_in, r_in, h_in = cell.parts(inward, 3)
    if behind:
        z, r, h = cell.parts(cell.product(hidden, slice(0, 3)), 3)
    else:
        z, r = cell.parts(cell.product(hidden, slice(0, 2)), 2)
    reset = make("LOGISTIC", make("ADD", r_in, r))
    update = make("LOGISTIC", make("ADD", z_in, z))
    kept = make("MUL", reset, h) if behind else cell.product(make("MUL", reset, hidden), slice(2, 3))
    fresh = make("TANH", make("ADD", h_in, kept))
    return (make("ADD", fresh, make("MUL", update, make("SUB", hidden, fresh))),)


def _rnn(cell: Cell, inward: Tensor, state: State) -> State:
    make, hidden = cell.make, state[0]
    return (make("TANH", inward if hidden is None else make("ADD", inward, cell.product(hidden, slice(0, 1), False))),)


_STEPS: dict[str, Step] = {"LSTM": _lstm, "GRU": _gru, "RNN": _rnn}


@operator("LSTM", "GRU", "RNN")
def _recurrent(low: Lowering, unit: Unit) -> None:
    kind, shape = unit.node.op_type, low.shape(unit.node.input[0])
    _refuse(low, unit, shape)
    make = Formula(low=low, unit=unit)
    directions = {b"forward": [1], b"reverse": [-1], b"bidirectional": [1, -1]}
    found = [
        _direction(make, number, order, kind)
        for number, order in enumerate(directions[unit.attributes.get("direction", b"forward")])
    ]
    outputs = [*unit.node.output, "", "", ""]
    if outputs[0]:
        make.answer(_sequence(make, [states for states, _ in found]), None, outputs[0])
    for place, name in enumerate(outputs[1:3]):
        if name:
            ends = [last[place] for _, last in found]
            make.answer(_stacked(make, [end for end in ends if end is not None], 0), None, name)


def _refuse(low: Lowering, unit: Unit, shape: tuple[int, ...]) -> None:
    kind, attributes = unit.node.op_type, unit.attributes
    directions = 2 if attributes.get("direction") == b"bidirectional" else 1
    wanted = _DEFAULTS[kind] * directions
    if [text.decode() for text in attributes.get("activations", [])] not in ([], wanted):
        raise NoForm("other activations than its own")
    if attributes.get("clip") or attributes.get("layout") or attributes.get("input_forget"):
        raise NoForm("clip, layout or input_forget")
    if shape[0] > MOST_STEPS:
        raise NoForm(f"a sequence of {shape[0]} steps, more than {MOST_STEPS} to unroll")
    lengths = low.value(optional(unit, 4)) if optional(unit, 4) else np.array([shape[0]])
    if lengths is None or (lengths != shape[0]).any():
        raise NoForm("sequences of other lengths")
    if optional(unit, 7):
        peepholes = low.value(optional(unit, 7))
        if peepholes is None or peepholes.any():
            raise NoForm("peepholes")


def _direction(make: Formula, number: int, order: int, kind: str) -> tuple[list[Tensor], State]:
    """Hidden states of all steps, in the sequence's own order, and the last state."""
    low, unit = make.low, make.unit
    weights = [low.value(unit.node.input[index]) if optional(unit, index) else None for index in (1, 2, 3)]
    if weights[0] is None or weights[1] is None or (optional(unit, 3) and weights[2] is None):
        raise NoForm("its weights are computed")
    inner, recurrent = weights[0][number], weights[1][number]
    width = recurrent.shape[1]
    biases = weights[2][number] if weights[2] is not None else np.zeros(2 * len(inner), np.float32)
    inside, offset = biases[: len(inner)], biases[len(inner) :]
    x = low.read(unit.node.input[0])
    # GRU adds its recurrent biases where the reset can reach them, the others do so at once.
    projected = linear(make, x, inner, inside if kind == "GRU" else inside + offset)
    steps, batch = x.shape[:2]
    inward = make.several("UNPACK", [projected], [projected.shape[1:]] * steps, num=steps, axis=0)
    cell = Cell(make=make, inward=inward, recurrent=recurrent, offset=offset, width=width, batch=batch)
    state: State = tuple(_initial(make, index, number, (batch, width)) for index in _INITIAL[kind])
    if kind == "GRU" and state[0] is None:
        state = (make.constant(np.zeros((batch, width), np.float32)),)
    hidden = []
    for step in inward[::order]:
        state = _STEPS[kind](cell, step, state)
        assert state[0] is not None
        hidden.append(state[0])
    return hidden[::order], state


def _initial(make: Formula, index: int, number: int, shape: tuple[int, int]) -> Tensor | None:
    """An initial state [directions, batch, width] of one direction; None where it is zero."""
    name = optional(make.unit, index)
    if not name:
        return None
    held = make.low.value(name)
    if held is not None:
        return make.constant(held[number]) if held.any() else None
    whole = make.low.read(name)
    if whole.shape[0] == 1:
        return make.reshape(whole, shape)
    begin, size = make.numbers(number, 0, 0), make.numbers(1, *shape)
    return make.reshape(make("SLICE", whole, begin, size, shape=(1, *shape)), shape)


def _sequence(make: Formula, directions: list[list[Tensor]]) -> Tensor:
    """[steps, directions, batch, width]"""
    return _stacked(make, [_stacked(make, states, 0) for states in directions], 1)


def _stacked(make: Formula, tensors: list[Tensor], axis: int) -> Tensor:
    shape = tensors[0].shape
    whole = (*shape[:axis], len(tensors), *shape[axis:])
    if len(tensors) == 1:
        return make.reshape(tensors[0], whole)
    return make("PACK", *tensors, shape=whole, valuesCount=len(tensors), axis=axis)
