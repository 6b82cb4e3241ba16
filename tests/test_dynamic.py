"""Dynamic int8: weights rounded once, activations at run time."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from edgepack import target
from edgepack.data.samples import Feed
from edgepack.errors import UnsupportedOperator
from edgepack.metrics.merit import harness
from edgepack.passes.dynamic import dynamic
from edgepack.reference import Session
from tests import models

ORT = target.load("onnxruntime").SCHEME
IDS = {"ids": np.array([[1, 5, 7, 2, 19, 0, 99, 3, 3, 8, 4, 6]])}


@pytest.fixture(params=[name for name in target.names() if "dynamic" in target.load(name).PRECISIONS])
def name(request: pytest.FixtureRequest) -> str:
    modules = (package.replace("-", "_") for package in target.load(request.param).REQUIREMENTS)
    if not all(map(importlib.util.find_spec, modules)):
        pytest.skip(f"the {request.param} extra is not installed")
    return str(request.param)


NETS: dict[str, tuple[onnx.ModelProto, Feed, float]] = {
    "transformer": (models.transformer(width=64), IDS, 30),
    "odd widths": (models.transformer(width=51), IDS, 30),
    "mlp": (models.mlp(features=70, classes=33), {"x": models.random((3, 70), 9)}, 35),
}


@pytest.mark.parametrize("net", NETS)
def test_it_answers_like_the_original(name: str, net: str, tmp_path: Path) -> None:
    proto, feed, floor = NETS[net]
    made = dynamic(models.in_edgepack(proto), target.load(name).SCHEME)
    answer = target.runner(name).load(str(tmp_path / target.load(name).lower(made.model, tmp_path)), 1)(feed)["y"]
    wanted = Session(models.in_edgepack(proto)).run(feed)["y"]
    assert floor < harness().sqnr_db(wanted, answer) < 70  # more would be float
    assert made.model.weight_bytes < 0.4 * models.in_edgepack(proto).weight_bytes


def test_onnxruntime_computes_in_its_fused_kernels(tmp_path: Path) -> None:
    made = dynamic(models.in_edgepack(models.transformer()), ORT)
    run = models.kernels(made.model, tmp_path)
    assert run.count("MatMul") + run.count("FusedMatMul") == 2  # of activations with activations
    assert run.count("DynamicQuantizeMatMul") + run.count("MatMulIntegerToFloat") == 6
    assert "MatMulInteger" not in run
    # Query, key and value read one quantized tensor.
    assert sum(node.op_type == "DynamicQuantizeLinear" for node in made.model.ir.graph) == 4


def test_a_product_is_what_numpy_computes(tmp_path: Path) -> None:
    """MatMulInteger by hand: uint8 activations of the whole tensor, int8 columns."""
    proto, feed = models.mlp(features=70, classes=33), {"x": models.random((3, 70), 9)}
    proto.graph.output[0].name = "h"
    del proto.graph.node[1:], proto.graph.initializer[2:]
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 16
    model = dynamic(models.in_edgepack(proto), ORT).model
    arrays = {name: value.const_value.numpy() for name, value in model.ir.graph.initializers.items()}
    x = feed["x"]
    step = np.float32((max(x.max(), 0) - min(x.min(), 0)) / 255)
    zero = np.clip(np.rint(-min(x.min(), 0) / step), 0, 255)
    values = np.clip(np.rint(x / step) + zero, 0, 255) - zero
    wanted = values @ arrays["w1_int8"].astype(np.float64) * step * arrays["w1_scale"] + arrays["b1"]
    np.testing.assert_allclose(Session(model).run(feed)["h"], wanted, rtol=1e-4, atol=1e-4)


def test_a_cpu_that_saturates_gets_seven_bits() -> None:
    made = dynamic(models.in_edgepack(models.mlp(features=70, classes=33)), replace(ORT, weight_bits=7))
    integers = [t.numpy() for t in made.model.tensors() if t.dtype.numpy() == np.int8 and t.size > 100]
    assert len(integers) == 2 and all(np.abs(array).max() == 63 for array in integers)


@pytest.mark.parametrize("directions", [1, 2])
def test_an_lstm_takes_onnxruntimes_own_operator(directions: int, tmp_path: Path) -> None:
    proto, feed = models.lstm(directions=directions), {"x": models.random((10, 1, 16), 9)}
    made = dynamic(models.in_edgepack(proto), ORT)
    assert "1 LSTMs" in made.note and "com.microsoft.DynamicQuantizeLSTM" in made.model.operators
    assert made.model.weight_bytes < 0.4 * models.in_edgepack(proto).weight_bytes
    wanted = Session(models.in_edgepack(proto)).run(feed)["y"]
    assert 25 < harness().sqnr_db(wanted, Session(made.model).run(feed)["y"]) < 70


def test_an_lstm_is_named_where_the_runtime_has_none() -> None:
    scheme = replace(ORT, dynamic=frozenset({"Gemm", "MatMul"}))
    made = dynamic(models.in_edgepack(models.lstm()), scheme)
    assert "not computed from int8 at run time: LSTM" in made.note and "LSTM" in made.model.operators
    proto = models.lstm()
    del proto.graph.node[1:], proto.graph.initializer[3:]
    proto.graph.node[0].output[1] = "y"
    proto.graph.output[0].type.tensor_type.shape.CopyFrom(
        helper.make_tensor_type_proto(1, [1, 1, 48]).tensor_type.shape
    )
    with pytest.raises(UnsupportedOperator, match=r"without calibration.*: LSTM"):
        dynamic(models.in_edgepack(proto), scheme)


def test_convolutions_stay_float_and_are_named() -> None:
    """ONNX Runtime has ConvInteger, an eighth as fast as float."""
    with pytest.raises(UnsupportedOperator, match=r"not computed from int8 at run time: Conv") as caught:
        dynamic(models.in_edgepack(models.convnet(channels=32)), ORT)
    assert "--precision int8" in caught.value.hint


def test_a_weight_of_two_nodes_is_stored_once() -> None:
    node = helper.make_node
    proto = models.model(
        [node("MatMul", ["h", "w"], ["y"]), node("MatMul", ["x", "w"], ["h"])][::-1],
        {"x": [2, 64]},
        {"y": [2, 64]},
        {"w": models.random((64, 64), 1, 0.125)},
    )
    model = dynamic(models.in_edgepack(proto), ORT).model
    assert sum(tensor.size > 1000 for tensor in model.tensors()) == 1
    feed = {"x": models.random((2, 64), 5)}
    assert harness().sqnr_db(Session(models.in_edgepack(proto)).run(feed)["y"], Session(model).run(feed)["y"]) > 35


def test_any_batch_runs(name: str, tmp_path: Path) -> None:
    proto = models.mlp(features=70, classes=33)
    made = dynamic(models.in_edgepack(proto), target.load(name).SCHEME)
    run = target.runner(name).load(str(tmp_path / target.load(name).lower(made.model, tmp_path)), 1)
    for batch in (1, 7, 40):
        assert run({"x": models.random((batch, 70), 9)})["y"].shape == (batch, 33)
