"""Bundles for tflite: built, checked and timed like the others, with shapes from the samples and two runtimes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import edgepack
from edgepack import _root, device, target
from edgepack.building import pipeline
from edgepack.building.plan import plan
from edgepack.building.runtimes import consequences
from edgepack.bundles import bundle, here, pins
from edgepack.data.reading import read
from edgepack.device import System
from edgepack.errors import ShapeNeeded, UnfitDevice, UnsupportedOperator, WrongOutput
from edgepack.metrics.merit import harness
from edgepack.model import Model
from edgepack.passes.dynamic import dynamic
from edgepack.passes.half import half
from edgepack.passes.quantize import quantize
from edgepack.passes.weight_only import store_in_8_bits
from edgepack.quantization.preparation import prepare
from edgepack.reference import Session
from tests import models
from tests.boards import emulated
from tests.test_remote_bundle import interpreter

pytest.importorskip("ai_edge_litert")
FAST: dict[str, Any] = {"seconds": 0.2, "threads": 1, "target": "tflite"}


def widths(count: int, width: int, seed: int = 0) -> np.ndarray:
    return models.random((count, 3, 8, width), seed)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The convnet, a net that takes pictures of any width, and samples for both."""
    folder = tmp_path_factory.mktemp("files")
    onnx.save(models.convnet(), folder / "model.onnx")
    np.savez(folder / "calib.npz", x=models.images(64, seed=1))
    wide = models.model(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["r"]),
            helper.make_node("ReduceMean", ["r"], ["y"], axes=[2, 3], keepdims=0),
        ],
        {"x": ["N", 3, 8, "W"]},
        {"y": ["N", 4]},
        {"w": models.random((4, 3, 3, 3))},
    )
    onnx.save(wide, folder / "wide.onnx")
    np.savez(folder / "wide.npz", x=widths(16, 20))
    return folder


@pytest.fixture(scope="module", params=["fp32", "fp16", "int8"])
def built(request: pytest.FixtureRequest, files: Path, tmp_path_factory: pytest.TempPathFactory) -> pipeline.Build:
    out = tmp_path_factory.mktemp(request.param) / "out"
    return edgepack.build(
        files / "model.onnx", out, device="rpi4", precision=request.param, data=files / "calib.npz", **FAST
    )


# --- end to end -----------------------------------------------------------------------------------------------


def test_a_bundle_is_checked_in_a_process_that_sees_only_its_pins(built: pipeline.Build) -> None:
    assert built.check["ok"] and set(built.check["versions"]) == {"ai-edge-litert"}
    assert built.quality is not None and built.quality.sqnr_db is not None
    assert built.quality.sqnr_db > {"fp32": 100, "fp16": 50, "int8": 30}[built.precision]
    lines = (built.bundle / "requirements.txt").read_text().split()
    assert [line.partition("==")[0] for line in lines] == ["numpy", "ai-edge-litert"]
    manifest = bundle.read_manifest(built.bundle)
    assert manifest["model"]["file"] == "model/model.tflite" and manifest["device"] == "rpi4"


def test_its_builtin_kernels_are_checked_too(built: pipeline.Build, tmp_path: Path) -> None:
    figures = built.check["outputs"]["y"]
    term = bundle.read_manifest(built.bundle)["golden"]["outputs"][0]["other_kernels"]
    assert abs(figures["other_kernels_sqnr_db"] - term["sqnr_db"]) < 0.01
    assert figures["other_kernels_sqnr_db"] > {"fp32": 100, "fp16": 50, "int8": 25}[built.precision]


def test_builtin_kernels_that_answer_worse_than_recorded_are_told(files: Path, tmp_path: Path) -> None:
    built = edgepack.build(files / "model.onnx", tmp_path / "out", precision="int8", data=files / "calib.npz", **FAST)
    manifest = bundle.read_manifest(built.bundle)
    manifest["golden"]["outputs"][0]["other_kernels"]["sqnr_db"] += 20
    bundle.seal(built.bundle, manifest)
    with pytest.raises(WrongOutput, match="kernels to fall back to"):
        edgepack.check(built.bundle)


