"""Static int8: the Q/DQ graph against the float model, against numpy, and against the runtime's own kernels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from edgepack import target
from edgepack.data.reading import read
from edgepack.data.samples import Samples
from edgepack.errors import UnsupportedOperator
from edgepack.metrics.merit import harness
from edgepack.model import Model
from edgepack.passes.placement import integer_only, place
from edgepack.passes.quantize import (
    activation_grid,
    quantize,
    round_to,
    weight_grid,
)
from edgepack.quantization.preparation import prepare
from edgepack.reference import Session
from edgepack.target import Scheme
from tests import models

ORT = target.load("onnxruntime").SCHEME


def samples_of(tmp_path: Path, model: Model, **arrays: np.ndarray) -> Samples:
    np.savez(tmp_path / "samples.npz", **arrays)  # type: ignore[arg-type]
    return read(tmp_path / "samples.npz", model)


def quantized(model: Model, samples: Samples, scheme: Scheme = ORT) -> Model:
    prepared = prepare(model, scheme, samples)
    result = quantize(prepared.model, scheme, prepared.ranges, prepared.layers).model
    onnx.checker.check_model(result.proto(), full_check=True)
    return result


@pytest.fixture(scope="module")
def convnet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Model, Samples]:
    """The float model, its int8 form, and fresh samples."""
    folder = tmp_path_factory.mktemp("convnet")
    model = models.in_edgepack(models.convnet())
    calibration = samples_of(folder, model, x=models.images(64, seed=1))
    int8 = quantized(model, calibration)
    np.savez(folder / "fresh.npz", x=models.images(64, seed=2))
    return model, int8, read(folder / "fresh.npz", model)


def test_int8_is_close_to_float_on_fresh_samples(convnet: tuple[Model, Model, Samples]) -> None:
    model, int8, fresh = convnet
    feed = next(fresh.batches(64))
    assert harness().sqnr_db(Session(model).run(feed)["y"], Session(int8).run(feed)["y"]) > 25


def test_weights_are_stored_once_in_one_byte(convnet: tuple[Model, Model, Samples]) -> None:
    model, int8, _ = convnet
    types = [value.const_value.dtype for value in int8.ir.graph.initializers.values() if value.const_value.size > 16]  # type: ignore[union-attr]
    assert types and all(dtype == ir.DataType.INT8 for dtype in types)
    assert int8.weight_bytes < 0.5 * model.weight_bytes


def test_every_layer_runs_in_int8_in_the_runtime(convnet: tuple[Model, Model, Samples], tmp_path: Path) -> None:
    ran = models.kernels(convnet[1], tmp_path)
    assert ran.count("QLinearConv") == 3 and "QLinearAdd" in ran and "QGemm" in ran
    assert not {"Conv", "Gemm", "Relu", "Clip", "Add"} & set(ran)
    assert ran.count("QuantizeLinear") == 1 and ran.count("DequantizeLinear") == 0


def test_activations_and_their_convolution_have_no_pair_between(convnet: tuple[Model, Model, Samples]) -> None:
    graph = convnet[1].ir.graph
    for node in graph:
        if node.op_type in ("Relu", "Clip"):
            assert node.inputs[0].producer().op_type == "Conv"  # type: ignore[union-attr]


def test_pooling_shares_the_scale_of_its_input(convnet: tuple[Model, Model, Samples]) -> None:
    graph = convnet[1].ir.graph
    pool = next(node for node in graph if node.op_type == "MaxPool")
    before = pool.inputs[0].producer().inputs[1].const_value.numpy()  # type: ignore[union-attr]
    after = next(iter(pool.outputs[0].consumers())).inputs[1].const_value.numpy()  # type: ignore[union-attr]
    assert before == after


def test_integer_arithmetic_equals_numpy() -> None:
    """One Gemm by hand: the runtime's answer is the integer sum, rescaled, to float rounding."""
    model = models.in_edgepack(
        models.model(
            [helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)],
            {"x": ["N", 32]},
            {"y": ["N", 8]},
            {"w": models.random((8, 32), 1), "b": models.random((8,), 2)},
        )
    )
    x = np.random.default_rng(3).uniform(-1, 2, (16, 32)).astype(np.float32)
    int8 = quantize(model, ORT, {"x": (-1.0, 2.0)}).model
    constants = {name: value.const_value.numpy() for name, value in int8.ir.graph.initializers.items()}  # type: ignore[union-attr]
    scale, zero = constants["x_scale"], constants["x_zero_point"].astype(np.int32)
    integers = np.clip(np.rint(x / scale) + zero, 0, 255).astype(np.int32) - zero
    weights, weight_scale = constants["w_q"].astype(np.int32), constants["w_scale"]
    bias = next(array for name, array in constants.items() if "bias" in name and name.endswith("_q"))
    expected = (integers @ weights.T + bias) * (scale * weight_scale)
    np.testing.assert_allclose(Session(int8).run({"x": x})["y"], expected, rtol=1e-5, atol=1e-6)


