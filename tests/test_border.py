"""The border of a bundle's file: the layout that is asked for, in every target, and what it costs."""

from __future__ import annotations

import json
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
from edgepack import device, target
from edgepack.building.plan import plan
from edgepack.bundles import bundle
from edgepack.bundles.border import Border, border
from edgepack.errors import UnsupportedOperator, UsageError, WrongOutput
from edgepack.metrics.merit import harness
from edgepack.model import Model
from edgepack.passes.integer_border import input_grid, output_grid
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


def asked(model: Model, *, layout: str | None = None, dtype: str = "float") -> Border:
    """A border for an int8 build for tflite on this machine."""
    found = plan(device.detect(), target="tflite", precision="int8", has_data=True, is_quantized=False, threads=1)
    return border(model, found, layout=layout, dtype=dtype)


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
    around, ports = asked(model, layout=layout).seen(model, {}).around(model, lambda names: {})
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


# --- integers --------------------------------------------------------------------------------------------------


def ends(path: Path) -> dict[str, tuple[str, list[float], list[int]]]:
    """Type, scales and zero points of the flatbuffer's own inputs and outputs."""
    schema: Any = pytest.importorskip("ai_edge_litert.schema_py_generated")
    graph = schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes())).subgraphs[0]
    found = {}
    for number in (*graph.inputs, *graph.outputs):
        tensor = graph.tensors[number]
        kind = {0: "float32", 3: "uint8", 9: "int8"}[tensor.type]
        found[tensor.name.decode()] = (kind, list(tensor.quantization.scale), list(tensor.quantization.zeroPoint))
    return found


