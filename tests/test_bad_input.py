"""Whatever goes wrong: one line, a hint and an exit code of its own, no traceback, nothing of the user's lost.

Nearly everything runs through the command line, in a folder that must be the same afterwards, byte by byte.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, external_data_helper, helper, numpy_helper
from PIL import Image

import edgepack
from edgepack import cli as command_line
from edgepack import demo, device, errors, inputs
from edgepack._root import DEVICES
from edgepack.bundles import bundle
from edgepack.data import reading
from edgepack.errors import EdgepackError
from tests import models
from tests.conftest import Run

Write = Callable[[Path], object]
Done = subprocess.CompletedProcess[str]

INT8 = "model.onnx -o out --precision int8 --data calib.npz"
FP32 = "model.onnx -o out --precision fp32"
FORCE = f"{FP32} --force"


@dataclass(frozen=True, kw_only=True)
class Case:
    """`prepare` writes files, `edgepack build ARGUMENTS` must refuse: `words` in its error, `hint` in its hint.

    A `quick` case runs in the tests' own process: a variant of one that runs in a process of its own, as users do.
    """

    arguments: str
    error: type[EdgepackError]
    words: tuple[str, ...]
    hint: str = ""
    prepare: tuple[Write, ...] = ()
    quick: bool = False


def each(table: Mapping[str, Any], name: str = "case") -> pytest.MarkDecorator:
    return pytest.mark.parametrize(name, table.values(), ids=table.keys())


# --- what every refusal must be ---------------------------------------------------------------------------


def snapshot(folder: Path) -> dict[str, str]:
    """Everything in a folder, hidden files included, and what it holds."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            holds = f"link to {path.readlink()}"
        else:
            holds = "folder" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
        found[path.relative_to(folder).as_posix()] = holds
    return found


def assert_refusal(done: Done, error: type[EdgepackError], *words: str, hint: str = "") -> None:
    """One error line with the words, one hint line, nothing else, and the error's exit code."""
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    assert done.returncode == error.exit_code, done.stderr or done.stdout
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert [line.partition(": ")[0] for line in lines] == ["error", "hint"], done.stderr
    for word in words:
        assert word in lines[0]
    assert len(lines[1]) > len("hint: ")
    assert hint in lines[1]


def assert_refused(run: Run, folder: Path, command: str, error: type[EdgepackError], *words: str) -> None:
    """The command is refused, and the folder it ran in is as it was."""
    before = snapshot(folder)
    done = run(*command.split(), cwd=folder)
    assert_refusal(done, error, *words)
    assert snapshot(folder) == before


Check = Callable[[Path, Case], None]


