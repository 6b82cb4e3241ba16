"""Channels that can be scaled together: whatever the scales, the float answers stay."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx_ir.passes import common

from edgepack.model import Model, constant
from edgepack.passes.rescale import rescale
from edgepack.passes.scale_groups import LAYERS, NORMS, ScaleGroups, lowest_equal, trace
from edgepack.reference import Session
from tests import models

C = 6
node = helper.make_node


class Builder:
    """A network grown operator by operator; the last value is [N, C, 8, 8]."""

    def __init__(self, seed: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}
        self.seed = seed
        self.value = "x"
        self.conv()

    def weight(self, *shape: int, scale: float = 0.5) -> str:
        self.seed += 1
        name = f"w{len(self.weights)}"
        self.weights[name] = models.random(shape, self.seed, scale)
        return name

    def integers(self, *numbers: int) -> str:
        name = f"i{len(self.weights)}"
        self.weights[name] = np.array(numbers, np.int64)
        return name

    def add(self, operator: str, *inputs: str, outputs: int = 1, **attributes: object) -> str:
        made = [f"v{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(node(operator, list(inputs), made, name=f"n{len(self.nodes)}", **attributes))
        return made[0]

    def conv(self) -> None:
        self.value = self.add("Conv", self.value, self.weight(C, C, 3, 3), self.weight(C), pads=[1, 1, 1, 1])

    def depthwise(self) -> None:
        self.value = self.add("Conv", self.value, self.weight(C, 1, 3, 3), self.weight(C), pads=[1] * 4, group=C)

    def grouped(self) -> None:
        self.value = self.add("Conv", self.value, self.weight(C, 3, 1, 1), group=2)

    def transposed(self) -> None:
        inputs = self.value, self.weight(C, 3, 3, 3), self.weight(C)
        self.value = self.add("ConvTranspose", *inputs, pads=[1] * 4, group=2)

    def relu(self) -> None:
        self.value = self.add("Relu", self.value)

    def leaky(self) -> None:
        self.value = self.add("LeakyRelu", self.value, alpha=0.2)

    def prelu(self) -> None:
        self.value = self.add("PRelu", self.value, self.weight(C, 1, 1))

    def half_open_clip(self) -> None:
        self.weights["zero"] = np.array(0, np.float32)
        self.value = self.add("Clip", self.value, "zero")

    def clip(self) -> None:
        self.weights |= {"zero": np.array(0, np.float32), "six": np.array(1, np.float32)}
        self.value = self.add("Clip", self.value, "zero", "six")

    def swish(self) -> None:
        self.value = self.add("HardSwish", self.value)

    def pool(self) -> None:
        self.value = self.add("MaxPool", self.value, kernel_shape=[3, 3], pads=[1, 1, 1, 1])

    def average(self) -> None:
        self.value = self.add("AveragePool", self.value, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)

    def shift(self) -> None:
        self.value = self.add("Add", self.weight(C, 1, 1), self.value)

    def number(self) -> None:
        self.value = self.add("Sub", self.value, self.weight(1))

    def factor(self) -> None:
        self.value = self.add("Mul", self.value, self.weight(1, C, 1, 1))

    def residual(self) -> None:
        skipped = self.value
        self.conv()
        self.value = self.add("Add", skipped, self.value)

    def square(self) -> None:
        self.value = self.add("Mul", self.value, self.value)

    def gate(self) -> None:
        mean = self.add("GlobalAveragePool", self.value)
        gate = self.add("Sigmoid", self.add("Conv", mean, self.weight(C, C, 1, 1)))
        self.value = self.add("Mul", self.value, gate)

    def resize(self) -> None:
        self.weights |= {"none": np.zeros(0, np.float32), "twice": np.array([1, 1, 2, 2], np.float32)}
        self.value = self.add("MaxPool", self.value, kernel_shape=[2, 2], strides=[2, 2])
        self.value = self.add("Resize", self.value, "none", "twice", mode="linear")

    def concat(self) -> None:
        before = self.value
        self.conv()
        self.relu()
        both = self.add("Concat", before, self.value, axis=1)
        self.value = self.add("Conv", both, self.weight(C, 2 * C, 1, 1))

    def stack(self) -> None:
        before = self.value
        self.conv()
        both = self.add("Concat", before, self.value, axis=2)
        self.value = self.add("MaxPool", both, kernel_shape=[2, 1], strides=[2, 1])

    def flat(self) -> str:
        return self.add("Gemm", self.add("Flatten", self.value), self.weight(4, 64 * C), self.weight(4), transB=1)

    def reshaped(self) -> str:
        flat = self.add("Reshape", self.value, self.integers(0, -1))
        return self.add("Gemm", flat, self.weight(64 * C, 4), self.weight(4))

    def mean(self) -> str:
        mean = self.add("ReduceMean", self.value, axes=[2, 3], keepdims=1)
        return self.add("MatMul", self.add("Squeeze", mean, self.integers(2, 3)), self.weight(C, 4))

    def attention(self) -> str:
        moved = self.add("Transpose", self.value, perm=[0, 2, 3, 1])
        tokens = self.add("Reshape", moved, self.integers(0, 64, C))
        hidden = self.add("Add", self.add("MatMul", tokens, self.weight(C, C)), self.weight(C))
        normal = self.add("LayerNormalization", hidden, self.weight(C), self.weight(C), axis=-1)
        return self.add("MatMul", self.add("Relu", self.add("MatMul", normal, self.weight(C, 5))), self.weight(5, 4))

    def model(self, end: str) -> Model:
        last = getattr(self, end)()
        self.nodes.append(node("Identity", [last], ["y"]))
        proto = models.model(self.nodes, {"x": ["N", C, 8, 8]}, {"y": None}, self.weights)  # type: ignore[dict-item]
        return models.in_edgepack(onnx.shape_inference.infer_shapes(proto))


PASSED = [
    "conv", "depthwise", "grouped", "transposed", "relu", "leaky", "prelu", "half_open_clip", "pool", "average",
    "shift", "number", "factor", "residual", "gate", "resize", "concat", "stack",
]  # fmt: skip
STOPPED = ["clip", "swish", "square"]
STEPS = [*PASSED, *STOPPED]
ENDS = ("flat", "reshaped", "mean", "attention")
X = models.random((2, C, 8, 8), 77)


def grown(seed: int, steps: list[str], end: str) -> Model:
    builder = Builder(seed)
    for step in steps:
        getattr(builder, step)()
    return builder.model(end)


def rescaled(model: Model, seed: int) -> tuple[Model, ScaleGroups]:
    """The model with random scales between 1/8 and 8 on all classes that are free."""
    result = model.clone()
    common.ShapeInferencePass()(result.ir)
    groups = trace(result, LAYERS | NORMS)
    scales = np.where(groups.free, 2.0 ** np.random.default_rng(seed).uniform(-3, 3, groups.free.size), 1.0)
    rescale(result.ir.graph, groups, scales)
    onnx.checker.check_model(result.proto(), full_check=True)
    return result, groups


def same_answers(one: Model, other: Model) -> None:
    wanted, got = (Session(model).run({"x": X})["y"] for model in (one, other))
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.sampled_from(STEPS), max_size=7), st.sampled_from(ENDS))
def test_no_scale_of_a_free_class_changes_the_answers(seed: int, steps: list[str], end: str) -> None:
    model = grown(seed, steps, end)
    same_answers(model, rescaled(model, seed)[0])


@pytest.mark.parametrize("step", PASSED)
def test_what_is_homogeneous_lets_scales_through(step: str) -> None:
    model = grown(1, [step], "flat")
    scaled, groups = rescaled(model, 1)
    assert groups.free.sum() >= C
    first = [next(n for n in m.ir.graph if n.op_type == "Conv").inputs[1] for m in (model, scaled)]
    assert not np.array_equal(*(constant(value) for value in first))  # type: ignore[arg-type]
    same_answers(model, scaled)


@pytest.mark.parametrize("step", STOPPED)
def test_what_is_not_keeps_the_scale_one(step: str) -> None:
    assert trace(grown(1, [step], "flat")).free.sum() == 0


@pytest.mark.parametrize("end", ENDS)
def test_every_end_reads_scaled_channels(end: str) -> None:
    model = grown(1, ["relu"], end)
    assert rescaled(model, 2)[1].free.sum() >= C


def test_a_residual_shares_one_scale_among_all_its_layers() -> None:
    groups = trace(grown(1, ["relu", "conv", "residual", "residual"], "mean"))
    sets = groups.components()
    assert [len(classes) for classes in sets] == [C, C]
    makers = [port for port in groups.makers if set(port.classes) <= set(sets[1])]
    assert len(makers) == 3


def test_shared_weights_and_values_that_are_outputs_are_left_alone() -> None:
    w = {"w": models.random((C, C, 1, 1), 1)}
    shared = [node("Conv", ["x", "w"], ["a"]), node("Relu", ["a"], ["b"]), node("Conv", ["b", "w"], ["y"])]
    ends: dict[str, list[int | str | None]] = {"y": ["N", C, 8, 8]}
    proto = models.model(shared, {"x": ["N", C, 8, 8]}, ends, w)
    assert not trace(models.in_edgepack(onnx.shape_inference.infer_shapes(proto))).free.any()
    w["v"] = models.random((C, C, 1, 1), 2)
    own = [node("Conv", ["x", "w"], ["a"]), node("Relu", ["a"], ["b"]), node("Conv", ["b", "v"], ["y"])]
    for outputs, free in ((ends, C), ({**ends, "a": ["N", C, 8, 8]}, 0), ({**ends, "b": ["N", C, 8, 8]}, 0)):
        proto = models.model(own, {"x": ["N", C, 8, 8]}, outputs, w)
        assert trace(models.in_edgepack(onnx.shape_inference.infer_shapes(proto))).free.sum() == free


def test_what_a_nested_graph_reads_is_left_alone() -> None:
    def branch(operator: str) -> onnx.GraphProto:
        made = f"{operator}_out"
        info = [helper.make_tensor_value_info(made, TensorProto.FLOAT, None)]
        return helper.make_graph([node(operator, ["b"], [made])], operator, [], info)

    nodes = [
        node("Conv", ["x", "w"], ["a"]),
        node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "v"], ["c"]),
        node("If", ["yes"], ["d"], then_branch=branch("Neg"), else_branch=branch("Identity")),
        node("Add", ["c", "d"], ["y"]),
    ]
    weights = {"w": models.random((C, C, 1, 1), 1), "v": models.random((C, C, 1, 1), 2), "yes": np.array(True)}
    proto = models.model(nodes, {"x": ["N", C, 8, 8]}, {"y": ["N", C, 8, 8]}, weights)
    assert not trace(models.in_edgepack(onnx.shape_inference.infer_shapes(proto))).free.any()


@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=30))
def test_equal_numbers_get_the_lowest_of_them(pairs: list[tuple[int, int]]) -> None:
    root = lowest_equal(20, [(np.array([a]), np.array([b])) for a, b in pairs])
    sets = [{i} for i in range(20)]
    for a, b in pairs:
        joined = sets[a] | sets[b]
        for i in joined:
            sets[i] = joined
    assert root.tolist() == [min(found) for found in sets]