def integers(files: Path, out: Path, dtype: str, **more: Any) -> edgepack.Build:
    pytest.importorskip("ai_edge_litert")
    return edgepack.build(
        files / "model.onnx", out, target="tflite", precision="int8", io_dtype=dtype, data=files / "calib.npz",
        **FAST, **more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def floating(files: Path, tmp_path_factory: pytest.TempPathFactory) -> edgepack.Build:
    return integers(files, tmp_path_factory.mktemp("float") / "out", "float")


@pytest.mark.parametrize(("dtype", "layout", "inner"), [("int8", "nhwc", 0), ("uint8", None, 3)])
def test_integers_go_in_and_out_and_mean_what_the_manifest_says(
    dtype: str, layout: str | None, inner: int, files: Path, floating: edgepack.Build, tmp_path: Path
) -> None:
    built = integers(files, tmp_path / "out", dtype, io_layout=layout)
    manifest = bundle.read_manifest(built.bundle)
    entries = {entry["name"]: entry for entry in (*manifest["inputs"], *manifest["outputs"])}
    in_file = ends(built.bundle / "model" / "model.tflite")
    assert set(in_file) == set(entries) == {"x", "map", "mean"}
    for name, entry in entries.items():
        grid = entry["quantization"]
        assert entry["dtype"] == dtype and in_file[name] == (dtype, [grid["scale"]], [grid["zero_point"]])
    operators = tflite_operators(built.bundle / "model" / "model.tflite")
    # The mean is made in float, so it is quantized at the end; nothing else is.
    assert operators.count("QUANTIZE") == inner + 1 and operators.count("DEQUANTIZE") == 1
    # The same numbers as the file with float ends gives.
    feed = pictures(1, 9)
    wanted = loaded(floating)({"x": feed})
    run = loaded(built)
    perm = NHWC if layout else (0, 1, 2, 3)
    given = harness().encoded(entries["x"], np.ascontiguousarray(feed.transpose(perm)))
    assert given.dtype == dtype
    found = {name: harness().restored(entries[name], array) for name, array in run({"x": given}).items()}
    np.testing.assert_allclose(found["map"], wanted["map"].transpose(perm), atol=1e-5)
    step = entries["mean"]["quantization"]["scale"]
    np.testing.assert_allclose(found["mean"], wanted["mean"], atol=0.51 * step)
    assert wanted["mean"].max() > 50 * step


def test_accuracy_golden_answers_and_timing_go_through_the_integers(
    files: Path, floating: edgepack.Build, tmp_path: Path
) -> None:
    built = integers(files, tmp_path / "out", "uint8")
    assert built.quality is not None and floating.quality is not None
    assert built.quality.sqnr_db == pytest.approx(floating.quality.sqnr_db, abs=0.1)
    assert built.check["ok"] and built.latency["ratio"]["median"] > 0
    found, wanted = (one.check["outputs"] for one in (built, floating))
    assert found["map"]["reference_sqnr_db"] == pytest.approx(wanted["map"]["reference_sqnr_db"], abs=0.1)
    assert found["mean"]["reference_sqnr_db"] > 40
    with np.load(built.bundle / "golden" / "expected.npz") as arrays:
        assert {arrays[name].dtype.name for name in arrays.files} == {"uint8"}
    # An answer off by many steps is found.
    altered = built.bundle / "golden" / "expected.npz"
    with np.load(altered) as arrays:
        kept = {name: arrays[name] for name in arrays.files}
    kept["0/mean"] = kept["0/mean"] ^ np.uint8(64)
    np.savez(altered, **kept)  # type: ignore[arg-type]
    bundle.seal(built.bundle, bundle.read_manifest(built.bundle))
    with pytest.raises(WrongOutput, match="output mean"):
        edgepack.check(built.bundle)


def test_the_harness_takes_real_numbers_and_photos_and_no_other_integers(files: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for index in range(32):
        Image.fromarray(random.integers(0, 255, (6, 8, 3), np.uint8)).save(tmp_path / "photos" / f"{index}.png")
    pytest.importorskip("ai_edge_litert")
    built = edgepack.build(
        files / "model.onnx", tmp_path / "out", target="tflite", precision="int8", io_dtype="int8", io_layout="nhwc",
        data=tmp_path / "photos", preprocess="mean=127,std=64", **FAST,
    )  # fmt: skip
    assert built.check["ok"]
    pixels = np.asarray(Image.open(tmp_path / "photos" / "3.png"), np.float32)
    np.savez(tmp_path / "real.npz", x=((pixels - 127) / 64)[None])
    np.savez(tmp_path / "integers.npz", x=pixels[None].astype(np.uint8))
    answers = []
    for given in ("photos/3.png", "real.npz"):
        command = [sys.executable, str(built.bundle / "harness.py"), "run", str(tmp_path / given), "--json"]
        done = subprocess.run([*command, "--out", str(tmp_path / "out.npz")], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        scores = {top["class"]: top["score"] for top in json.loads(done.stdout)[0]["outputs"]["mean"]["top"]}
        with np.load(tmp_path / "out.npz") as arrays:
            answers.append(arrays["0/mean"])
        entry = bundle.read_manifest(built.bundle)["outputs"][1]
        real = harness().restored(entry, answers[-1])[0]
        assert all(score == pytest.approx(real[number]) for number, score in scores.items())
    assert np.array_equal(answers[0], answers[1]) and answers[0].dtype == np.int8
    command = [sys.executable, str(built.bundle / "harness.py"), "run", str(tmp_path / "integers.npz")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 22 and "x is uint8, not int8" in done.stderr


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_probabilities_get_the_grid_that_tflite_has_for_them(dtype: str, tmp_path: Path) -> None:
    proto = models.mlp()
    proto.graph.node[-1].output[0] = "scores"
    proto.graph.node.append(node("Softmax", ["scores"], ["y"], axis=-1))
    onnx.save(proto, tmp_path / "model.onnx")
    np.savez(tmp_path / "calib.npz", x=models.random((64, 8), 4))
    pytest.importorskip("ai_edge_litert")
    built = edgepack.build(
        tmp_path / "model.onnx", tmp_path / "out", target="tflite", precision="int8", io_dtype=dtype,
        data=tmp_path / "calib.npz", **FAST,
    )  # fmt: skip
    grid = {"scale": 1 / 256, "zero_point": -128 if dtype == "int8" else 0}
    assert bundle.read_manifest(built.bundle)["outputs"][0]["quantization"] == grid
    assert ends(built.bundle / "model" / "model.tflite")["y"] == (dtype, [1 / 256], [grid["zero_point"]])
    assert built.quality is not None and built.quality.sqnr_db is not None and built.quality.sqnr_db > 25


# --- what makes no sense ----------------------------------------------------------------------------------------


def test_a_layout_that_is_none_is_refused(files: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no layout 'hwc'") as caught:
        edgepack.build(files / "model.onnx", tmp_path / "out", io_layout="hwc")
    assert "nhwc" in caught.value.hint and not (tmp_path / "out").exists()


def test_integers_are_for_tflite_and_a_certain_int8(files: Path, tmp_path: Path) -> None:
    refused = [
        ({"target": "tflite", "io_dtype": "int16"}, "no type 'int16'", "float, int8, uint8"),
        ({"target": "onnxruntime", "precision": "int8", "io_dtype": "int8"}, "onnxruntime takes", "--target tflite"),
        ({"target": "tflite", "precision": "fp32", "io_dtype": "int8"}, "the precision is fp32", "--precision int8"),
        ({"target": "tflite", "io_dtype": "uint8"}, "not sure with --precision auto", "--precision int8"),
        ({"target": "tflite", "io_dtype": "uint8", "max_drop": 1.0}, "--max-drop", "one of the two"),
    ]
    pytest.importorskip("ai_edge_litert")
    for flags, words, hint in refused:
        with pytest.raises(UsageError, match=words) as caught:
            edgepack.build(files / "model.onnx", tmp_path / "out", data=files / "calib.npz", **flags)  # type: ignore[arg-type]
        assert hint in caught.value.hint and not (tmp_path / "out").exists()


def test_a_float_operator_at_the_border_is_named() -> None:
    def quantized(before: list[onnx.NodeProto], behind: list[onnx.NodeProto]) -> Model:
        grid = {"s": np.array(0.1, np.float32), "z": np.array(0, np.int8)}
        middle = [node("QuantizeLinear", ["a", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["b"])]
        proto = models.model([*before, *middle, *behind], {"x": [1, 4]}, {"y": [1, 4]}, grid)
        return models.in_edgepack(proto)

    whole = quantized([node("Erf", ["x"], ["a"])], [node("Identity", ["b"], ["y"])])
    with pytest.raises(UnsupportedOperator, match="the input 'x' is no int8 tensor: Erf reads it in float") as caught:
        input_grid(whole.ir.graph.inputs[0])
    assert "--io-dtype" in caught.value.hint
    assert output_grid(whole.ir.graph.outputs[0]) is None


def test_a_model_without_images_has_no_layout(tmp_path: Path) -> None:
    onnx.save(models.mlp(), tmp_path / "mlp.onnx")
    with pytest.raises(UsageError, match="no input or output has four axes"):
        edgepack.build(tmp_path / "mlp.onnx", tmp_path / "out", io_layout="nhwc")