@pytest.fixture
def assert_build_refused(cli: Run, here: Run) -> Check:
    """Prepare the folder, build, and hold the refusal against the case; the folder stays as it was prepared."""

    def check(folder: Path, case: Case) -> None:
        for write in case.prepare:
            write(folder)
        before = snapshot(folder.parent)
        run = here if case.quick else cli
        done = run("build", *case.arguments.split(), "--seconds", "0.1", cwd=folder)
        assert_refusal(done, case.error, *case.words, hint=case.hint)
        assert snapshot(folder.parent) == before

    return check


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """The command line in this process."""

    def run(*arguments: str, cwd: Path) -> Done:
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "argv", ["edgepack", *arguments])
        handler = signal.getsignal(signal.SIGTERM)
        with pytest.raises(SystemExit) as leaving:
            command_line.main()
        signal.signal(signal.SIGTERM, handler)
        out, err = capfd.readouterr()
        return subprocess.CompletedProcess(arguments, int(leaving.value.code or 0), out, err)

    return run


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder in a folder, with model.onnx ([N, 8] to [N, 4]), calib.npz and eval.npz that fit together."""
    folder = tmp_path / "work"
    folder.mkdir()
    onnx.save(models.mlp(), folder / "model.onnx")
    np.savez(folder / "calib.npz", x=models.random((40, 8), 1))
    np.savez(folder / "eval.npz", x=models.random((40, 8), 2), y=np.arange(40) % 4)
    return folder


# --- writers of bad files ---------------------------------------------------------------------------------


def put(name: str, content: bytes) -> Write:
    return lambda folder: (folder / name).write_bytes(content)


def save(name: str, proto: onnx.ModelProto) -> Write:
    return put(name, proto.SerializeToString())


def arrays(name: str, **given: np.ndarray) -> Write:
    def write(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        np.savez(folder / name, **given)  # type: ignore[arg-type]

    return write


def make_folder(name: str) -> Write:
    return lambda folder: (folder / name).mkdir()


def picture(name: str) -> Write:
    def write(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (16, 16), (200, 30, len(name))).save(folder / name)

    return write


def link(name: str, target: str) -> Write:
    return lambda folder: (folder / name).symlink_to(target)


def external(location: str, **where: int) -> Write:
    """model.onnx with a weight at `location` ({here} is its folder); good weights lie inside and outside."""

    def write(folder: Path) -> None:
        proto = models.mlp()
        tensor = proto.graph.initializer[0]
        weights = tensor.raw_data
        external_data_helper.set_external_data(tensor, location.format(here=folder), **where)  # type: ignore[arg-type]
        tensor.ClearField("raw_data")
        (folder / "model.onnx").write_bytes(proto.SerializeToString())
        (folder / "inside.bin").write_bytes(weights)
        (folder.parent / "outside.bin").write_bytes(weights)

    return write


# --- models -----------------------------------------------------------------------------------------------


def one_node(operator: str, domain: str = "", opset: int = 17) -> onnx.ModelProto:
    node = helper.make_node(operator, ["x"], ["y"], domain=domain, name="odd")
    proto = models.model([node], {"x": ["N", 8]}, {"y": ["N", 8]}, opset=opset)
    if domain:
        proto.opset_import.append(helper.make_opsetid(domain, 1))
    return proto


def in_a_function(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    """A model whose only operator is a function of its own, from `a` to `b`."""
    proto = one_node("Own", "mine")
    opsets = [helper.make_opsetid("", 17)]
    proto.functions.append(helper.make_function("mine", "Own", ["a"], ["b"], list(nodes), opsets))
    return proto


def weights_inside_if() -> onnx.ModelProto:
    """Both branches of an If are a Gemm with weights of their own; outside there are none."""

    def branch(name: str, seed: int) -> onnx.GraphProto:
        weight = numpy_helper.from_array(models.random((4, 8), seed), f"w_{name}")
        gemm = helper.make_node("Gemm", ["x", f"w_{name}"], [f"y_{name}"], transB=1)
        result = helper.make_tensor_value_info(f"y_{name}", TensorProto.FLOAT, ["N", 4])
        return helper.make_graph([gemm], name, [], [result], [weight])

    return models.model(
        [
            helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
            helper.make_node("Greater", ["sum", "zero"], ["positive"]),
            helper.make_node("If", ["positive"], ["y"], then_branch=branch("a", 1), else_branch=branch("b", 2)),
        ],
        {"x": ["N", 8]},
        {"y": ["N", 4]},
        {"zero": np.array(0, np.float32)},
    )


def ill_fitting_weights() -> onnx.ModelProto:
    return models.model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": [2, 8]}, {"y": [2, 4]}, {"w": models.random((9, 4))}
    )


def used_before_it_is_made() -> onnx.ModelProto:
    return models.model([helper.make_node("Relu", ["nowhere"], ["y"])], {"x": ["N", 8]}, {"y": ["N", 8]})


MODEL = models.mlp().SerializeToString()
MODELS = {
    "no such file": Case(
        arguments="nope.onnx -o out", error=errors.NotAModel, words=("nope.onnx does not exist",), hint=".onnx"
    ),
    "a folder": Case(
        arguments="photos -o out",
        error=errors.NotAModel,
        words=("photos is a folder",),
        prepare=(make_folder("photos"),),
        quick=True,
    ),
    "a text file named .onnx": Case(
        arguments=FP32,
        error=errors.NotAModel,
        words=("model.onnx is not an ONNX model",),
        prepare=(put("model.onnx", b"version https://example.org/spec/v1\nsize 1234\n"),),
    ),
    "an empty file": Case(
        arguments=FP32,
        error=errors.NotAModel,
        words=("model.onnx is not an ONNX model",),
        prepare=(put("model.onnx", b""),),
        quick=True,
    ),
    "truncated": Case(
        arguments=FP32,
        error=errors.NotAModel,
        words=("model.onnx", "cut off"),
        prepare=(put("model.onnx", MODEL[: len(MODEL) // 2]),),
    ),
    "a pickle": Case(
        arguments="model.pt -o out",
        error=errors.NotAModel,
        words=("model.pt is a pickle",),
        hint="torch.export",
        prepare=(put("model.pt", pickle.dumps({"w": 1})),),
        quick=True,
    ),
    "no torch.export archive": Case(
        arguments="model.pt2 -o out",
        error=errors.NotAModel,
        words=("model.pt2 is not a torch.export archive",),
        prepare=(put("model.pt2", b"no archive"),),
        quick=True,
    ),
    "opset 6": Case(
        arguments=FP32,
        error=errors.NotAModel,
        words=("opset 6 is too old",),
        prepare=(save("model.onnx", one_node("Relu", opset=6)),),
        quick=True,
    ),
    "an invalid graph": Case(
        arguments=FP32,
        error=errors.NotAModel,
        words=("not a valid ONNX model", "nowhere"),
        prepare=(save("model.onnx", used_before_it_is_made()),),
        quick=True,
    ),
    "an unknown operator": Case(
        arguments=FP32,
        error=errors.UnsupportedOperator,
        words=("Frobnicate", "odd"),
        prepare=(save("model.onnx", one_node("Frobnicate")),),
    ),
    "an unknown domain": Case(
        arguments=FP32,
        error=errors.UnsupportedOperator,
        words=("acme.Spin",),
        prepare=(save("model.onnx", one_node("Spin", "acme")),),
        quick=True,
    ),
    "an unknown operator in a function": Case(
        arguments=FP32,
        error=errors.UnsupportedOperator,
        words=("Frobnicate",),
        prepare=(save("model.onnx", in_a_function(helper.make_node("Frobnicate", ["a"], ["b"]))),),
        quick=True,
    ),
    "weights only inside an If": Case(
        arguments=INT8,
        error=errors.UnsupportedOperator,
        words=("int8", "inside control flow"),
        hint="fp32",
        prepare=(save("model.onnx", weights_inside_if()),),
    ),
    "refused by the runtime": Case(
        arguments=FP32,
        error=errors.CleanupError,
        words=("ONNX Runtime refuses the model",),
        prepare=(save("model.onnx", ill_fitting_weights()),),
        quick=True,
    ),
    "weights missing": Case(
        arguments=FP32,
        error=errors.ExternalDataError,
        words=("gone.bin", "missing"),
        prepare=(external("gone.bin"),),
    ),
    "weights cut off": Case(
        arguments=FP32,
        error=errors.ExternalDataError,
        words=("inside.bin", "cut off"),
        prepare=(external("inside.bin", offset=64, length=512),),
        quick=True,
    ),
    "weights outside by ..": Case(
        arguments=FP32,
        error=errors.ExternalDataError,
        words=("outside", "../outside.bin"),
        prepare=(external("../outside.bin"),),
    ),
    "weights outside by an absolute path": Case(
        arguments=FP32,
        error=errors.ExternalDataError,
        words=("outside the model's folder",),
        prepare=(external("{here}/inside.bin"),),
    ),
    "weights outside by a link": Case(
        arguments=FP32,
        error=errors.ExternalDataError,
        words=("outside", "linked.bin"),
        prepare=(external("linked.bin"), link("linked.bin", "../outside.bin")),
    ),
    "weights outside by a linked folder": Case(
        arguments=FP32,
        error=errors.ExternalDataError,
        words=("outside", "linked/outside.bin"),
        prepare=(external("linked/outside.bin"), link("linked", "..")),
        quick=True,
    ),
}


@each(MODELS)
def test_a_bad_model_is_refused(assert_build_refused: Check, work: Path, case: Case) -> None:
    assert_build_refused(work, case)


def outside_from_a_function(folder: Path) -> None:
    tensor = helper.make_tensor("c", TensorProto.FLOAT, [8], bytes(32), raw=True)
    external_data_helper.set_external_data(tensor, "../outside.bin")
    tensor.ClearField("raw_data")
    (folder.parent / "outside.bin").write_bytes(bytes(32))
    constant = helper.make_node("Constant", [], ["c"], value=tensor)
    save("model.onnx", in_a_function(constant, helper.make_node("Add", ["a", "c"], ["b"])))(folder)


ODD_WEIGHTS: dict[str, tuple[Write, ...]] = {
    "a negative offset": (external("inside.bin", offset=-4, length=512),),
    "a negative length": (external("inside.bin", offset=0, length=-1),),
    "a NUL in the path": (external("in\0side.bin"),),
    "a path too long": (external("x" * 300),),
    "a function's, outside": (outside_from_a_function,),
}


@each(ODD_WEIGHTS, "prepare")
def test_odd_external_data_is_refused(work: Path, prepare: tuple[Write, ...]) -> None:
    for write in prepare:
        write(work)
    with pytest.raises(EdgepackError) as caught:
        inputs.load(work / "model.onnx")
    assert caught.value.exit_code in (errors.NotAModel.exit_code, errors.ExternalDataError.exit_code)
    assert caught.value.hint


def hard_link(folder: Path) -> None:
    os.link(folder / "inside.bin", folder / "twin.bin")


def model_is_a_link(folder: Path) -> None:
    """As model caches lay it out: the names are links, the files have other names elsewhere."""
    external("inside.bin")(folder)
    store = folder / "store"
    store.mkdir()
    for name in ("model.onnx", "inside.bin"):
        (folder / name).rename(store / name)
        (folder / name).symlink_to(Path("store") / name)


LINKED_WEIGHTS: dict[str, tuple[Write, ...]] = {
    "a link that stays inside": (external("linked.bin"), link("linked.bin", "inside.bin")),
    "a hard link": (external("inside.bin"), hard_link),
    "the model itself is a link": (model_is_a_link,),
}


@each(LINKED_WEIGHTS, "prepare")
def test_linked_weights_are_read_or_refused(work: Path, prepare: tuple[Write, ...]) -> None:
    for write in prepare:
        write(work)
    try:
        inputs.load(work / "model.onnx")
    except EdgepackError as error:
        assert isinstance(error, errors.ExternalDataError)
        assert error.hint


def test_a_model_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    for length in [*range(0, len(MODEL), 23), *range(len(MODEL) - 30, len(MODEL))]:
        path.write_bytes(MODEL[:length])
        with pytest.raises(errors.NotAModel):
            inputs.load(path)


def test_a_damaged_model_is_never_an_internal_error(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    whole = models.convnet(channels=2).SerializeToString()
    random = np.random.default_rng(0)
    escaped = []
    for _ in range(400):
        damaged = np.frombuffer(whole, np.uint8).copy()
        damaged[random.integers(0, len(whole), 3)] = random.integers(0, 256, 3)
        path.write_bytes(damaged.tobytes())
        try:
            inputs.load(path)
        except EdgepackError:
            continue
        except Exception as error:
            escaped.append(f"{type(error).__name__}: {str(error).strip().splitlines()[0]}")
    assert not escaped


# --- samples ----------------------------------------------------------------------------------------------

GOOD = models.random((40, 8), 1)
IMAGES = "photos.onnx -o out --precision int8 --data photos --preprocess scale=255"


def with_nan() -> np.ndarray:
    array = GOOD.copy()
    array[39, 3] = np.nan
    return array


def embedding() -> onnx.ModelProto:
    """Token numbers in, scores out."""
    return models.model(
        [helper.make_node("Gather", ["table", "ids"], ["e"]), helper.make_node("MatMul", ["e", "w"], ["y"])],
        {"ids": ["N", 5]},
        {"y": ["N", 5, 4]},
        {"table": models.random((30, 8)), "w": models.random((8, 4))},
        types={"ids": TensorProto.INT64},
    )


def any_size() -> onnx.ModelProto:
    return models.model(
        [helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[3, 3])],
        {"x": ["N", 3, "height", "width"]},
        {"y": ["N", 4, None, None]},
        {"w": models.random((4, 3, 3, 3))},
    )


SAMPLES = {
    "no such file": Case(
        arguments="model.onnx -o out --data nope.npz", error=errors.NoSamples, words=("nope.npz does not exist",)
    ),
    "an empty folder": Case(
        arguments="model.onnx -o out --data photos",
        error=errors.NoSamples,
        words=("photos holds no samples",),
        prepare=(make_folder("photos"),),
    ),
    "no samples in the .npz": Case(
        arguments=INT8,
        error=errors.NoSamples,
        words=("calib.npz",),
        prepare=(arrays("calib.npz", x=GOOD[:0]),),
        quick=True,
    ),
    "wrong names": Case(
        arguments=INT8,
        error=errors.SamplesError,
        words=("calib.npz lacks the input x",),
        hint="a, b",
        prepare=(arrays("calib.npz", a=GOOD, b=GOOD),),
    ),
    "a wrong shape": Case(
        arguments=INT8,
        error=errors.SamplesError,
        words=("x has shape 1×9", "N×8"),
        prepare=(arrays("calib.npz", x=models.random((40, 9))),),
    ),
    "too many axes": Case(
        arguments=INT8,
        error=errors.SamplesError,
        words=("x has 4 axes", "N×8"),
        prepare=(arrays("calib.npz", x=models.random((40, 1, 8, 1))),),
        quick=True,
    ),
    "a wrong type": Case(
        arguments=INT8,
        error=errors.SamplesError,
        words=("x is complex64", "float32"),
        prepare=(arrays("calib.npz", x=GOOD.astype(np.complex64)),),
    ),
    "floats for an integer input": Case(
        arguments=INT8,
        error=errors.SamplesError,
        words=("ids is float32", "int64"),
        prepare=(save("model.onnx", embedding()), arrays("calib.npz", ids=models.random((40, 5)))),
        quick=True,
    ),
    "NaN": Case(
        arguments=INT8,
        error=errors.SamplesError,
        words=("sample 39 of calib.npz", "NaN"),
        prepare=(arrays("calib.npz", x=with_nan()),),
        quick=True,
    ),
    "pickled objects": Case(
        arguments=INT8,
        error=errors.SamplesError,
        words=("calib.npz holds Python objects",),
        prepare=(arrays("calib.npz", x=np.array([{}, []], object)),),
        quick=True,
    ),
    "a damaged .npz": Case(
        arguments=INT8,
        error=errors.UnreadableSample,
        words=("calib.npz cannot be read",),
        prepare=(put("calib.npz", b"PK\x03\x04 and then nonsense"),),
        quick=True,
    ),
    "an unreadable image": Case(
        arguments=IMAGES,
        error=errors.UnreadableSample,
        words=("photos/broken.png", "image"),
        prepare=(
            save("photos.onnx", models.convnet()),
            picture("photos/good.png"),
            put("photos/broken.png", b"\x89PNG\r\n\x1a\n and then nonsense"),
        ),
    ),
    "images of a wrong size": Case(
        arguments=IMAGES,
        error=errors.SamplesError,
        words=("x has shape 1×3×16×16", "N×3×32×32"),
        hint="--preprocess",
        prepare=(save("photos.onnx", models.convnet(size=32)), picture("photos/good.png")),
        quick=True,
    ),
    "images without preprocessing": Case(
        arguments="photos.onnx -o out --data photos",
        error=errors.SamplesError,
        words=("photos holds images",),
        hint="--preprocess",
        prepare=(save("photos.onnx", models.convnet()), picture("photos/good.png")),
        quick=True,
    ),
    "calibrated and judged by the same": Case(
        arguments=f"{INT8} --eval eval.npz",
        error=errors.OverlapError,
        words=("sample 3 of eval.npz is sample 7 of calib.npz",),
        prepare=(arrays("eval.npz", x=np.concatenate([-GOOD[:3], GOOD[7:8], -GOOD[4:]])),),
        quick=True,
    ),
    "int8 without data": Case(
        arguments="model.onnx -o out --precision int8 --eval eval.npz",
        error=errors.DataNeeded,
        words=("int8 needs calibration samples",),
        hint="--data",
        quick=True,
    ),
    "open dimensions without data": Case(
        arguments=FP32,
        error=errors.ShapeNeeded,
        words=("N×3×height×width", "open dimension"),
        hint="--input-shape x=",
        prepare=(save("model.onnx", any_size()),),
        quick=True,
    ),
    "a label beyond the classes": Case(
        arguments=f"{INT8} --eval eval.npz",
        error=errors.LabelsError,
        words=("label 4 is out of range", "4 classes"),
        prepare=(arrays("eval.npz", x=-GOOD, y=np.arange(40) % 5),),
        quick=True,
    ),
    "a negative label": Case(
        arguments=f"{INT8} --eval eval.npz",
        error=errors.LabelsError,
        words=("label -1 is out of range",),
        prepare=(arrays("eval.npz", x=-GOOD, y=np.arange(40) % 5 - 1),),
        quick=True,
    ),
    "a label beyond the labels file": Case(
        arguments=f"{INT8} --eval eval.npz --labels names.txt",
        error=errors.LabelsError,
        words=("label 3 is out of range", "2 classes"),
        prepare=(put("names.txt", b"cat\ndog\n"),),
        quick=True,
    ),
    "as many labels as samples": Case(
        arguments=f"{INT8} --eval eval.npz",
        error=errors.LabelsError,
        words=("3 labels for 40 samples",),
        prepare=(arrays("eval.npz", x=-GOOD, y=np.arange(3)),),
        quick=True,
    ),
    "no such labels file": Case(
        arguments=f"{FP32} --labels nope.txt",
        error=errors.LabelsError,
        words=("nope.txt cannot be read",),
        quick=True,
    ),
}


@each(SAMPLES)
def test_bad_samples_are_refused(assert_build_refused: Check, work: Path, case: Case) -> None:
    assert_build_refused(work, case)


def cut_npz(folder: Path) -> None:
    path = folder / "calib.npz"
    path.write_bytes(path.read_bytes()[:700])


def scramble_npz(folder: Path) -> None:
    """Damage inside the compressed data, which the decompressor finds, not the archive's checksum."""
    np.savez_compressed(folder / "calib.npz", x=GOOD)
    scramble(folder / "calib.npz", 200)


