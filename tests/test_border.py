"""The border of a bundle's file: the layout that is asked for, in every target, and what it costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from PIL import Image

import edgepack
from edgepack import bundle, target
from edgepack.border import border
from edgepack.errors import UsageError
from edgepack.model import Model
from edgepack.passes.public_layout import NCHW, NHWC, own_layout, public_layout
from edgepack.reference import Session
from tests import models

node = helper.make_node
FAST: dict[str, Any] = {"seconds": 0.1, "threads": 1}


def segmenter(last: bool = False) -> onnx.ModelProto:
    """Two convolutions, pictures in, pictures and a vector out; with `last` its own pictures are channels last."""
    weights = {"w1": models.random((8, 3, 3, 3), 1, 0.3), "w2": models.random((4, 8, 1, 1), 2, 0.3)}
    body = [
        node("Conv", ["first" if last else "x", "w1"], ["c"], pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["r"]),
        node("Conv", ["r", "w2"], ["m" if last else "map"]),
        node("ReduceMean", ["r"], ["mean"], axes=[2, 3], keepdims=0),
    ]
    if last:
        body.insert(0, node("Transpose", ["scaled"], ["first"], perm=list(NCHW)))
        body.insert(0, node("Mul", ["x", "two"], ["scaled"]))
        body.append(node("Transpose", ["m"], ["map"], perm=list(NHWC)))
        weights["two"] = np.array(2.0, np.float32)
    shapes = ({"x": ["N", 6, 8, 3]}, ["N", 6, 8, 4]) if last else ({"x": ["N", 3, 6, 8]}, ["N", 4, 6, 8])
    return models.model(body, shapes[0], {"map": shapes[1], "mean": ["N", 8]}, weights)


def pictures(count: int, seed: int = 0) -> np.ndarray:
    return models.images(count, 8, seed)[:, :, :6]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    onnx.save(segmenter(), folder / "model.onnx")
    np.savez(folder / "calib.npz", x=pictures(64, 1))
    return folder


def loaded(built: edgepack.Build) -> Any:
    file = bundle.read_manifest(built.bundle)["model"]["file"]
    return target.runner(built.target).load(str(built.bundle / file), 1)


def tflite_operators(path: Path) -> list[str]:
    interpreter: Any = pytest.importorskip("ai_edge_litert.interpreter")
    kernels = interpreter.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    session = interpreter.Interpreter(str(path), experimental_op_resolver_type=kernels)
    return [details["op_name"] for details in session._get_ops_details()]


# --- the pass -------------------------------------------------------------------------------------------------


def test_the_axes_of_what_is_named_change_and_no_number() -> None:
    model = models.in_edgepack(segmenter())
    turned = public_layout(model, {"x": NHWC, "map": NHWC}).model
    onnx.checker.check_model(turned.proto(), full_check=True)
    assert [tensor.shape for tensor in turned.inputs] == [("N", 6, 8, 3)]
    assert [tensor.shape for tensor in turned.outputs] == [("N", 6, 8, 4), ("N", 8)]
    feed = {"x": pictures(2)}
    wanted = Session(model).run(feed)
    found = Session(turned).run({"x": np.ascontiguousarray(feed["x"].transpose(NHWC))})
    np.testing.assert_allclose(found["map"], wanted["map"].transpose(NHWC), rtol=1e-6)
    np.testing.assert_allclose(found["mean"], wanted["mean"], rtol=1e-6)


def test_an_own_layout_is_read_off_the_graph() -> None:
    for last, name in ((False, "nchw"), (True, "nhwc")):
        graph = models.in_edgepack(segmenter(last)).ir.graph
        assert own_layout(graph.inputs[0]) == name
        assert own_layout(graph.outputs[0]) == name


# --- in every target ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "precision"), [("onnxruntime", "fp32"), ("openvino", "int8"), ("tflite", "int8")])
def test_a_bundle_takes_and_gives_the_layout_that_was_asked_for(
    name: str, precision: str, files: Path, tmp_path: Path
) -> None:
    pytest.importorskip({"tflite": "ai_edge_litert"}.get(name, name))
    built = edgepack.build(
        files / "model.onnx", tmp_path / "out", target=name, precision=precision, io_layout="nhwc",
        data=files / "calib.npz", **FAST,
    )  # fmt: skip
    manifest = bundle.read_manifest(built.bundle)
    assert [(entry["shape"], entry["layout"]) for entry in (*manifest["inputs"], *manifest["outputs"])] == [
        (["N", 6, 8, 3], "nhwc"), (["N", 6, 8, 4], "nhwc"), (["N", 8], None),
    ]  # fmt: skip
    assert built.check["ok"] and built.quality is not None and built.quality.sqnr_db is not None
    assert built.quality.sqnr_db > (100 if precision == "fp32" else 25)
    assert built.latency["ratio"]["median"] > 0, "the original is timed beside it in the same layout"
    feed = pictures(2, 7)
    wanted = Session(Model.from_proto(segmenter())).run({"x": feed})
    found = loaded(built)({"x": np.ascontiguousarray(feed.transpose(NHWC))})
    assert found["map"].shape == (2, 6, 8, 4)
    np.testing.assert_allclose(found["map"], wanted["map"].transpose(NHWC), atol=1e-4 if precision == "fp32" else 0.2)


@pytest.mark.parametrize(
    ("last", "layout", "transposes"),
    [(False, "nhwc", 0), (False, None, 2), (False, "nchw", 2), (True, None, 0), (True, "nhwc", 0), (True, "nchw", 2)],
)
def test_tflite_transposes_only_what_is_not_channels_last(
    last: bool, layout: str | None, transposes: int, tmp_path: Path
) -> None:
    pytest.importorskip("ai_edge_litert")
    model = models.in_edgepack(segmenter(last))
    around, ports = border(model, layout=layout).seen(model, {}).around(model)
    file = target.load("tflite").lower(around, tmp_path)
    assert tflite_operators(tmp_path / file).count("TRANSPOSE") == transposes
    own = "nhwc" if last else "nchw"
    assert ports.inputs["x"].layout == ports.outputs["map"].layout == (layout or own)


def test_images_become_inputs_in_the_layout_that_was_asked_for(files: Path, tmp_path: Path) -> None:
    """The harness makes them, checks that it does, and a photo gets the same answer in both layouts."""
    random = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for index in range(16):
        Image.fromarray(random.integers(0, 255, (6, 8, 3), np.uint8)).save(tmp_path / "photos" / f"{index}.png")
    answers = []
    for layout in ("nchw", "nhwc"):
        built = edgepack.build(
            files / "model.onnx", tmp_path / layout, precision="fp32", io_layout=layout, data=tmp_path / "photos",
            preprocess="mean=127,std=64", **FAST,
        )  # fmt: skip
        assert built.check["ok"] and bundle.read_manifest(built.bundle)["preprocess"]["layout"] == layout
        command = [sys.executable, str(built.bundle / "harness.py"), "run", str(tmp_path / "photos" / "3.png")]
        done = subprocess.run([*command, "--out", str(tmp_path / "out.npz")], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        with np.load(tmp_path / "out.npz") as arrays:
            answers.append({name.partition("/")[2]: arrays[name] for name in arrays.files})
    np.testing.assert_allclose(answers[0]["map"].transpose(NHWC), answers[1]["map"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(answers[0]["mean"], answers[1]["mean"], rtol=1e-5, atol=1e-6)


# --- what makes no sense ----------------------------------------------------------------------------------------


def test_a_layout_that_is_none_is_refused(files: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no layout 'hwc'") as caught:
        edgepack.build(files / "model.onnx", tmp_path / "out", io_layout="hwc")
    assert "nhwc" in caught.value.hint and not (tmp_path / "out").exists()


def test_a_model_without_images_has_no_layout(tmp_path: Path) -> None:
    onnx.save(models.mlp(), tmp_path / "mlp.onnx")
    with pytest.raises(UsageError, match="no input or output has four axes"):
        edgepack.build(tmp_path / "mlp.onnx", tmp_path / "out", io_layout="nhwc")