def test_it_is_timed_beside_the_original_in_its_own_form(built: pipeline.Build, files: Path) -> None:
    manifest = bundle.read_manifest(built.bundle)
    assert {path.name for path in (built.bundle / "baseline").iterdir()} == {"original.tflite", "graph.onnx"}
    assert manifest["baseline"]["file"] == "baseline/original.tflite"
    assert built.latency["models"]["baseline"]["count"] > 0 and built.latency["ratio"]["median"] > 0
    assert any("timed beside the original" in note for note in built.notes)
    run = target.runner("tflite").load(str(built.bundle / "baseline" / "original.tflite"), 1)
    feed = {"x": models.images(3, seed=4)}
    original = Session(models.in_edgepack(onnx.load(files / "model.onnx")))
    np.testing.assert_allclose(run(feed)["y"], original.run(feed)["y"], rtol=1e-4, atol=1e-5)


def test_the_size_compared_is_that_of_the_onnx_file(built: pipeline.Build, files: Path) -> None:
    size = (files / "model.onnx").stat().st_size
    assert abs(built.sizes["original"] - size) < 0.05 * size
    assert bundle.read_manifest(built.bundle)["measured"]["original_bytes"] == built.sizes["original"]


def test_fp16_weights_take_half_the_room_and_change_no_number(tmp_path: Path) -> None:
    original = models.in_edgepack(models.mlp(features=64, classes=64))
    module = target.load("tflite")
    sizes, answers = [], []
    for name, model in (("fp32", original), ("fp16", half(original).model)):
        (tmp_path / name).mkdir()
        file = tmp_path / name / module.lower(model, tmp_path / name)
        sizes.append(file.stat().st_size)
        feed = {"x": models.random((1, 64), 5)}
        answers.append((target.runner("tflite").load(str(file), 1)(feed), Session(model).run(feed)))
    assert sizes[1] < 0.6 * sizes[0]
    for got, want in answers:
        np.testing.assert_allclose(got["y"], want["y"], rtol=1e-5, atol=1e-6)