def scramble(path: Path, start: int) -> None:
    content = bytearray(path.read_bytes())
    content[start : start + 64] = b"\xff" * 64
    path.write_bytes(content)


def rename_npy(folder: Path) -> None:
    np.save(folder / "calib.npy", GOOD)
    (folder / "calib.npy").rename(folder / "calib.npz")


DAMAGED_SAMPLES: dict[str, tuple[str, Write]] = {
    "cut off": ("calib.npz", cut_npz),
    "scrambled": ("calib.npz", scramble_npz),
    "empty": ("calib.npz", put("calib.npz", b"")),
    "text": ("calib.npz", put("calib.npz", b"x,y\n1,2\n")),
    "a .npy by another name": ("calib.npz", rename_npy),
    "text in a folder": (
        "sets",
        lambda folder: (make_folder("sets")(folder), put("sets/a.npy", b"1 2 3")(folder)),
    ),
    "a cut-off .npz in a folder": (
        "sets",
        lambda folder: (make_folder("sets")(folder), put("sets/a.npz", b"PK\x03\x04")(folder)),
    ),
}


@each(DAMAGED_SAMPLES, "damage")
def test_damaged_samples_are_called_unreadable(work: Path, damage: tuple[str, Write]) -> None:
    name, write = damage
    write(work)
    with pytest.raises(errors.UnreadableSample) as caught:
        reading.read(work / name, inputs.load(work / "model.onnx"))
    assert str(work / name) in caught.value.message
    assert caught.value.hint


