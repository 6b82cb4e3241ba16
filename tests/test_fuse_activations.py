from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from edgepack.passes.fuse_activations import fuse_activations
from edgepack.reference import Session
from tests.models import in_edgepack, model, random

node = helper.make_node
NUMBERS = {"three": 3.0, "six": 6.0, "sixth": 1 / 6, "zero": 0.0, "one": 1.0, "half": 0.5, "two": 2.0}

# How exporters write clip(a, 0, 6), and how they multiply x, that, and 1/6.
CLIPS: dict[str, Callable[[str, str], list[onnx.NodeProto]]] = {
    "clip": lambda a, b: [node("Clip", [a, "zero", "six"], [b])],
    "min of max": lambda a, b: [node("Max", [a, "zero"], ["low"]), node("Min", ["six", "low"], [b])],
    "max of min": lambda a, b: [node("Min", [a, "six"], ["low"]), node("Max", ["zero", "low"], [b])],
    "min of relu": lambda a, b: [node("Relu", [a], ["low"]), node("Min", ["low", "six"], [b])],
}
PRODUCTS = {
    "mul div": [node("Mul", ["x", "c"], ["m"]), node("Div", ["m", "six"], ["y"])],
    "div mul": [node("Div", ["c", "six"], ["m"]), node("Mul", ["m", "x"], ["y"])],
    "mul mul": [node("Mul", ["c", "x"], ["m"]), node("Mul", ["m", "sixth"], ["y"])],
    "sixth first": [node("Mul", ["sixth", "c"], ["m"]), node("Mul", ["x", "m"], ["y"])],
    "x divided": [node("Div", ["x", "six"], ["m"]), node("Mul", ["m", "c"], ["y"])],
}


def spelled(*nodes: onnx.NodeProto, opset: int = 17, also: tuple[str, ...] = ()) -> onnx.ModelProto:
    """A model from x to y, between two nodes that are no part of any pattern."""
    shape = [2, 3, 4, 5]
    return model(
        [node("Mul", ["in", "range"], ["t"]), node("Tan", ["t"], ["x"]), *nodes, node("Neg", ["y"], ["out"])],
        {"in": shape},
        {"out": shape, **dict.fromkeys(also, shape)},
        {"range": np.full(1, 0.4, np.float32), **{k: np.array(v, np.float32) for k, v in NUMBERS.items()}},
        opset=opset,
    )


def after(proto: onnx.ModelProto) -> dict[str, int]:
    """The operators after fusing, whose answers must be those of before."""
    before = in_edgepack(proto)
    fused = fuse_activations(before).model
    onnx.checker.check_model(fused.proto(), full_check=True)
    feed = {"in": random([2, 3, 4, 5], 1, 1.0)}
    wanted, got = Session(before).run(feed), Session(fused).run(feed)
    assert list(wanted) == list(got)
    for name in wanted:
        np.testing.assert_allclose(got[name], wanted[name], rtol=1e-5, atol=1e-5)
    return {name: count for name, count in fused.operators.items() if name not in ("Tan", "Neg")}


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("product", PRODUCTS)
def test_hard_swish_in_every_spelling(clip: str, product: str) -> None:
    proto = spelled(node("Add", ["three", "x"], ["a"]), *CLIPS[clip]("a", "c"), *PRODUCTS[product])
    assert after(proto) == {"Mul": 1, "HardSwish": 1}


def test_hard_swish_of_a_hard_sigmoid() -> None:
    gate = node("HardSigmoid", ["x"], ["g"], alpha=0.16666667, beta=0.5)
    assert after(spelled(gate, node("Mul", ["g", "x"], ["y"]))) == {"Mul": 1, "HardSwish": 1}


def test_before_opset_14_there_is_no_hard_swish() -> None:
    proto = spelled(node("Add", ["x", "three"], ["a"]), *CLIPS["clip"]("a", "c"), *PRODUCTS["mul div"], opset=13)
    assert after(proto) == {"Mul": 2, "HardSigmoid": 1}


