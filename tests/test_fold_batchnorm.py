from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from edgepack.passes.fold_batchnorm import fold_batchnorm
from edgepack.reference import Session
from tests.models import in_edgepack, model, random

node = helper.make_node
C = 4


def weights(seed: int = 0, *, negative: bool = False) -> dict[str, np.ndarray]:
    scale = np.abs(random((C,), seed + 1)) + 0.1
    if negative:
        scale[1] *= -1
    return {
        "w": random((C, 3, 3, 3), seed + 2), "b": random((C,), seed + 3),
        "v": random((5, C, 3, 3), seed + 4), "one": random((5, C, 1, 1), seed + 5),
        "depth": random((C, 1, 3, 3), seed + 6), "up": random((3, C, 2, 2), seed + 7), "up2": random((C, 5, 2, 2), 8),
        "m": random((7, C * 16), seed + 9), "k": random((1, C, 1, 1), seed + 10), "number": random((1,), seed + 11),
        "gamma": scale.astype(np.float32), "beta": random((C,), seed + 12),
        "mean": random((C,), seed + 13), "var": np.abs(random((C,), seed + 14)) + 0.5,
        "positive": scale.reshape(1, C, 1, 1).astype(np.float32),
    }  # fmt: skip


def built(
    *nodes: onnx.NodeProto,
    seed: int = 0,
    negative: bool = False,
    also: tuple[str, ...] = (),
    more: Mapping[str, np.ndarray] | None = None,
) -> onnx.ModelProto:
    outputs = {"y": None, **dict.fromkeys(also)}
    held = {**weights(seed, negative=negative), **(more or {})}
    proto = model(nodes, {"x": [2, 3, 8, 8]}, outputs, held)  # type: ignore[arg-type]
    return onnx.shape_inference.infer_shapes(proto)


def norm(source: str, to: str) -> onnx.NodeProto:
    return node("BatchNormalization", [source, "gamma", "beta", "mean", "var"], [to])


def conv(to: str = "c") -> onnx.NodeProto:
    return node("Conv", ["x", "w", "b"], [to], pads=[1, 1, 1, 1])


def after(proto: onnx.ModelProto) -> dict[str, int]:
    """The operators after folding, whose answers must be those of before."""
    before = in_edgepack(proto)
    folded = fold_batchnorm(before).model
    onnx.checker.check_model(folded.proto(), full_check=True)
    feed = {"x": random([2, 3, 8, 8], 99)}
    wanted, got = Session(before).run(feed), Session(folded).run(feed)
    assert list(wanted) == list(got)
    for name in wanted:
        size = max(1.0, float(np.abs(wanted[name]).max()))
        np.testing.assert_allclose(got[name] / size, wanted[name] / size, rtol=1e-5, atol=1e-5)
    return dict(folded.operators)


RELU = node("Relu", ["c"], ["r"])
POINT = node("Conv", ["n", "one"], ["y"])
PADDED = node("Conv", ["n", "v"], ["y"], pads=[1, 1, 1, 1])

