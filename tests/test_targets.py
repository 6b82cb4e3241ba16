"""The contract of targets/README.md, over every folder in targets/."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from edgepack import _root, device, target
from edgepack.building.runtimes import is_installed
from edgepack.data.reading import read
from edgepack.errors import UnknownTarget, UnsupportedOperator
from edgepack.metrics.merit import harness
from edgepack.model import Model
from edgepack.passes.half import half
from edgepack.passes.half_arithmetic import half_arithmetic
from edgepack.passes.quantize import quantize
from edgepack.quantization.preparation import prepare
from edgepack.reference import Session
from tests import models

DEVICE_FILES = sorted(
    [
        _root.TARGETS / "device" / "harness.py",
        _root.TARGETS / "device" / "preprocess.py",
        *_root.TARGETS.glob("device/edgepack_device/*.py"),
        *_root.TARGETS.glob("*/runner.py"),
        *_root.TARGETS.glob("*/profiler.py"),
        *_root.TARGETS.glob("*/bundle/**/*.py"),
    ]
)


# The targets whose own runtime is on this kind of machine.
RUN_HERE = [name for name in target.names() if not target.load(name).STAND_IN]


@pytest.fixture(params=target.names())
def name(request: pytest.FixtureRequest) -> str:
    if not is_installed(request.param):
        pytest.skip(f"the {request.param} extra is not installed")
    return str(request.param)


def form_of(name: str, precision: str, folder: Path) -> tuple[Model, Model]:
    """The convnet, and the same in a precision by the target's scheme."""
    original = models.in_edgepack(models.convnet())
    if precision == "fp16":
        typed = target.load(name).HALF_ARITHMETIC
        return original, (half_arithmetic(original) if typed else half(original)).model
    if precision == "int8":
        np.savez(folder / "calib.npz", x=models.images(64, seed=1))
        scheme = target.load(name).SCHEME
        prepared = prepare(original, scheme, read(folder / "calib.npz", original))
        return original, quantize(original, scheme, prepared.ranges, prepared.layers).model
    return original, original


# int8 keeps about 30 dB on this net in every runtime; fp16 weights about 60.
@pytest.mark.parametrize(("precision", "floor"), [("fp32", 100), ("fp16", 50), ("int8", 25)])
def test_a_lowered_model_answers_like_the_original(name: str, precision: str, floor: float, tmp_path: Path) -> None:
    original, model = form_of(name, precision, tmp_path)
    file = target.load(name).lower(model, tmp_path)
    run = target.runner_here(name).load(str(tmp_path / file), 1)
    session = Session(original)
    for image in models.images(8, seed=2):
        feed = {"x": image[None]}
        answer = run(feed)
        assert list(answer) == ["y"] and answer["y"].shape == (1, 10) and answer["y"].dtype == np.float32
        assert harness().sqnr_db(session.run(feed)["y"], answer["y"]) > floor


def test_the_same_file_loaded_twice_answers_bit_by_bit(name: str, tmp_path: Path) -> None:
    _, model = form_of(name, "int8", tmp_path)
    file = target.load(name).lower(model, tmp_path)
    feed = {"x": models.images(1)}
    one, two = (target.runner_here(name).load(str(tmp_path / file), threads)(feed)["y"] for threads in (1, 2))
    np.testing.assert_array_equal(one, two)


def test_an_answer_outlives_the_next_run(name: str, tmp_path: Path) -> None:
    _, model = form_of(name, "fp32", tmp_path)
    run = target.runner_here(name).load(str(tmp_path / target.load(name).lower(model, tmp_path)), 1)
    first = run({"x": models.images(1, seed=1)})["y"]
    copy = first.copy()
    run({"x": models.images(1, seed=2)})
    np.testing.assert_array_equal(first, copy)


def test_open_dimensions_stay_open(name: str, tmp_path: Path) -> None:
    _, model = form_of(name, "int8", tmp_path)
    run = target.runner_here(name).load(str(tmp_path / target.load(name).lower(model, tmp_path)), 1)
    batch = models.images(5)
    together = run({"x": batch})["y"]
    alone = np.concatenate([run({"x": image[None]})["y"] for image in batch])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)


def test_single_samples_and_batches_take_turns(name: str, tmp_path: Path) -> None:
    """OpenVINO's runner holds the model for single samples until it is given several."""
    original, model = form_of(name, "fp32", tmp_path)
    run = target.runner_here(name).load(str(tmp_path / target.load(name).lower(model, tmp_path)), 1)
    for count in (1, 1, 4, 1, 2):
        feed = {"x": models.images(count, seed=count)}
        np.testing.assert_allclose(run(feed)["y"], Session(original).run(feed)["y"], rtol=1e-4, atol=1e-5)


