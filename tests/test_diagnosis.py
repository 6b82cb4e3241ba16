"""`inspect --layers`: the layer that int8 hurts, why, and what helps; and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgepack import errors
from edgepack.quantization.diagnosis import Diagnosis, diagnose
from tests import models
from tests.conftest import Run
from tests.test_promise import pictures, sensor
from tests.test_sensitivity import dark, with_outlier_in


def write(folder: Path, proto: onnx.ModelProto, x: np.ndarray) -> tuple[Path, Path]:
    onnx.save(proto, folder / "model.onnx")
    np.savez(folder / "calib.npz", x=x)
    return folder / "model.onnx", folder / "calib.npz"


def diagnosed(folder: Path, proto: onnx.ModelProto, x: np.ndarray, **how: str) -> Diagnosis:
    model, data = write(folder, proto, x)
    return diagnose(model, data, **how)  # type: ignore[arg-type]


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_an_input_far_from_zero_is_named_as_the_cause(tmp_path: Path, target: str) -> None:
    found = diagnosed(tmp_path, sensor(500), pictures(40, 1, 500), target_name=target)
    worst = found.layers[0]
    assert found.target == target and found.samples == 40
    assert (worst.layer, worst.operator) == ("c1", "Conv")
    assert worst.share > 0.9 and worst.activations_db < 15 < 40 < worst.weights_db
    assert worst.range[0] > 450 and 0 < worst.macs_share < 0.7
    assert worst.outlier < 20 and "stays close to 5" in worst.advice and "take that out" in worst.advice
    assert [layer.advice for layer in found.layers[1:]] == [""] * 3
    assert sum(layer.share for layer in found.layers) == pytest.approx(1)
    assert [layer.sqnr_db for layer in found.layers] == sorted(layer.sqnr_db for layer in found.layers)


def test_peaks_are_named_as_the_cause(tmp_path: Path) -> None:
    x = models.images(40, seed=1)
    x[3, 1, 5, 5] = 3000
    worst = diagnosed(tmp_path, models.convnet(), x).layers[0]
    assert worst.layer == "c1" and worst.outlier > 50 and "few numbers lie far out" in worst.advice


def test_the_weights_are_named_as_the_cause(tmp_path: Path) -> None:
    """In each channel one weight is a thousand times the others, so that no scale serves both, and both count."""
    proto = models.mlp(features=8)
    initializers = {tensor.name: tensor for tensor in proto.graph.initializer}
    weight = models.random((16, 8), 1) * 1e-3
    weight[:, 0] = 1
    initializers["w1"].CopyFrom(onnx.numpy_helper.from_array(weight, "w1"))
    x = models.random((64, 8), 2) * 100
    x[:, 0] = models.random((64,), 3) * 1e-1
    found = diagnosed(tmp_path, proto, x)
    assert found.layers[0].layer == "h" and found.layers[0].weights_db < found.layers[0].activations_db
    assert "its weights are too fine" in found.layers[0].advice


def test_a_ruined_layer_is_first_or_was_mended_by_rounding(tmp_path: Path) -> None:
    """Weights that meet only zeros leave no room for the others where all are rounded to nearest; a scale that looks at
    what they meet leaves them out."""
    model = with_outlier_in("w3")
    found = diagnosed(tmp_path, model.proto(), dark(40))
    planted = next(layer for layer in found.layers if layer.layer == "c3")
    assert planted.weight_spread < 10 and planted.weights_db > 30


def test_the_command_prints_a_table_or_json(cli: Run, tmp_path: Path) -> None:
    model, data = write(tmp_path, sensor(), pictures(40, 1))
    before = sorted(tmp_path.iterdir())
    done = cli("inspect", model, "--layers", "--data", data, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["layers"][0]["layer"] == "c1" and found["left_float"] == {} and found["samples"] == 40
    done = cli("inspect", model, "--layers", "--data", data)
    assert done.returncode == 0 and "! c1: what it reads stays close to" in done.stdout
    assert "SQNR" in done.stdout and "(Gemm)" in done.stdout
    assert sorted(tmp_path.iterdir()) == before


def test_what_stays_float_anyway_is_said(tmp_path: Path) -> None:
    proto = models.mlp()
    proto.graph.node[2].attribute.append(helper.make_attribute("alpha", 0.5))
    found = diagnosed(tmp_path, proto, models.random((40, 8)))
    assert [layer.layer for layer in found.layers] == ["h"]
    assert found.left_float == {"alpha or beta is not 1: Gemm": 1}


def test_a_board_that_saturates_has_weights_of_seven_bits(tmp_path: Path) -> None:
    eight = diagnosed(tmp_path, models.convnet(), models.images(40, seed=1), target_name="onnxruntime")
    seven = diagnosed(
        tmp_path, models.convnet(), models.images(40, seed=1), target_name="onnxruntime", device="intel-avx2"
    )
    lost = [
        next(layer.weights_db for layer in eight.layers if layer.layer == coarse.layer) - coarse.weights_db
        for coarse in seven.layers
    ]
    assert 3 < np.mean(lost) < 9


def test_what_cannot_be_diagnosed_is_refused(tmp_path: Path, cli: Run) -> None:
    model, data = write(tmp_path, models.mlp(), models.random((40, 8)))
    with pytest.raises(errors.DataNeeded, match="needs samples"):
        diagnose(model, None)
    done = cli("inspect", model, "--layers")
    assert done.returncode == 24 and "error: --layers needs samples" in done.stderr and "--data" in done.stderr
    with pytest.raises(errors.NoSamples):
        diagnose(model, tmp_path / "none.npz")
    for flag in (["--data", data], ["--preprocess", "imagenet"]):
        done = cli("inspect", model, *flag)
        assert done.returncode == 2 and "--layers" in done.stderr


def test_a_model_with_no_float_answer_is_refused(tmp_path: Path) -> None:
    proto = models.mlp()
    proto.graph.node.append(helper.make_node("ArgMax", ["y"], ["best"], axis=1))
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("best", TensorProto.INT64, ["N", 1]))
    with pytest.raises(errors.UsageError, match="no output is float"):
        diagnosed(tmp_path, proto, models.random((40, 8)))


def test_a_model_that_is_quantized_already_is_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s"], ["y"]),
    ]
    proto = models.model(nodes, {"x": ["N", 8]}, {"y": ["N", 8]}, {"s": np.array(0.1, np.float32)})
    with pytest.raises(errors.UsageError, match="already quantized"):
        diagnosed(tmp_path, proto, models.random((40, 8)))
    with pytest.raises(errors.UnsupportedOperator, match="nothing in this model"):
        diagnosed(
            tmp_path,
            models.model([helper.make_node("Relu", ["x"], ["y"])], {"x": ["N", 8]}, {"y": ["N", 8]}),
            models.random((40, 8)),
        )