# --- flags, devices, targets ------------------------------------------------------------------------------

JUDGED = "model.onnx -o out --precision fp32 --eval eval.npz"
ONE_BOX = json.dumps({
    "images": [{"id": 1}, {"id": 2}],
    "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}],
}).encode()  # fmt: skip


def reader() -> onnx.ModelProto:
    """Scores of five characters at seven steps."""
    return models.model([helper.make_node("Softmax", ["x"], ["y"])], {"x": ["N", 7, 5]}, {"y": ["N", 7, 5]})


FLAGS = {
    "an unknown device": Case(
        arguments=f"{FP32} --device rpi6",
        error=errors.UnknownDevice,
        words=("no device 'rpi6'",),
        hint="did you mean rpi5?",
    ),
    "a device that does not run the precision": Case(
        arguments=f"{INT8} --device rpi5 --target openvino",
        error=errors.UnfitDevice,
        words=("rpi5 does not run int8 with openvino",),
        hint="fp32, fp16",
    ),
    "a device that does not run the target": Case(
        arguments=f"{FP32} --device rpi4 --target openvino",
        error=errors.UnfitDevice,
        words=("rpi4", "does not run openvino"),
        hint="onnxruntime",
    ),
    "an unknown target": Case(
        arguments=f"{FP32} --target openvin",
        error=errors.UnknownTarget,
        words=("no target 'openvin'",),
        hint="did you mean openvino?",
        quick=True,
    ),
    "an unknown precision": Case(
        arguments="model.onnx -o out --precision int4",
        error=errors.UsageError,
        words=("no precision 'int4'",),
        hint="int8",
        quick=True,
    ),
    "a shape that is none": Case(
        arguments=f"{FP32} --input-shape x=1xtwo", error=errors.UsageError, words=("--input-shape x=1xtwo",)
    ),
    "a shape for an unknown input": Case(
        arguments=f"{FP32} --input-shape z=1x8",
        error=errors.ShapeNeeded,
        words=("no input 'z'",),
        hint="x",
        quick=True,
    ),
    "a shape that does not fit": Case(
        arguments=f"{FP32} --input-shape x=1x9",
        error=errors.ShapeNeeded,
        words=("1x9 does not fit", "N×8"),
        quick=True,
    ),
    "a shape beyond all memory": Case(
        arguments=f"{FP32} --input-shape x=99999999999x8",
        error=errors.ShapeNeeded,
        words=("99999999999",),
        quick=True,
    ),
    "an unknown preprocess key": Case(
        arguments=f"{INT8} --preprocess sise=28x28",
        error=errors.PreprocessError,
        words=("unknown preprocessing key 'sise'",),
        hint="did you mean size?",
        quick=True,
    ),
    "an unknown preprocess preset": Case(
        arguments=f"{INT8} --preprocess imagenett",
        error=errors.PreprocessError,
        words=("'imagenett'",),
        hint="did you mean imagenet?",
        quick=True,
    ),
    "a preprocess value that does not fit": Case(
        arguments=f"{INT8} --preprocess mean=1/2",
        error=errors.PreprocessError,
        words=("mean has 2 numbers",),
        quick=True,
    ),
    "preprocessing of nothing": Case(
        arguments=f"{FP32} --preprocess unit",
        error=errors.UsageError,
        words=("--preprocess",),
        hint="--data",
        quick=True,
    ),
    "a config with an unknown key": Case(
        arguments=f"{FP32} --config edge.yaml",
        error=errors.UsageError,
        words=("edge.yaml", "unknown key 'devise'"),
        hint="did you mean device?",
        prepare=(put("edge.yaml", b"devise: rpi5\n"),),
    ),
    "a config that is no YAML": Case(
        arguments=f"{FP32} --config edge.yaml",
        error=errors.UsageError,
        words=("edge.yaml cannot be read",),
        prepare=(put("edge.yaml", b": : :\n -"),),
        quick=True,
    ),
    "no such config": Case(
        arguments=f"{FP32} --config nope.yaml",
        error=errors.UsageError,
        words=("nope.yaml does not exist",),
        quick=True,
    ),
    "an unknown metric": Case(
        arguments=f"{JUDGED} --metric top2",
        error=errors.UsageError,
        words=("no metric 'top2'",),
        hint="did you mean top",
    ),
    "a metric of nothing": Case(
        arguments=f"{FP32} --metric top1",
        error=errors.UsageError,
        words=("--metric is about samples",),
        hint="--data or --eval",
        quick=True,
    ),
    "a metric without labels": Case(
        arguments=f"{JUDGED} --metric top1",
        error=errors.LabelsError,
        words=("--metric top1 needs labels, and eval.npz has none",),
        hint="y holds class numbers",
        prepare=(arrays("eval.npz", x=GOOD),),
        quick=True,
    ),
    "labels of another kind": Case(
        arguments=f"{JUDGED} --metric cer",
        error=errors.LabelsError,
        words=("eval.npz: y should be one text a sample, is int64",),
        hint="cer and wer are for text",
        quick=True,
    ),
    "text without a metric": Case(
        arguments=JUDGED,
        error=errors.LabelsError,
        words=("eval.npz: y should be one whole number a sample",),
        hint="--metric cer takes texts",
        prepare=(arrays("eval.npz", x=GOOD, y=np.array(["a"] * 40)),),
        quick=True,
    ),
    "outputs that do not fit the metric": Case(
        arguments=f"{JUDGED} --metric top5",
        error=errors.MetricError,
        words=("top5 of 4 classes is always right",),
        hint="top1",
        quick=True,
    ),
    "outputs that do not fit the decoding": Case(
        arguments=f"{JUDGED} --metric map50 --decode yolov8 --annotations boxes.json",
        error=errors.MetricError,
        words=("--decode yolov8 takes an output of 3 axes, and there is y 1×10",),
        hint="another decoding",
        prepare=(
            save("model.onnx", models.convnet()),
            arrays("eval.npz", x=models.images(2)),
            put("boxes.json", ONE_BOX),
        ),
        quick=True,
    ),
    "no decoding": Case(
        arguments=f"{JUDGED} --metric map50 --annotations boxes.json",
        error=errors.UsageError,
        words=("--metric map50 needs to know how the outputs are boxes",),
        hint="--decode yolov8",
        quick=True,
    ),
    "no annotations": Case(
        arguments=f"{JUDGED} --metric map50 --decode yolov8",
        error=errors.LabelsError,
        words=("--metric map50 needs boxes to judge by",),
        hint="--annotations",
        quick=True,
    ),
    "annotations that nothing judges": Case(
        arguments=f"{JUDGED} --metric top1 --annotations boxes.json",
        error=errors.UsageError,
        words=("--annotations gives boxes, and --metric top1 judges none",),
        hint="--metric map50",
        quick=True,
    ),
    "annotations that are none": Case(
        arguments=f"{JUDGED} --metric map --decode yolov8 --annotations boxes.json",
        error=errors.LabelsError,
        words=("boxes.json is no COCO file",),
        hint="images, annotations",
        prepare=(put("boxes.json", b"[1, 2]"),),
        quick=True,
    ),
    "a decoding that nothing reads": Case(
        arguments=f"{JUDGED} --decode yolov8",
        error=errors.UsageError,
        words=("--decode says how --metric reads the outputs",),
        hint="add --metric",
        quick=True,
    ),
    "an unknown key of a decoding": Case(
        arguments=f"{JUDGED} --metric map --decode yolov8,scor=0.1 --annotations boxes.json",
        error=errors.UsageError,
        words=("--decode yolov8: unknown key 'scor'",),
        hint="did you mean score?",
        quick=True,
    ),
    "no characters for a text": Case(
        arguments=f"{JUDGED} --metric cer --labels names.txt",
        error=errors.LabelsError,
        words=("2 characters do not fit the model's 5 classes",),
        hint="--labels",
        prepare=(
            save("model.onnx", reader()),
            arrays("eval.npz", x=models.random((4, 7, 5)), y=np.array(["a"] * 4)),
            put("names.txt", b"a\nb\n"),
        ),
        quick=True,
    ),
    "a function that is not there": Case(
        arguments=f"{JUDGED} --metric no_such_module_here:f",
        error=errors.MetricError,
        words=("--metric no_such_module_here:f: there is no module no_such_module_here here",),
        hint="no_such_module_here.py",
        quick=True,
    ),
    "a function that fails": Case(
        arguments=f"{JUDGED} --metric mine:f",
        error=errors.MetricError,
        words=("--metric mine:f fails: KeyError: 'logits'",),
        hint="function(outputs, labels)",
        prepare=(put("mine.py", b"def f(outputs, labels):\n    return outputs[0]['logits'].mean()\n"),),
    ),
    "no threads": Case(arguments=f"{FP32} --threads 0", error=errors.UsageError, words=("--threads",), quick=True),
}