def test_pictures_of_any_size(name: str, tmp_path: Path) -> None:
    proto = models.model(
        [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])],
        {"x": ["N", 3, "H", "W"]},
        {"y": ["N", 4, "H", "W"]},
        {"w": models.random((4, 3, 3, 3))},
    )
    model = models.in_edgepack(proto)
    if target.load(name).FIXED_SHAPES:
        with pytest.raises(UnsupportedOperator, match="dimension 2 of the input 'x' is open"):
            target.load(name).lower(model, tmp_path)
        return
    run = target.runner_here(name).load(str(tmp_path / target.load(name).lower(model, tmp_path)), 1)
    for shape in ((1, 3, 8, 8), (1, 3, 8, 12), (2, 3, 5, 8)):
        feed = {"x": models.random(shape)}
        np.testing.assert_allclose(run(feed)["y"], Session(model).run(feed)["y"], rtol=1e-4, atol=1e-5)


def test_several_inputs_outputs_integers_and_scalars(name: str, tmp_path: Path) -> None:
    node = helper.make_node
    proto = models.model(
        [
            node("Gather", ["table", "ids"], ["rows"], axis=0),
            node("ReduceMean", ["rows"], ["mean"], axes=[1], keepdims=0),
            node("Add", ["mean", "state"], ["next"]),
            node("Cast", ["gain"], ["factor"], to=1),
            node("Mul", ["next", "factor"], ["scaled"]),
            node("ArgMax", ["scaled"], ["best"], axis=1, keepdims=0),
        ],
        {"ids": [1, 6], "state": [1, 8], "gain": []},
        {"scaled": [1, 8], "next": [1, 8], "best": [1]},
        {"table": models.random((20, 8))},
        types={"ids": onnx.TensorProto.INT64, "gain": onnx.TensorProto.INT64, "best": onnx.TensorProto.INT64},
    )
    model = models.in_edgepack(proto)
    run = target.runner_here(name).load(str(tmp_path / target.load(name).lower(model, tmp_path)), 1)
    feed = {"ids": np.array([[1, 5, 7, 2, 19, 0]]), "state": models.random((1, 8), 3), "gain": np.array(3)}
    want, got = Session(model).run(feed), run(feed)
    assert set(got) >= set(want)
    for output, array in want.items():
        np.testing.assert_allclose(got[output], array, rtol=1e-5)
        assert got[output].dtype == array.dtype


def test_an_operator_the_runtime_lacks_is_named(name: str, tmp_path: Path) -> None:
    proto = models.convnet()
    proto.graph.node.append(helper.make_node("TransformerMemory", ["y"], ["z"], domain="com.microsoft", name="odd"))
    proto.graph.output[0].name = "z"
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    if name != "onnxruntime":
        with pytest.raises(UnsupportedOperator, match="TransformerMemory"):
            target.load(name).lower(Model.from_proto(proto), tmp_path)


def test_a_form_to_time_beside_loads_and_answers_like_the_original(name: str, tmp_path: Path) -> None:
    original = models.in_edgepack(models.convnet())
    file = target.load(name).baseline(original, tmp_path) or original.save(tmp_path / "original.onnx")[0]
    feed = {"x": models.images(2)}
    answer = target.runner_here(name).load(str(tmp_path / file), 1)(feed)
    np.testing.assert_allclose(answer["y"], Session(original).run(feed)["y"], rtol=1e-4, atol=1e-5)


def test_what_a_target_says_of_itself(name: str) -> None:
    module = target.load(name)
    module.check()
    assert set(module.PRECISIONS) <= set(device.PRECISIONS) and "fp32" in module.PRECISIONS
    scheme = module.SCHEME
    assert scheme.same_scale <= scheme.light and scheme.closed <= scheme.weighted
    versions = target.runner(name).versions()
    assert set(versions) == set(module.REQUIREMENTS)


def test_boards_run_only_targets_and_precisions_that_exist() -> None:
    for board in device.read().values():
        for runtime, precisions in board.targets.items():
            if runtime in target.names():
                assert set(precisions) <= set(target.load(runtime).PRECISIONS), board.name


def test_an_unknown_target_gets_a_suggestion() -> None:
    with pytest.raises(UnknownTarget) as caught:
        target.load("onnxruntme")
    assert "onnxruntime" in caught.value.hint


@pytest.mark.parametrize("path", DEVICE_FILES, ids=lambda path: str(path.relative_to(_root.TARGETS)))
def test_device_files_are_for_an_old_python(path: Path) -> None:
    ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 8))
    found = subprocess.run(
        [
            sys.executable,
            "-c",
            "from vermin import main; main()",
            "--no-tips",
            "--violations",
            "--target=3.8-",
            str(path),
        ],
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("path", DEVICE_FILES, ids=lambda path: str(path.relative_to(_root.TARGETS)))
def test_device_files_import_only_what_a_device_has(path: Path) -> None:
    allowed = set(sys.stdlib_module_names) | {"numpy", "PIL", "edgepack_device"}
    if path.name in ("runner.py", "profiler.py"):
        module = target.load(path.parent.name)
        allowed |= {line.partition("<")[0].replace("-", "_") for line in (*module.REQUIREMENTS, *module.FALLBACK)}
    owner = path.relative_to(_root.TARGETS).parts[0]
    packages = {folder.name for folder in (_root.TARGETS / owner / "bundle").glob("*/")}
    if packages:  # its own parts, the runtime that the board brings, and what may stand in for it
        allowed |= packages | {owner, *target.fallbacks(owner)}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert {alias.name.partition(".")[0] for alias in node.names} <= allowed
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").partition(".")[0] in allowed