@pytest.mark.parametrize("clip", CLIPS)
def test_hard_sigmoid(clip: str) -> None:
    proto = spelled(node("Add", ["x", "three"], ["a"]), *CLIPS[clip]("a", "c"), node("Div", ["c", "six"], ["y"]))
    assert after(proto) == {"Mul": 1, "HardSigmoid": 1}


def test_hard_sigmoid_with_a_slope_and_no_division() -> None:
    slope = node("Mul", ["x", "sixth"], ["s"])
    line = node("Add", ["s", "half"], ["a"])
    assert after(spelled(slope, line, node("Clip", ["a", "zero", "one"], ["y"]))) == {"Mul": 1, "HardSigmoid": 1}


def near_misses() -> dict[str, onnx.ModelProto]:
    add, clip = node("Add", ["x", "three"], ["a"]), node("Clip", ["a", "zero", "six"], ["c"])
    mul, div = PRODUCTS["mul div"]
    return {
        "another offset": spelled(node("Add", ["x", "two"], ["a"]), clip, mul, div),
        "another top": spelled(add, node("Clip", ["a", "zero", "two"], ["c"]), mul, div),
        "another bottom": spelled(add, node("Clip", ["a", "one", "six"], ["c"]), mul, div),
        "no top": spelled(add, node("Clip", ["a", "zero"], ["c"]), mul, div),
        "another divisor": spelled(add, clip, mul, node("Div", ["m", "three"], ["y"])),
        "divided the other way": spelled(add, clip, mul, node("Div", ["six", "m"], ["y"])),
        "another factor": spelled(node("Neg", ["x"], ["n"]), add, clip, node("Mul", ["n", "c"], ["m"]), div),
        "sum is an output": spelled(add, clip, mul, div, also=("a",)),
        "clip is read elsewhere": spelled(
            add, clip, mul, node("Div", ["m", "six"], ["d"]), node("Add", ["d", "c"], ["y"])
        ),
        "product is an output": spelled(add, clip, mul, div, also=("m",)),
    }


@pytest.mark.parametrize("name", near_misses())
def test_near_misses_are_left_alone(name: str) -> None:
    proto = near_misses()[name]
    assert after(proto) == {
        name: count for name, count in in_edgepack(proto).operators.items() if name not in ("Tan", "Neg")
    }


def test_an_output_keeps_its_name() -> None:
    proto = spelled(node("Add", ["x", "three"], ["a"]), *CLIPS["clip"]("a", "c"), *PRODUCTS["mul div"], also=("y",))
    assert after(proto) == {"Mul": 1, "HardSwish": 1}


@settings(max_examples=40, deadline=None)
@given(
    slope=st.sampled_from([0.25, 0.5, 1.0, 3.0]),
    offset=st.sampled_from([0.5, 1.5, 3.0, -1.0]),
    top=st.sampled_from([1.0, 3.0, 6.0]),
    divisor=st.sampled_from([1.0, 3.0, 6.0]),
    times_x=st.booleans(),
)
def test_any_clipped_line_answers_as_before(
    slope: float, offset: float, top: float, divisor: float, times_x: bool
) -> None:
    nodes = [
        node("Mul", ["x", "slope"], ["s"]),
        node("Add", ["s", "offset"], ["a"]),
        node("Clip", ["a", "zero", "top"], ["c"]),
        node("Mul", ["x", "c"], ["m"]) if times_x else node("Identity", ["c"], ["m"]),
        node("Div", ["m", "divisor"], ["y"]),
    ]
    proto = spelled(*nodes)
    for name, number in (("slope", slope), ("offset", offset), ("top", top), ("divisor", divisor)):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(number, np.float32), name))
    operators = after(proto)
    if times_x:
        assert ("HardSwish" in operators) == (top == divisor and slope * 6 == divisor and offset * 2 == divisor)