def kinds_of(file: Path) -> dict[str, list[str]]:
    """What each operator that has weights reads as weights, by its kind."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(file.read_bytes(), 0))
    kinds = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    types = {value: name for name, value in vars(schema.TensorType).items() if isinstance(value, int)}
    graph = model.subgraphs[0]
    found: dict[str, list[str]] = {}
    for operator in graph.operators:
        kind = kinds[model.operatorCodes[operator.opcodeIndex].builtinCode]
        found.setdefault(kind, []).extend(types[graph.tensors[index].type] for index in operator.inputs[:2])
    return found


def test_weights_in_8_bits_are_restored_and_change_no_number(tmp_path: Path) -> None:
    original = models.in_edgepack(models.convnet(channels=32))
    module = target.load("tflite")
    stored = store_in_8_bits(original, module.SCHEME).model
    (tmp_path / "float").mkdir()
    file, plain = tmp_path / module.lower(stored, tmp_path), tmp_path / "float" / "model.tflite"
    module.lower(original, tmp_path / "float")
    assert set(kinds_of(file)["DEQUANTIZE"]) == {"INT8"} and set(kinds_of(file)["CONV_2D"]) == {"FLOAT32"}
    assert file.stat().st_size < 0.75 * plain.stat().st_size
    feed = {"x": models.images(1, seed=3)}
    got, want = target.runner("tflite").load(str(file), 1)(feed), Session(stored).run(feed)
    np.testing.assert_allclose(got["y"], want["y"], rtol=1e-5, atol=1e-5)


def test_dynamic_gives_convolutions_and_products_integers(tmp_path: Path) -> None:
    original = models.in_edgepack(models.convnet(channels=32))
    module = target.load("tflite")
    form = dynamic(original, module.SCHEME).model
    file = tmp_path / module.lower(form, tmp_path)
    assert kinds_of(file)["CONV_2D"][-1] == "INT8" and set(kinds_of(file)["DEPTHWISE_CONV_2D"]) == {"FLOAT32"}
    run, session = target.runner("tflite").load(str(file), 1), Session(original)
    feeds = [{"x": image[None]} for image in models.images(8, seed=2)]
    got, want = (np.concatenate([one(feed)["y"] for feed in feeds]) for one in (run, session.run))
    assert 25 < harness().sqnr_db(want, got) < 80


@pytest.mark.parametrize("size", [(64, 64), (16, 512)])
def test_a_dynamic_product_is_near_the_float_one(size: tuple[int, int], tmp_path: Path) -> None:
    """Rows of each sample get a scale of their own; weights a scale a channel."""
    features, classes = size
    original = models.in_edgepack(models.mlp(features=features, classes=classes))
    module = target.load("tflite")
    file = tmp_path / module.lower(dynamic(original, module.SCHEME).model, tmp_path)
    assert "INT8" in kinds_of(file)["FULLY_CONNECTED"]
    feed = {"x": models.random((32, features), 5)}
    want, got = Session(original).run(feed)["y"], target.runner("tflite").load(str(file), 1)(feed)["y"]
    assert 30 < harness().sqnr_db(want, got) < 80


@pytest.mark.parametrize("precision", ["w8", "dynamic"])
def test_a_bundle_without_calibration(precision: str, tmp_path: Path) -> None:
    onnx.save(models.convnet(channels=32), tmp_path / "model.onnx")
    built = edgepack.build(tmp_path / "model.onnx", tmp_path / "out", device="rpi5", precision=precision, **FAST)
    assert built.check["ok"] and built.precision == precision
    assert built.sizes["model"] < 0.8 * built.sizes["original"]


def test_dynamic_is_refused_where_only_the_older_runtime_runs(files: Path, tmp_path: Path) -> None:
    with pytest.raises(UnfitDevice, match="tflite-runtime") as caught:
        edgepack.build(files / "model.onnx", tmp_path / "out", device="rpi4@bookworm32", precision="dynamic", **FAST)
    assert "w8" in caught.value.hint and not (tmp_path / "out").exists()


# --- models that came quantized, and files that do not load -----------------------------------------------------


def quantized(folder: Path, activations: str) -> Model:
    """The convnet as other tools write it: Q/DQ with uint8 or int8 activations."""
    scheme = replace(target.load("onnxruntime").SCHEME, activation_dtype=activations)
    original = models.in_edgepack(models.convnet())
    np.savez(folder / "calib.npz", x=models.images(64, seed=1))
    prepared = prepare(original, scheme, read(folder / "calib.npz", original))
    return quantize(original, scheme, prepared.ranges, prepared.layers).model


@pytest.mark.parametrize("activations", ["uint8", "int8"])
def test_a_quantized_model_is_packaged_whatever_its_activations_are(activations: str, tmp_path: Path) -> None:
    quantized(tmp_path, activations).save(tmp_path / "quantized.onnx")
    built = edgepack.build(tmp_path / "quantized.onnx", tmp_path / "out", data=tmp_path / "calib.npz", **FAST)
    assert built.precision == "as-is" and built.check["ok"]
    assert built.quality is not None and built.quality.sqnr_db is not None and built.quality.sqnr_db > 40


def test_weights_with_a_zero_point_are_refused(tmp_path: Path) -> None:
    proto = quantized(tmp_path, "uint8").proto()
    weights = {node.input[1] for node in proto.graph.node if node.op_type == "Conv"}
    zeros = {node.input[2] for node in proto.graph.node if node.output[0] in weights}
    for tensor in proto.graph.initializer:
        if tensor.name in zeros:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + np.int8(3), tensor.name))
    with pytest.raises(UnsupportedOperator, match="zero point"):
        target.load("tflite").lower(Model.from_proto(proto), tmp_path)


def test_a_file_that_litert_does_not_load_is_refused_and_no_process_dies(tmp_path: Path) -> None:
    module = target.load("tflite")
    path = tmp_path / "broken.tflite"
    path.write_bytes(b"\x1c\x00\x00\x00TFL3" + bytes(64))
    with pytest.raises(UnsupportedOperator, match="LiteRT does not load the model"):
        module._refuse_what_does_not_load(path)  # type: ignore[attr-defined]
    assert not path.exists()


# --- shapes ---------------------------------------------------------------------------------------------------


def test_open_dimensions_are_as_long_as_in_the_samples(files: Path, tmp_path: Path) -> None:
    built = edgepack.build(files / "wide.onnx", tmp_path / "out", precision="int8", data=files / "wide.npz", **FAST)
    assert any("x=Nx3x8x20, as all samples are" in note for note in built.notes)
    assert bundle.read_manifest(built.bundle)["inputs"][0]["shape"] == ["N", 3, 8, 20]


def test_samples_of_several_lengths_are_refused_by_name(files: Path, tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    for index, width in enumerate((20, 20, 24)):
        np.save(tmp_path / "samples" / f"{index}.npy", widths(1, width, index))
    with pytest.raises(ShapeNeeded, match=r"dimension 3 of the input x.* is 20 in one sample and 24") as caught:
        edgepack.build(files / "wide.onnx", tmp_path / "out", precision="fp32", data=tmp_path / "samples", **FAST)
    assert "--input-shape x=1x3x8x20" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_without_samples_the_shape_has_to_be_given(files: Path, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {**FAST, "precision": "fp32"}
    with pytest.raises(ShapeNeeded) as caught:
        edgepack.build(files / "wide.onnx", tmp_path / "out", **arguments)
    assert "--input-shape x=" in caught.value.hint and not (tmp_path / "out").exists()
    given = {"x": (1, 3, 8, 12)}
    built = edgepack.build(files / "wide.onnx", tmp_path / "out", input_shape=given, **arguments)
    assert built.check["ok"]


# --- which runtime a board gets -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("board", "runtime", "numpy"),
    [
        ("rpi4", "ai-edge-litert", None),
        ("rpi4@bullseye", "ai-edge-litert", None),
        ("rpi4@bookworm32", "tflite-runtime", "1.24.2"),
        ("imx8mp", "ai-edge-litert", None),
    ],
)
def test_a_board_gets_the_runtime_that_has_wheels(board: str, runtime: str, numpy: str | None) -> None:
    found = plan(
        device.find(board), target="tflite", precision="fp32", has_data=False, is_quantized=False, threads=None
    )
    pinned = dict(line.split("==") for line in found.requirements(images=False))
    assert set(pinned) == {"numpy", runtime}
    assert numpy in (None, pinned["numpy"])
    assert found.runs_as_here is (runtime == "ai-edge-litert")
    assert any(f"tflite: {runtime}" in line for line in consequences(device.find(board)))


def test_an_old_python_gets_numpy_1() -> None:
    module = target.load("tflite")
    system = System(name="", title="", python="3.8", glibc="2.31")
    chosen = pins.pins(target.older_packages(module), "aarch64", system)
    assert pins.version_tuple(chosen["numpy"]) < (2,) and chosen["tflite-runtime"].startswith("2.1")


def test_what_no_system_package_brings_is_refused() -> None:
    with pytest.raises(UnfitDevice, match=r"tflite-runtime for Python 3\.13 on armv7l"):
        plan(
            device.find("rpi4@trixie32"), target="tflite", precision="fp32", has_data=False, is_quantized=False,
            threads=None,
        )  # fmt: skip
    with pytest.raises(UnfitDevice, match="numpy"):
        plan(
            device.find("rpi4@bullseye32"), target="tflite", precision="fp32", has_data=False, is_quantized=False,
            threads=None,
        )  # fmt: skip


def test_for_another_runtime_decibels_are_promised_and_it_is_said(files: Path, tmp_path: Path) -> None:
    built = edgepack.build(
        files / "model.onnx", tmp_path / "out", device="rpi4@bookworm32", precision="int8", data=files / "calib.npz",
        **FAST,
    )  # fmt: skip
    output = bundle.read_manifest(built.bundle)["golden"]["outputs"][0]
    assert output["tolerance"]["kind"] == "decibels" and output["reference_within_db"] == 6.0
    assert any("apt-get install python3-numpy" in note for note in built.notes)
    assert any("tflite-runtime, whose int8 kernels round" in note for note in built.notes)


# --- on the runtimes themselves -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("python", "runtime"), [("3.8", "tflite-runtime"), ("3.9", "ai-edge-litert"), ("3.13", "ai-edge-litert")]
)
def test_a_bundle_installs_and_answers_under_the_python_it_is_for(python: str, runtime: str, tmp_path: Path) -> None:
    """No pip, no network: the wheels of the bundle, unpacked by its harness; int8 to the bit where that is promised."""
    command = [interpreter(python), "-S", "-s", "-E"]
    here = device.detect()
    board = replace(here, board="old", system=replace(here.system, name="old", python=python), systems=("old",))
    (tmp_path / "boards.yaml").write_text(device.profile(board))
    built = edgepack.build(
        integers_alone(tmp_path), tmp_path / "out", device="old", precision="int8", wheels=True,
        data=tmp_path / "integers.npz", devices_file=tmp_path / "boards.yaml", **FAST,
    )  # fmt: skip
    exact = bundle.read_manifest(built.bundle)["golden"]["outputs"][0]["tolerance"]["kind"] == "exact"
    assert exact is (runtime == "ai-edge-litert")
    for step in ("install", "check"):
        done = subprocess.run(
            [*command, str(built.bundle / "harness.py"), step, "--json"], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    pinned = dict(line.split("==") for line in (built.bundle / "requirements.txt").read_text().split())
    assert json.loads(done.stdout)["versions"] == {runtime: pinned[runtime]}


def integers_alone(folder: Path) -> Path:
    """A net whose int8 form computes nothing in float."""
    node = helper.make_node
    proto = models.model(
        [
            node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1], strides=[2, 2]),
            node("Relu", ["c1"], ["r1"]),
            node("Conv", ["r1", "w2", "b2"], ["c2"], pads=[1, 1, 1, 1], group=16),
            node("Relu", ["c2"], ["r2"]),
            node("Conv", ["r2", "w3", "b3"], ["c3"]),
            node("Relu", ["c3"], ["r3"]),
            node("MaxPool", ["r3"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
            node("Flatten", ["p"], ["f"]),
            node("Gemm", ["f", "w4", "b4"], ["y"], transB=1),
        ],
        {"x": ["N", 3, 16, 16]},
        {"y": ["N", 10]},
        {
            "w1": models.random((16, 3, 3, 3), 1, 0.3), "b1": models.random((16,), 2, 0.1),
            "w2": models.random((16, 1, 3, 3), 3, 0.3), "b2": models.random((16,), 4, 0.1),
            "w3": models.random((24, 16, 1, 1), 5, 0.3), "b3": models.random((24,), 6, 0.1),
            "w4": models.random((10, 384), 7, 0.1), "b4": models.random((10,), 8, 0.1),
        },
    )  # fmt: skip
    onnx.save(proto, folder / "integers.onnx")
    np.savez(folder / "integers.npz", x=models.images(64, seed=1))
    return folder / "integers.onnx"


@pytest.mark.slow
def test_int8_is_the_same_to_the_bit_on_arm(tmp_path: Path) -> None:
    emulated("cortex-a72").close()
    built = edgepack.build(
        integers_alone(tmp_path), tmp_path / "out", device="rpi4@bookworm", precision="int8", wheels=True,
        data=tmp_path / "integers.npz", **FAST,
    )  # fmt: skip
    assert bundle.read_manifest(built.bundle)["golden"]["outputs"][0]["tolerance"] == {"kind": "exact"}
    for cpu in ("cortex-a72", "cortex-a76"):
        assert edgepack.check(built.bundle, on=f"qemu:{cpu}")["ok"]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_32_bit_board_runs_it_in_the_older_runtime(precision: str, files: Path, tmp_path: Path) -> None:
    emulated("armv7").close()
    built = edgepack.build(
        files / "model.onnx", tmp_path / "out", device="rpi4@bookworm32", precision=precision, wheels=True,
        data=files / "calib.npz", **FAST,
    )  # fmt: skip
    assert [path.name.partition("-")[0] for path in (built.bundle / "wheels").iterdir()] == ["tflite_runtime"]
    report = edgepack.check(built.bundle, on="qemu:armv7")
    assert report["ok"] and set(report["versions"]) == {"tflite-runtime"}


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tflite-runtime alone."""
    folder = tmp_path_factory.mktemp("tflite-runtime")
    _installed("tflite-runtime==2.14.0", folder)
    return folder


