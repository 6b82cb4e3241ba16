"""The one registry of operators, and what all of them read of a node."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx

from ..lowering import Lowering
from ..units import Form, Lower, NoForm, Unit

OPERATORS: dict[str, Form] = {}
Condition = Callable[[Lowering, onnx.NodeProto], bool]


def always(low: Lowering, node: onnx.NodeProto) -> bool:
    return True


def never(low: Lowering, node: onnx.NodeProto) -> bool:
    return False


def keeps_grid(low: Lowering, node: onnx.NodeProto) -> bool:
    """Whether a node reads and writes one grid, as it must where integers are only moved."""
    name = low.integers.get(node.input[0], "")
    grid = low.grids.get(name)
    others = [low.grids.get(low.integers.get(name, "")) for name in node.input[1:] if name in low.integers]
    written = [low.grid_behind(name) for name in node.output if name]
    return grid is not None and all(other is not None and other.equals(grid) for other in (*others, *written))


def operator(*names: str, int8: Condition = never) -> Callable[[Lower], Lower]:
    """Register how ONNX operators are lowered; `int8` says where they compute on integers, else float is restored."""

    def register(function: Lower) -> Lower:
        OPERATORS.update(dict.fromkeys(names, Form(lower=function, int8=int8)))
        return function

    return register


def ints(unit: Unit, key: str, default: Sequence[int]) -> list[int]:
    return [int(number) for number in unit.attributes.get(key, default)]


def axes_of(low: Lowering, unit: Unit) -> list[int] | None:
    """Axes by attribute or by input, counted from the front; None where none are given.

    Raises:
        NoForm: they are computed.
    """
    rank = len(low.shape(unit.node.input[0]))
    if "axes" in unit.attributes:
        return [axis % rank for axis in ints(unit, "axes", [])]
    if len(unit.node.input) > 1 and unit.node.input[1]:
        array = low.value(unit.node.input[1])
        if array is None:
            raise NoForm("axes that are computed")
        if array.size:
            return [int(axis) % rank for axis in array.reshape(-1)]
    return None


def optional(unit: Unit, index: int) -> str:
    """The name of an input, empty where it is left out."""
    return unit.node.input[index] if len(unit.node.input) > index else ""