@given(
    low=st.floats(-1e6, 1e6, width=32, allow_subnormal=False),
    high=st.floats(-1e6, 1e6, width=32, allow_subnormal=False),
    symmetric=st.booleans(),
)
def test_an_activation_grid_holds_zero_and_covers_its_range(low: float, high: float, symmetric: bool) -> None:
    low, high = min(low, high), max(low, high)
    scheme = target.Scheme(
        activation_dtype="int8" if symmetric else "uint8", symmetric_activations=symmetric, weighted=frozenset(),
        light=frozenset(), same_scale=frozenset(), fused=frozenset(), closed=frozenset(), bias_bits=32,
    )  # fmt: skip
    grid = activation_grid(low, high, scheme)
    limits = np.iinfo(grid.zero_point.dtype)
    scale, zero = float(grid.scale), int(grid.zero_point)
    assert np.isfinite(scale) and scale > 0
    assert limits.min <= zero <= limits.max
    assert zero == 0 if symmetric else True
    # Half a step is lost at one end where the zero point was rounded.
    assert (limits.max - zero) * scale >= max(high, 0) - 0.51 * scale - 1e-12
    assert (limits.min - zero) * scale <= min(low, 0) + 0.51 * scale + 1e-12 + (scale if symmetric else 0)


@settings(max_examples=50)
@given(st.integers(0, 10_000), st.sampled_from([8, 7, 4]), st.sampled_from([None, 0, 1]))
def test_rounding_errs_by_half_a_step_at_most(seed: int, bits: int, axis: int | None) -> None:
    random = np.random.default_rng(seed)
    weight = (random.standard_normal((5, 7)) * 10.0 ** random.integers(-6, 6)).astype(np.float32)
    grid = weight_grid(weight, axis, bits)
    scale = grid.scale if axis is None else np.expand_dims(grid.scale, 1 - axis)
    integers = round_to(weight, grid, axis, bits)
    assert np.abs(integers).max() <= 2 ** (bits - 1) - 1
    assert np.all(np.abs(integers * scale - weight) <= 0.5001 * scale)


def test_all_zero_channels_and_huge_biases_stay_finite(tmp_path: Path) -> None:
    proto = models.mlp()
    weight = models.random((16, 8), 1)
    weight[3] = 0
    weight[4] *= 1e-20
    bias = models.random((16,), 2)
    bias[4] = 50.0
    for tensor in proto.graph.initializer:
        if tensor.name in ("w1", "b1"):
            tensor.CopyFrom(numpy_helper.from_array(weight if tensor.name == "w1" else bias, tensor.name))
    model = models.in_edgepack(proto)
    x = models.random((64, 8), 5)
    int8 = quantized(model, samples_of(tmp_path, model, x=x))
    answer = Session(int8).run({"x": x})["y"]
    assert np.isfinite(answer).all()
    assert harness().sqnr_db(Session(model).run({"x": x})["y"], answer) > 25