@pytest.fixture(scope="module")
def numpy_1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("numpy-1")
    _installed("numpy==1.26.4", folder)
    return folder


def _installed(requirement: str, folder: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:"]
    done = subprocess.run([*pip, "--target", str(folder), requirement], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"there is no {requirement} for this Python here")


def harness_with(folders: list[Path], built: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The bundle's harness under this Python, which sees these folders and the standard library."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(map(str, folders))}
    command = [sys.executable, "-B", "-S", "-s", str(built / "harness.py"), *arguments, "--json"]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_same_bundle_runs_in_both_runtimes(
    precision: str, files: Path, older: Path, numpy_1: Path, tmp_path: Path
) -> None:
    built = edgepack.build(
        files / "model.onnx", tmp_path / "out", precision=precision, data=files / "calib.npz", **FAST
    )
    done = harness_with([older, numpy_1], built.bundle, "check")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["versions"] == {"tflite-runtime": "2.14.0"}


@pytest.mark.slow
def test_numpy_2_is_refused_in_the_older_runtime(files: Path, older: Path, tmp_path: Path) -> None:
    if int(np.__version__.partition(".")[0]) < 2:
        pytest.skip("numpy here is older")
    built = edgepack.build(files / "model.onnx", tmp_path / "out", precision="fp32", data=files / "calib.npz", **FAST)
    (tmp_path / "numpy-2").mkdir()
    here.link_only(("numpy",), tmp_path / "numpy-2")
    done = harness_with([older, tmp_path / "numpy-2"], built.bundle, "check")
    assert done.returncode == 52
    assert "tflite-runtime needs numpy below 2" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_int8_weights_that_meet_float_activations_are_refused_there(older: Path, numpy_1: Path, tmp_path: Path) -> None:
    path = dynamic_range(tmp_path)
    code = (
        "import runpy, sys\n"
        "load = runpy.run_path(sys.argv[1])['load']\n"
        "import numpy\n"
        "print(load(sys.argv[2], 1)({'x': numpy.ones((1, 8), numpy.float32)}))"
    )
    here = subprocess.run(
        [sys.executable, "-c", code, str(_root.TARGETS / "tflite" / "runner.py"), str(path)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert here.returncode == 0, here.stderr
    there = subprocess.run(
        [sys.executable, "-S", "-s", "-c", code, str(_root.TARGETS / "tflite" / "runner.py"), str(path)],
        env={"PYTHONPATH": f"{older}{os.pathsep}{numpy_1}"}, capture_output=True, text=True,
    )  # fmt: skip
    assert "int8 weights meet float activations, as in the FULLY_CONNECTED that makes y" in there.stderr


def dynamic_range(folder: Path) -> Path:
    """A FULLY_CONNECTED of float activations and int8 weights that share one scale."""
    target.load("tflite")
    written = sys.modules["edgepack.targets.tflite.flatbuffer"]
    single = np.dtype(np.float32)
    grid = written.Quantization(scale=np.float32(0.01), zero_point=np.int8(0))
    weights = np.arange(32, dtype=np.int8).reshape(4, 8)
    x = written.Tensor(name="x", shape=(1, 8), dtype=single)
    w = written.Tensor(name="w", shape=(4, 8), dtype=weights.dtype, data=weights, quantization=grid)
    y = written.Tensor(name="y", shape=(1, 4), dtype=single)
    graph = written.Graph(inputs={"x": x}, outputs={"y": y})
    graph.operators.append(
        written.Operator(kind="FULLY_CONNECTED", inputs=[x, w, None], outputs=[y], table="FullyConnectedOptions")
    )
    (folder / "dynamic.tflite").write_bytes(written.serialize(graph, "test"))
    return folder / "dynamic.tflite"