@each(FLAGS)
def test_bad_flags_are_refused(assert_build_refused: Check, work: Path, case: Case) -> None:
    assert_build_refused(work, case)


@pytest.mark.parametrize("seconds", ["-1", "nan"])
@pytest.mark.parametrize("command", [f"build {FP32}", "bench out"])
def test_a_time_that_is_none_is_refused(here: Run, work: Path, command: str, seconds: str) -> None:
    assert_refused(here, work, f"{command} --seconds {seconds}", errors.UsageError, "--seconds")


def write_boards(path: Path, **changes: object) -> None:
    """A device file with one board, the rpi5 with some keys changed, or left out where the change is None."""
    board = yaml.safe_load(DEVICES.read_text(encoding="utf-8"))["boards"]["rpi5"]
    changed = {key: value for key, value in {**board, **changes}.items() if value is not None}
    path.write_text(yaml.safe_dump({"boards": {"rpi5": changed}}), encoding="utf-8")


BAD_KEYS: dict[str, tuple[str, object, str]] = {
    "unknown": ("core", 4, "unknown"),
    "missing": ("cores", None, "missing"),
    "of a wrong type": ("cores", "four", "'four'"),
    "not positive": ("memory_mb", 0, "positive"),
    "an unknown architecture": ("arch", "riscv", "'riscv'"),
    "an unknown feature": ("features", ["asimdp"], "'asimdp'"),
    "an unknown system": ("systems", ["jessie"], "'jessie'"),
    "an unknown precision": ("targets", {"onnxruntime": ["int4"]}, "'int4'"),
    "no targets": ("targets", {}, "empty"),
}


@each(BAD_KEYS, "bad")
def test_a_bad_key_in_a_device_file_is_named(tmp_path: Path, bad: tuple[str, object, str]) -> None:
    key, value, words = bad
    path = tmp_path / "boards.yaml"
    write_boards(path, **{key: value})
    with pytest.raises(errors.DeviceFileError) as caught:
        device.read(path)
    for word in (str(path), "board rpi5", f"key {key}", words):
        assert word in caught.value.message
    assert caught.value.hint


def test_an_unknown_key_in_a_device_file_comes_with_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "boards.yaml"
    write_boards(path, core=4)
    with pytest.raises(errors.DeviceFileError, match="did you mean cores"):
        device.read(path)