def test_what_is_added_behind_a_product_is_its_bias(tmp_path: Path) -> None:
    weight, bias = models.random((8, 16), 1), models.random((16,), 2)
    weight[:, 3] = 0
    weight[:, 4] *= 1e-20
    bias[3:5] = 50.0
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Add", ["b", "m"], ["a"]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["y"]),
    ]
    held = {"w": weight, "b": bias, "v": models.random((16, 4), 3)}
    model = models.in_edgepack(models.model(nodes, {"x": ["N", 5, 8]}, {"y": ["N", 5, 4]}, held))
    scheme = target.load("tflite").SCHEME
    assert set(place(model, scheme).tensors) == {"x", "r", "y"} and "m" in place(model, ORT).tensors
    x = models.random((64, 5, 8), 5)
    int8 = quantized(model, samples_of(tmp_path, model, x=x), scheme)
    (adder,) = (node for node in int8.ir.graph if node.op_type == "Add")
    product = adder.inputs[1].producer()  # type: ignore[union-attr]
    numbers = {}
    for name, value in (("x", product.inputs[0]), ("w", product.inputs[1]), ("b", adder.inputs[0])):  # type: ignore[union-attr]
        numbers[name] = [held.const_value.numpy() for held in value.producer().inputs if held.const_value is not None]  # type: ignore[union-attr]
    integers, scale, _ = numbers["b"]
    assert integers.dtype == np.int32 and np.abs(integers.astype(np.int64)).max() < 2**31 - 1
    assert np.allclose(scale, numbers["x"][0] * numbers["w"][1], rtol=1e-6)
    answer = Session(int8).run({"x": x})["y"]
    assert harness().sqnr_db(Session(model).run({"x": x})["y"], answer) > 35


def test_seven_bit_weights_stay_within_seven_bits(tmp_path: Path) -> None:
    from dataclasses import replace

    model = models.in_edgepack(models.convnet())
    int8 = quantized(model, samples_of(tmp_path, model, x=models.images(32)), replace(ORT, weight_bits=7))
    arrays = [value.const_value.numpy() for value in int8.ir.graph.initializers.values()]  # type: ignore[union-attr]
    largest = max(np.abs(array.astype(np.int32)).max() for array in arrays if array.dtype == np.int8)
    assert 32 < largest <= 63


def test_float_islands_are_left_whole() -> None:
    """Softmax between two layers: nothing of it is quantized but what the layers themselves read."""
    node = helper.make_node
    model = models.in_edgepack(
        models.model(
            [
                node("Gemm", ["x", "w1"], ["h"], name="first"),
                node("Softmax", ["h"], ["s"], name="softmax"),
                node("Add", ["s", "h"], ["a"], name="sum"),
                node("Gelu", ["a"], ["g"], name="gelu"),
                node("Gemm", ["g", "w2"], ["y"], name="second"),
            ],
            {"x": ["N", 8]},
            {"y": ["N", 4]},
            {"w1": models.random((8, 8)), "w2": models.random((8, 4))},
            opset=20,
            ir_version=9,
        )
    )
    placement = place(model, ORT)
    assert set(placement.tensors) == {"x", "g"}
    assert [n.name for n in placement.weighted] == ["first", "second"] and not placement.light
    assert not integer_only(model, ORT)


def test_shared_weights_are_quantized_once(tmp_path: Path) -> None:
    node = helper.make_node
    model = models.in_edgepack(
        models.model(
            [node("MatMul", ["x", "w"], ["a"]), node("Relu", ["a"], ["r"]), node("MatMul", ["r", "w"], ["y"])],
            {"x": ["N", 8]},
            {"y": ["N", 8]},
            {"w": models.random((8, 8))},
        )
    )
    int8 = quantized(model, samples_of(tmp_path, model, x=models.random((32, 8))))
    stored = [
        v
        for v in int8.ir.graph.initializers.values()
        if v.const_value.dtype == ir.DataType.INT8 and v.const_value.size == 64
    ]  # type: ignore[union-attr]
    assert len(stored) == 1


