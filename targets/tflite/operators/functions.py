"""Functions of single numbers that TFLite has no word for, as formulas."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..flatbuffer import Tensor
from ..formula import Formula
from ..lowering import Lowering
from ..units import Unit
from .registry import operator

_SELU = 1.67326319217681884765625, 1.05070102214813232421875
# Abramowitz and Stegun, "Handbook of Mathematical Functions" (1964), 7.1.26: within 1.5e-7 everywhere.
_ERF_STEP = 0.3275911
_ERF = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)


def function(*names: str) -> Callable[[Callable[[Formula, Tensor], Tensor]], Callable[[Formula, Tensor], Tensor]]:
    """Register a formula of one tensor, whatever order its axes are in."""

    def register(formula: Callable[[Formula, Tensor], Tensor]) -> Callable[[Formula, Tensor], Tensor]:
        def lower(low: Lowering, unit: Unit) -> None:
            perm = low.perm(unit.node.input[0])
            make = Formula(low=low, unit=unit)
            make.answer(formula(make, low.read(unit.node.input[0], perm)), perm)

        operator(*names)(lower)
        return formula

    return register


def number(make: Formula, key: str, default: float) -> float:
    return float(make.unit.attributes.get(key, default))


@function("HardSigmoid")
def _hard_sigmoid(make: Formula, x: Tensor) -> Tensor:
    """α·x + β clipped to [0, 1]; by MAXIMUM and MINIMUM, since runtimes of 2023 lack RELU_0_TO_1."""
    line = make("ADD", make("MUL", x, number(make, "alpha", 0.2)), number(make, "beta", 0.5))
    return make("MINIMUM", make("MAXIMUM", line, 0.0), 1.0)


@function("Elu", "Celu", "Selu")
def _elu(make: Formula, x: Tensor) -> Tensor:
    """max(0, x) + α·(exp(min(0, x)) − 1), Celu with x / α in the exponent, Selu with a factor."""
    kind = make.unit.node.op_type
    alpha = number(make, "alpha", _SELU[0] if kind == "Selu" else 1.0)
    if kind == "Celu":
        return x if alpha == 0 else make("MUL", make("ELU", make("MUL", x, 1 / alpha)), alpha)
    if alpha == 1.0 and kind == "Elu":
        return make("ELU", x)
    below = make("MUL", make("ELU", make("MINIMUM", x, 0.0)), alpha)
    whole = make("ADD", make("RELU", x), below)
    return make("MUL", whole, number(make, "gamma", _SELU[1])) if kind == "Selu" else whole


@function("Softplus")
def softplus(make: Formula, x: Tensor) -> Tensor:
    """log(1 + eˣ) = max(0, x) + log(1 + e^−|x|), which never overflows."""
    small = make("EXP", make("NEG", make("ABS", x)))
    return make("ADD", make("RELU", x), make("LOG", make("ADD", small, 1.0)))


@function("Softsign")
def _softsign(make: Formula, x: Tensor) -> Tensor:
    return make("DIV", x, make("ADD", make("ABS", x), 1.0))


@function("Mish")
def _mish(make: Formula, x: Tensor) -> Tensor:
    return make("MUL", x, make("TANH", softplus(make, x)))


@function("Swish")
def _swish(make: Formula, x: Tensor) -> Tensor:
    alpha = number(make, "alpha", 1.0)
    return make("MUL", x, make("LOGISTIC", x if alpha == 1.0 else make("MUL", x, alpha)))


@function("Tan")
def _tan(make: Formula, x: Tensor) -> Tensor:
    return make("DIV", make("SIN", x), make("COS", x))


@function("ThresholdedRelu")
def _thresholded(make: Formula, x: Tensor) -> Tensor:
    above = make("GREATER", x, number(make, "alpha", 1.0))
    return make("MUL", x, make("CAST", above, dtype=x.dtype))


@function("Erf")
def _erf(make: Formula, x: Tensor) -> Tensor:
    """sign(x) · (1 − (a₁t + … + a₅t⁵)·e^−x²) with t = 1 / (1 + p·|x|): within 1e-6 of erf in float32.

    Only an Erf that stands for itself comes here; those of a GELU are found before (gelu.py).
    """
    size = make("ABS", x)
    t = make("DIV", make.constant(_one(x)), make("ADD", make("MUL", size, _ERF_STEP), 1.0))
    sum_ = make("MUL", t, _ERF[-1])
    for factor in _ERF[-2::-1]:
        sum_ = make("MUL", make("ADD", sum_, factor), t)
    rest = make("MUL", sum_, make("EXP", make("NEG", make.square(x))))
    return make("MUL", make("SIGN", x), make("SUB", make.constant(_one(x)), rest))


def _one(x: Tensor) -> np.ndarray:
    return np.ones((), x.dtype)