FOLDS: dict[str, tuple[onnx.ModelProto, dict[str, int]]] = {
    "1: behind a convolution": (built(conv(), norm("c", "y")), {"Conv": 1}),
    "1: a chain behind one without a bias": (
        built(node("Conv", ["x", "w"], ["c"]), node("Mul", ["c", "k"], ["a"]), node("Sub", ["a", "number"], ["y"])),
        {"Conv": 1},
    ),
    "1: behind a transposed convolution": (
        built(node("ConvTranspose", ["x", "up"], ["c"], strides=[2, 2]), norm("c", "y")),
        {"ConvTranspose": 1},
    ),
    "2: before a convolution, negative too": (
        built(conv(), RELU, norm("r", "n"), POINT, negative=True),
        {"Conv": 2, "Relu": 1},
    ),
    "2: before two": (
        built(conv(), RELU, norm("r", "n"), POINT, node("Conv", ["n", "depth"], ["z"], group=C), also=("z",)),
        {"Conv": 3, "Relu": 1},
    ),
    "2: through a pooling": (
        built(conv(), RELU, norm("r", "n0"), node("MaxPool", ["n0"], ["n"], kernel_shape=[2, 2]), POINT),
        {"Conv": 2, "Relu": 1, "MaxPool": 1},
    ),
    "2: through pooling and Flatten into a Gemm": (
        built(
            conv(), RELU, norm("r", "n"), node("AveragePool", ["n"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
            node("Flatten", ["p"], ["f"]), node("Gemm", ["f", "m"], ["y"], transB=1), negative=True,
        ),
        {"Conv": 1, "Relu": 1, "AveragePool": 1, "Flatten": 1, "Gemm": 1},
    ),
    "3: through Relu, the shift stays": (
        built(conv(), RELU, norm("r", "n"), PADDED),
        {"Conv": 2, "Relu": 1, "Add": 1},
    ),
    "3: a scale without shift leaves nothing": (
        built(conv(), RELU, node("Mul", ["r", "positive"], ["n"]), node("Sigmoid", ["n"], ["y"])),
        {"Conv": 1, "Relu": 1, "Sigmoid": 1},
    ),
    "4: before a padded convolution": (
        built(conv(), node("Sigmoid", ["c"], ["r"]), norm("r", "n"), PADDED, negative=True),
        {"Conv": 2, "Sigmoid": 1, "Add": 1},
    ),
    "4: a scale passes padding": (
        built(conv(), node("Sigmoid", ["c"], ["r"]), node("Div", ["r", "k"], ["n"]), PADDED),
        {"Conv": 2, "Sigmoid": 1},
    ),
    "4: before a transposed convolution": (
        built(conv(), node("Sigmoid", ["c"], ["r"]), norm("r", "n"), node("ConvTranspose", ["n", "up2"], ["y"])),
        {"Conv": 1, "Sigmoid": 1, "Add": 1, "ConvTranspose": 1},
    ),
}  # fmt: skip

LEFT: dict[str, onnx.ModelProto] = {
    "the value before is an output": built(conv(), norm("c", "y"), also=("c",)),
    "the value before has another reader": built(conv(), norm("c", "n"), node("Add", ["n", "c"], ["y"])),
    "a negative scale and Relu": built(conv(), RELU, norm("r", "n"), node("Sigmoid", ["n"], ["y"]), negative=True),
    "a negative scale and MaxPool": built(
        conv(), node("Sigmoid", ["c"], ["r"]), norm("r", "p"), node("MaxPool", ["p"], ["n"], kernel_shape=[2, 2]),
        POINT, negative=True,
    ),
    "an activation that is not homogeneous": built(
        conv(), node("Sigmoid", ["c"], ["r"]), norm("r", "n"), node("Tanh", ["n"], ["y"])
    ),
    "one reader of two is another operator": built(
        conv(), node("Sigmoid", ["c"], ["r"]), norm("r", "n"), POINT, node("Tanh", ["n"], ["z"]), also=("z",)
    ),
    "weights that two nodes share": built(
        conv(), node("Conv", ["x", "w"], ["e"], pads=[1, 1, 1, 1]), norm("c", "n"), node("Add", ["n", "e"], ["y"])
    ),
    "a constant along the width": built(conv(), node("Mul", ["c", "row"], ["y"]), more={"row": random((8,))}),
    "a constant that widens the data": built(
        node("Conv", ["x", "thin"], ["c"]), node("Mul", ["c", "k"], ["y"]), more={"thin": random((1, 3, 3, 3))}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDS)
def test_folded(name: str) -> None:
    proto, operators = FOLDS[name]
    assert after(proto) == operators


@pytest.mark.parametrize("name", LEFT)
def test_left_alone(name: str) -> None:
    assert after(LEFT[name]) == dict(in_edgepack(LEFT[name]).operators)


@settings(max_examples=60, deadline=None)
@given(
    links=st.lists(st.sampled_from(["bn", "mul", "add", "relu", "leaky", "max", "mean", "tanh", "conv", "padded"]),
                   min_size=1, max_size=7),
    seed=st.integers(0, 5),
    negative=st.booleans(),
)  # fmt: skip
def test_random_chains_answer_as_before(links: list[str], seed: int, negative: bool) -> None:
    nodes, last, more = [conv("start")], "start", {}
    for index, link in enumerate(links):
        to = "y" if index == len(links) - 1 else f"t{index}"
        more[f"deep{index}"] = random((C, 1, 1, 1) if link == "conv" else (C, 1, 3, 3), index, 0.5)
        nodes.append(chained(link, last, to, f"deep{index}"))
        last = to
    after(built(*nodes, seed=seed, negative=negative, more=more))


def chained(link: str, a: str, b: str, kernel: str) -> onnx.NodeProto:
    pool = {"kernel_shape": [2, 2], "strides": [1, 1]}
    return {
        "bn": norm(a, b),
        "mul": node("Mul", ["k", a], [b]),
        "add": node("Add", [a, "number"], [b]),
        "relu": node("Relu", [a], [b]),
        "leaky": node("LeakyRelu", [a], [b], alpha=0.3),
        "max": node("MaxPool", [a], [b], pads=[1, 1, 0, 0], **pool),
        "mean": node("AveragePool", [a], [b], pads=[0, 0, 1, 1], count_include_pad=1, **pool),
        "tanh": node("Tanh", [a], [b]),
        "conv": node("Conv", [a, kernel], [b], group=C),
        "padded": node("Conv", [a, kernel], [b], group=C, pads=[1, 1, 1, 1]),
    }[link]