def test_a_quantized_graph_output_keeps_its_name(tmp_path: Path) -> None:
    model = models.in_edgepack(models.pixelwise())
    int8 = quantized(model, samples_of(tmp_path, model, x=models.images(32, 4)))
    assert [tensor.name for tensor in int8.outputs] == ["y"]
    x = models.images(4, 4, seed=9)
    assert harness().sqnr_db(Session(model).run({"x": x})["y"], Session(int8).run({"x": x})["y"]) > 30


def test_an_input_that_is_also_an_output_keeps_working(tmp_path: Path) -> None:
    node = helper.make_node
    model = models.in_edgepack(
        models.model(
            [
                node("Conv", ["x", "w"], ["c"], kernel_shape=[1, 1]),
                node("Relu", ["c"], ["y"]),
                node("Sigmoid", ["y"], ["z"]),
            ],
            {"x": ["N", 3, 4, 4]},
            {"y": ["N", 5, 4, 4], "z": ["N", 5, 4, 4]},
            {"w": models.random((5, 3, 1, 1))},
        )
    )
    int8 = quantized(model, samples_of(tmp_path, model, x=models.images(32, 4)))
    x = models.images(4, 4, seed=9)
    want, got = Session(model).run({"x": x}), Session(int8).run({"x": x})
    assert harness().sqnr_db(want["y"], got["y"]) > 25 and harness().sqnr_db(want["z"], got["z"]) > 25


def test_a_model_without_layers_says_so() -> None:
    model = models.in_edgepack(models.model([helper.make_node("Relu", ["x"], ["y"])], {"x": ["N", 4]}, {"y": ["N", 4]}))
    with pytest.raises(UnsupportedOperator, match="no Conv, Gemm or MatMul"):
        quantize(model, ORT, {})


@pytest.mark.parametrize("taken", ["w_q", "w_scale", "x_scale", "w_zero_point", "x_zero_point"])
def test_constants_of_the_model_may_have_any_name(taken: str, tmp_path: Path) -> None:
    nodes = [helper.make_node("Gemm", ["x", "w"], ["h"], transB=1), helper.make_node("Add", ["h", taken], ["y"])]
    constants = {"w": models.random((6, 8)), taken: models.random((6,), 2)}
    model = models.in_edgepack(models.model(nodes, {"x": ["N", 8]}, {"y": ["N", 6]}, constants))
    x = models.random((64, 8), 3)
    np.savez(tmp_path / "calib.npz", x=x)
    ready = prepare(model, ORT, read(tmp_path / "calib.npz", model))
    built = quantize(ready.model, ORT, ready.ranges, ready.layers).model
    wanted, got = (Session(one).run({"x": x})["y"] for one in (model, built))
    assert harness().sqnr_db(wanted, got) > 30


@pytest.mark.parametrize("other", ["w_0", "w_1", "w_2"])
def test_a_weight_in_two_layouts_takes_no_other_weights_name(other: str, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gemm", ["x", other], ["a"]),
        helper.make_node("Gemm", ["a", "w"], ["b"], transB=1),
        helper.make_node("Gemm", ["b", "w"], ["y"]),
    ]
    weights = {other: models.random((8, 8)), "w": models.random((8, 8), 2)}
    model = models.in_edgepack(models.model(nodes, {"x": ["N", 8]}, {"y": ["N", 8]}, weights))
    x = models.random((64, 8), 3)
    np.savez(tmp_path / "calib.npz", x=x)
    ready = prepare(model, ORT, read(tmp_path / "calib.npz", model))
    built = quantize(ready.model, ORT, ready.ranges, ready.layers).model
    wanted, got = (Session(one).run({"x": x})["y"] for one in (model, built))
    assert harness().sqnr_db(wanted, got) > 30