@pytest.mark.parametrize("text", ["", "- rpi5\n", "rpi5: [\n", "boards: 4\n", "boards: {rpi5: 4}\n", None])
def test_a_device_file_that_is_none_is_named(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "boards.yaml"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(errors.DeviceFileError, match=r"boards\.yaml") as caught:
        device.read(path)
    assert caught.value.hint


# --- a missing extra --------------------------------------------------------------------------------------

# Hides a module from the command line.
HIDDEN = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {module!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
from edgepack.cli import main
main()
"""


def run_code(code: str, folder: Path, command: str) -> Done:
    return subprocess.run(
        [sys.executable, "-c", code, *command.split()], capture_output=True, text=True, cwd=folder, timeout=300
    )


EXTRAS = {
    "openvino": ("openvino", f"build {FP32} --device intel-n100 --target openvino", "edgepack[openvino]"),
    "torch": ("torch", "build model.pt2 -o out", "edgepack[torch]"),
}


@each(EXTRAS, "extra")
def test_a_missing_extra_is_named(work: Path, extra: tuple[str, str, str]) -> None:
    module, command, install = extra
    shutil.copy(work / "calib.npz", work / "model.pt2")  # an archive, as .pt2 files are
    before = snapshot(work)
    done = run_code(HIDDEN.format(module=module), work, command)
    assert_refusal(done, errors.MissingExtra, f"{module} is not installed", hint=install)
    assert snapshot(work) == before


# --- the output path --------------------------------------------------------------------------------------

OUTPUTS = {
    "a folder": Case(
        arguments=FP32, error=errors.OutputExists, words=("out exists",), hint="--force", prepare=(make_folder("out"),)
    ),
    "a file": Case(
        arguments=FP32,
        error=errors.OutputExists,
        words=("out exists",),
        prepare=(put("out", b"precious"),),
        quick=True,
    ),
    "an archive": Case(
        arguments=FP32,
        error=errors.OutputExists,
        words=("out.tar.gz exists",),
        hint="--force",
        prepare=(put("out.tar.gz", b"precious"),),
        quick=True,
    ),
    "a file, by force": Case(
        arguments=FORCE,
        error=errors.OutputExists,
        words=("out", "no bundle"),
        prepare=(put("out", b"precious"),),
        quick=True,
    ),
    "a folder that is no bundle, by force": Case(
        arguments=FORCE,
        error=errors.OutputExists,
        words=("out exists and is no bundle",),
        prepare=(make_folder("out"), put("out/notes.txt", b"precious")),
    ),
    "a folder with somebody else's manifest.json, by force": Case(
        arguments=FORCE,
        error=errors.OutputExists,
        words=("out exists and is no bundle",),
        prepare=(
            make_folder("out"),
            put("out/manifest.json", b'{"manifest_version": 3, "name": "a browser extension"}'),
            put("out/background.js", b"precious"),
        ),
    ),
    "an archive that is no bundle, by force": Case(
        arguments=FORCE,
        error=errors.OutputExists,
        words=("out.tar.gz", "no bundle"),
        prepare=(put("out.tar.gz", b"precious"),),
    ),
    "a folder named like the archive, by force": Case(
        arguments=FORCE,
        error=errors.OutputExists,
        words=("out.tar.gz", "no bundle"),
        prepare=(make_folder("out.tar.gz"), put("out.tar.gz/notes.txt", b"precious")),
    ),
    "the folder we are in": Case(arguments="model.onnx -o .", error=errors.OutputExists, words=("exists",), quick=True),
    "below a file": Case(
        arguments="model.onnx -o calib.npz/out --precision fp32",
        error=errors.WriteFailed,
        words=("cannot write calib.npz/out",),
        quick=True,
    ),
    "where nothing can be written": Case(
        arguments="model.onnx -o /proc/nowhere/out --precision fp32",
        error=errors.WriteFailed,
        words=("cannot write /proc/nowhere/out",),
        quick=True,
    ),
    "a name too long": Case(
        arguments=f"model.onnx -o {'x' * 300} --precision fp32",
        error=errors.WriteFailed,
        words=("cannot write xxx",),
        quick=True,
    ),
    "new folders on the way": Case(
        arguments="model.onnx -o new/out --precision int8 --data calib.npz",
        error=errors.UnsupportedOperator,
        words=("inside control flow",),
        prepare=(save("model.onnx", weights_inside_if()),),
        quick=True,
    ),
}


@each(OUTPUTS)
def test_what_is_at_the_output_path_stays(assert_build_refused: Check, work: Path, case: Case) -> None:
    assert_build_refused(work, case)


def test_the_demo_replaces_no_bundle_of_the_users(cli: Run, work: Path, built: Path) -> None:
    shutil.copytree(built, work / "out")
    # A target that does not exist: the demo is not run to its end where it fails to refuse.
    assert_refused(cli, work, "demo -o out --target nonsense", errors.OutputExists, "out exists")


# --- bundles ----------------------------------------------------------------------------------------------


BUILT = ("--precision", "fp32", "--data", "pixels.npz", "--preprocess", "scale=255", "--seconds", "0.1")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, cli: Run) -> Path:
    """A bundle with every kind of file, its archive beside it. Not to be changed."""
    folder = tmp_path_factory.mktemp("built")
    onnx.save(models.convnet(), folder / "model.onnx")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), np.uint8)
    np.savez(folder / "pixels.npz", x=pixels)
    done = cli("build", "model.onnx", "-o", "out", *BUILT, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "out"


@pytest.fixture
def copied(built: Path, tmp_path: Path) -> Path:
    """A copy of the bundle, its archive beside it, alone in a folder."""
    folder = tmp_path / "bundles"
    folder.mkdir()
    shutil.copytree(built, folder / "out")
    shutil.copy(bundle.archive_path(built), folder)
    return folder / "out"


def harness(folder: Path, *arguments: str) -> Done:
    """Run a bundle's harness as on the device: without edgepack."""
    command = [sys.executable, "-B", str(folder / "harness.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder.parent, timeout=300)


def flip(name: str, after: bytes | None = None) -> Write:
    """Change one byte of a file: the first one after `after`, or the middle one."""

    def write(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        place = len(content) // 2 if after is None else content.index(after) + len(after)
        content[place] ^= 1
        (folder / name).write_bytes(content)

    return write


def remove(name: str) -> Write:
    return lambda folder: (folder / name).unlink()


def truncate(name: str) -> Write:
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size // 2)


def newer_format(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    put("manifest.json", json.dumps({**manifest, "format": 99}).encode())(folder)


def forget_golden(folder: Path) -> None:
    """The golden inputs are gone, and nothing says they were ever there."""
    sums = (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines(keepends=True)
    put("SHA256SUMS", "".join(line for line in sums if "golden/inputs.npz" not in line).encode())(folder)
    remove("golden/inputs.npz")(folder)


TAMPERED: dict[str, tuple[Write, str]] = {
    "a byte of the model": (flip("model/model.onnx"), "model/model.onnx has been altered"),
    "a byte of a golden file": (flip("golden/expected.npz"), "golden/expected.npz has been altered"),
    "a byte of the harness": (flip("harness.py", b'"""'), "harness.py has been altered"),
    "a byte of the device's code": (
        flip("edgepack_device/files.py", b'"""'),
        "edgepack_device/files.py has been altered",
    ),
    "a byte of the runner": (flip("runner.py"), "runner.py has been altered"),
    "a byte of the preprocessing": (flip("preprocess.py"), "preprocess.py has been altered"),
    "a byte of the requirements": (flip("requirements.txt"), "requirements.txt has been altered"),
    "a byte of a checksum": (flip("SHA256SUMS", b""), "has been altered"),
    "a byte of the manifest": (flip("manifest.json", b'"created": "20'), "manifest.json has been altered"),
    "a byte of the manifest's target": (flip("manifest.json", b'"target": "on'), "manifest.json has been altered"),
    "the manifest cut off": (truncate("manifest.json"), "manifest.json"),
    "the manifest emptied": (put("manifest.json", b'{"format": 1}'), "manifest.json"),
    "a newer format": (newer_format, "format 99"),
    "no manifest": (remove("manifest.json"), "manifest.json is missing"),
    "none of the device's code": (remove("edgepack_device/timing.py"), "edgepack_device/timing.py is missing"),
    "no model": (remove("model/model.onnx"), "model/model.onnx is missing"),
    "no checksums": (remove("SHA256SUMS"), "SHA256SUMS"),
    "no golden file": (remove("golden/reference.npz"), "golden/reference.npz is missing"),
    "a golden file forgotten": (forget_golden, "golden/inputs.npz"),
    "numpy.py added": (put("numpy.py", b"raise SystemExit(0)\n"), "numpy.py does not belong"),
    "json.py added": (put("json.py", b"raise SystemExit(0)\n"), "json.py does not belong"),
}


@each(TAMPERED, "tampering")
@pytest.mark.parametrize("command", ["check", "harness"])
def test_a_tampered_bundle_is_refused(here: Run, copied: Path, tampering: tuple[Write, str], command: str) -> None:
    change, words = tampering
    change(copied)
    before = snapshot(copied.parent)
    done = here("check", "out", cwd=copied.parent) if command == "check" else harness(copied, "check")
    assert_refusal(done, errors.BrokenBundle, words)
    assert snapshot(copied.parent) == before


BENCHED = ("a byte of the model", "the manifest cut off", "no golden file", "numpy.py added")


@pytest.mark.parametrize("name", BENCHED)
def test_a_tampered_bundle_is_not_timed(cli: Run, copied: Path, name: str) -> None:
    change, words = TAMPERED[name]
    change(copied)
    assert_refused(cli, copied.parent, "bench out --seconds 0.1", errors.BrokenBundle, words)


def test_a_bundle_is_not_timed_beside_another_original(cli: Run, copied: Path) -> None:
    weights = onnx.load(copied / "baseline" / "original.onnx").graph.initializer[0].raw_data
    flip("baseline/original.onnx", weights[:16])(copied)
    assert_refused(cli, copied.parent, "bench out --seconds 0.1", errors.BrokenBundle, "baseline/original.onnx")


@pytest.mark.parametrize("command", ["check", "bench"])
def test_an_altered_harness_does_not_vouch_for_itself(here: Run, copied: Path, command: str) -> None:
    put("harness.py", b'print(\'{"ok": true, "samples": 8, "outputs": {}, "models": {}}\')\n')(copied)
    assert_refused(here, copied.parent, f"{command} out", errors.BrokenBundle, "harness.py has been altered")


def test_a_harness_without_its_bundle_says_so(copied: Path) -> None:
    alone = copied.parent / "alone"
    alone.mkdir()
    shutil.copy(copied / "harness.py", alone)
    assert_refusal(harness(alone, "bench"), errors.BrokenBundle, "bundle")


@pytest.mark.parametrize("command", ["check", "bench", "inspect"])
def test_what_is_no_bundle_is_refused(cli: Run, work: Path, command: str) -> None:
    make_folder("photos")(work)
    assert_refused(cli, work, f"{command} photos", errors.BrokenBundle, "photos is no bundle")


def test_a_manifest_with_nothing_in_it_is_not_inspected(here: Run, copied: Path) -> None:
    put("manifest.json", b'{"format": 1}')(copied)
    assert_refused(here, copied.parent, "inspect out", errors.BrokenBundle, "manifest.json")


ARCHIVES: dict[str, Write] = {
    "cut off": truncate("out.tar.gz"),
    "no archive": put("out.tar.gz", b"nothing of the kind"),
    "empty": put("out.tar.gz", b""),
    "gone": remove("out.tar.gz"),
}


@each(ARCHIVES, "damage")
def test_a_damaged_archive_is_refused(here: Run, copied: Path, damage: Write) -> None:
    damage(copied.parent)
    assert_refused(here, copied.parent, "check out.tar.gz", errors.BrokenBundle, "out.tar.gz")


def test_an_archive_damaged_anywhere_is_refused(copied: Path) -> None:
    path = bundle.archive_path(copied)
    whole = path.read_bytes()
    for tenth in range(1, 10):
        path.write_bytes(whole)
        scramble(path, len(whole) * tenth // 10)
        with pytest.raises(errors.BrokenBundle):
            edgepack.check(path)


DEVICE_INPUTS: dict[str, tuple[str, Write]] = {
    "an unreadable image": ("in.png", put("in.png", b"no picture")),
    "no such file": ("in.npz", lambda folder: None),
    "a damaged .npz": ("in.npz", put("in.npz", b"PK\x03\x04")),
    "wrong names": ("in.npz", arrays("in.npz", q=models.random((1, 3, 16, 16)))),
    "a wrong shape": ("in.npz", arrays("in.npz", x=models.random((1, 3, 1, 16)))),
    "a wrong type": ("in.npz", arrays("in.npz", x=np.array(["a", "b"]))),
}


@each(DEVICE_INPUTS, "given")
def test_the_harness_refuses_a_bad_input(copied: Path, given: tuple[str, Write]) -> None:
    name, write = given
    write(copied.parent)
    assert_refusal(harness(copied, "run", name), errors.UnreadableSample, name)


# --- a full disk ------------------------------------------------------------------------------------------

ON_A_TINY_DISK = """
mount -t tmpfs -o size=$1 none "$2" || exit 99
if test -n "$4"; then cp -a "$4" "$2/out"; fi
find "$2" -type f -exec sha256sum {} + | sort > "$3/before"
left=$3; disk=$2; shift 4
"$@"
code=$?
find "$disk" -type f -exec sha256sum {} + | sort > "$left/after"
find "$disk" -mindepth 1 -maxdepth 1 > "$left/entries"
exit $code
"""


UNSHARE = ("unshare", "--user", "--map-root-user", "--mount")
PAGE = 4096


def disk_space(folder: Path) -> int:
    """What a folder's files need on a tmpfs: whole pages."""
    return sum(-(-path.stat().st_size // PAGE) * PAGE for path in folder.rglob("*") if path.is_file())


@dataclass(frozen=True, kw_only=True)
class TinyDisk:
    """Runs edgepack with a file system of a few kilobytes at `path`, which nobody else sees."""

    path: Path
    left: Path

    def run(self, size: int, cwd: Path, *command: object, holding: Path | None = None, temporary: bool = False) -> Done:
        """`holding` is a bundle that is there before; `temporary` has temporary files go there."""
        shell = ["sh", "-c", ON_A_TINY_DISK, "sh", str(size), str(self.path), str(self.left), str(holding or "")]
        environment = ["env", f"TMPDIR={self.path}"] if temporary else []
        edgepack = [*environment, sys.executable, "-m", "edgepack", *map(str, command)]
        return subprocess.run([*UNSHARE, *shell, *edgepack], capture_output=True, text=True, cwd=cwd, timeout=300)

    def build(self, size: int, built: Path, *flags: str, holding: Path | None = None) -> Done:
        return self.run(size, built.parent, "build", "model.onnx", "-o", self.path / "out", *flags, holding=holding)

    def listing(self, name: str) -> list[str]:
        return (self.left / name).read_text(encoding="utf-8").splitlines()


@pytest.fixture
def tiny_disk(tmp_path: Path) -> TinyDisk:
    disk = TinyDisk(path=tmp_path / "disk", left=tmp_path / "left")
    disk.path.mkdir()
    disk.left.mkdir()
    probe = [*UNSHARE, "mount", "-t", "tmpfs", "-o", "size=8k", "none", str(disk.path)]
    if shutil.which("unshare") is None or subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("no user namespaces here, so no disk of our own to fill")
    return disk


# Percent of what the bundle needs: from the first file that does not fit to the archive, the last.
@pytest.mark.parametrize("share", [2, 30, 70, 100])
def test_a_full_disk_is_named(tiny_disk: TinyDisk, built: Path, share: int) -> None:
    done = tiny_disk.build(disk_space(built) * share // 100, built, *BUILT)
    assert_refusal(done, errors.WriteFailed, "no space left", str(tiny_disk.path / "out"))
    assert tiny_disk.listing("entries") == []


def test_a_full_disk_is_named_when_the_runtime_writes_the_model(tiny_disk: TinyDisk, built: Path) -> None:
    pytest.importorskip("openvino")
    size = disk_space(built / "model") + PAGE
    done = tiny_disk.build(size, built, "--precision", "fp32", "--target", "openvino", "--device", "intel-n100")
    assert_refusal(done, errors.WriteFailed, "no space left")
    assert tiny_disk.listing("entries") == []


def test_a_full_disk_leaves_the_old_bundle(tiny_disk: TinyDisk, built: Path) -> None:
    done = tiny_disk.build(disk_space(built) * 3 // 2, built, *BUILT, "--force", holding=built)
    assert_refusal(done, errors.WriteFailed, "no space left")
    assert tiny_disk.listing("before")
    assert tiny_disk.listing("after") == tiny_disk.listing("before")
    assert tiny_disk.listing("entries") == [str(tiny_disk.path / "out")]


def test_a_full_scratch_disk_is_not_a_damaged_archive(tiny_disk: TinyDisk, built: Path) -> None:
    done = tiny_disk.run(disk_space(built) // 4, built.parent, "check", "out.tar.gz", temporary=True)
    assert_refusal(done, errors.WriteFailed, "no space left")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_full_disk_behind_stdout_is_named(work: Path, flags: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "edgepack", "inspect", "model.onnx", *flags]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=work, timeout=300)
    done.stdout = ""
    assert_refusal(done, errors.WriteFailed, "no space left")


# --- Ctrl-C and kill --------------------------------------------------------------------------------------

DEMO = (
    f"build {demo.MODEL} -o out --precision int8 --data {demo.CALIBRATION} --preprocess {demo.PREPROCESS} --seconds 60"
)


# The signal comes while the command's modules are imported.
INTERRUPTED_IMPORT = """
import signal, sys
class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == "edgepack.building.pipeline":
            signal.raise_signal(signal.{number})
sys.meta_path.insert(0, Interrupts())
from edgepack.cli import main
main()
"""
# One Ctrl-C while the bundle is written, the next before the unfinished one is removed.
INTERRUPTED_TWICE = """
import shutil, signal
from edgepack.bundles import bundle
from edgepack import cli
remove = shutil.rmtree
def interrupt_and_remove(path, *arguments, **options):
    if str(path).endswith(".partial"):
        signal.raise_signal(signal.SIGINT)
    remove(path, *arguments, **options)
shutil.rmtree = interrupt_and_remove
bundle.write_payload = lambda *arguments: signal.raise_signal(signal.SIGINT)
cli.main()
"""


def has_begun(folder: Path) -> bool:
    return any(folder.glob(".out.*.partial/out"))


def is_timed(folder: Path) -> bool:
    """The harness and its workers run."""
    return any("_worker" in command for command in processes_in(folder))


def processes_in(folder: Path) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == folder:
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return found


def gone_within(seconds: float, folder: Path) -> bool:
    end = time.monotonic() + seconds
    while processes_in(folder) and time.monotonic() < end:
        time.sleep(0.05)
    return not processes_in(folder)


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Send `number` once `when(folder)` holds; to the whole group, as a terminal does, or to the one process."""

    number: signal.Signals
    when: Callable[[Path], bool]
    group: bool = False

    def run(self, folder: Path, command: str) -> Done:
        arguments = [sys.executable, "-m", "edgepack", *command.split()]
        process = subprocess.Popen(
            arguments, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            while not self.when(folder):
                assert process.poll() is None, process.communicate()
                time.sleep(0.01)
            (os.killpg if self.group else os.kill)(process.pid, self.number)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
            process.wait()
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)


STOPS = {
    "Ctrl-C while it calibrates": Stop(number=signal.SIGINT, when=has_begun, group=True),
    "kill while it calibrates": Stop(number=signal.SIGTERM, when=has_begun),
    "Ctrl-C while it times": Stop(number=signal.SIGINT, when=is_timed, group=True),
    "kill while it times": Stop(number=signal.SIGTERM, when=is_timed),
}


@each(STOPS, "stop")
def test_an_interrupted_build_leaves_nothing(work: Path, stop: Stop) -> None:
    before = snapshot(work)
    done = stop.run(work, DEMO)
    assert_refusal(done, errors.Interrupted, "interrupted")
    assert snapshot(work) == before
    assert gone_within(10, work), processes_in(work)


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_an_interrupt_before_the_work_begins_is_no_different(work: Path, number: str) -> None:
    before = snapshot(work)
    done = run_code(INTERRUPTED_IMPORT.format(number=number), work, f"build {FP32}")
    assert_refusal(done, errors.Interrupted, "interrupted")
    assert snapshot(work) == before


def test_a_second_ctrl_c_does_not_stop_the_cleaning_up(work: Path) -> None:
    before = snapshot(work)
    done = run_code(INTERRUPTED_TWICE, work, f"build {FP32}")
    assert_refusal(done, errors.Interrupted, "interrupted")
    assert snapshot(work) == before


def test_an_interrupted_replacement_leaves_the_old_bundle(copied: Path) -> None:
    before = snapshot(copied.parent)
    done = Stop(number=signal.SIGINT, when=is_timed, group=True).run(copied.parent, f"{DEMO} --force")
    assert_refusal(done, errors.Interrupted, "interrupted")
    assert snapshot(copied.parent) == before


def test_a_failed_replacement_leaves_the_old_bundle(cli: Run, copied: Path) -> None:
    folder = copied.parent
    save("model.onnx", weights_inside_if())(folder)
    arrays("calib.npz", x=GOOD)(folder)
    assert_refused(cli, folder, f"build {INT8} --force", errors.UnsupportedOperator, "inside control flow")


@pytest.fixture
def interrupted_rename(monkeypatch: pytest.MonkeyPatch, copied: Path) -> Iterator[None]:
    """The first rename onto the bundle's place is interrupted before it happens."""
    rename, waiting = Path.rename, [True]

    def interrupted(self: Path, target: Path) -> Path:
        if Path(target) == copied and waiting:
            waiting.clear()
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    yield
    assert not waiting


@pytest.mark.usefixtures("interrupted_rename")
def test_an_interrupt_between_the_renames_leaves_the_old_bundle(copied: Path) -> None:
    before = snapshot(copied.parent)
    with pytest.raises(KeyboardInterrupt), bundle.atomic_folder(copied) as folder:
        (folder / "manifest.json").write_text("{}", encoding="utf-8")
    assert snapshot(copied.parent) == before
