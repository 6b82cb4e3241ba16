"""The parts of TensorRT's board side that need no board: command lines, versions, the reader of ONNX files, memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgepack import _root, demo
from tests import models
from tests.jetson import NAMES, Jetson, declared, tensorrt_json

sys.path.insert(0, str(_root.TARGETS / "tensorrt" / "bundle"))
from edgepack_tensorrt import board, cuda_memory, engines, trtexec
from edgepack_tensorrt.errors import BoardError
from edgepack_tensorrt.installed import Installed, version_of
from edgepack_tensorrt.model_file import ModelFile, digest, open_inputs
from edgepack_tensorrt.settings import check_profile, read

JOB: dict[str, Any] = {
    "model": "m.onnx", "output": "m.engine", "timing": "m.cache", "precision": "int8", "half": True, "quantized": True,
    "sparse": True, "workspace": 512 * 2**20,
    "profile": {"ids": {"min": [1, 16], "opt": [1, 64], "max": [1, 128]}}, "fp32_layers": [],
}  # fmt: skip

# --- command lines --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("8.2.1", "--workspace=512 --fp16 --int8 --buildOnly"),
        ("8.5.2", "--memPoolSize=workspace:512 --fp16 --int8 --buildOnly"),
        ("8.6.2", "--memPoolSize=workspace:512 --fp16 --int8 --skipInference"),
        ("10.3.0", "--memPoolSize=workspace:512 --stronglyTyped --skipInference"),
        ("11.4.1", "--memPoolSize=workspace:512 --skipInference"),
    ],
)
def test_the_command_that_builds(version: str, words: str) -> None:
    command = trtexec.build_command(Installed(version, "trtexec"), JOB)
    flags = [part for part in command if part.split("=")[0].lstrip("-") in words.replace("--", "").replace("=", " ")]
    assert flags == words.split()
    assert {"--sparsity=enable", "--noTF32", "--timingCacheFile=m.cache"} < set(command)
    assert [part for part in command if "Shapes" in part] == [
        "--minShapes=ids:1x16", "--optShapes=ids:1x64", "--maxShapes=ids:1x128",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("version", "asked"), [("8.2.1", False), ("8.5.2", True), ("8.6.2", True), ("10.3.0", False), ("11.4.1", False)]
)
def test_layers_that_should_stay_wide(version: str, asked: bool) -> None:
    """From 10 on the graph's own types say so."""
    job = {**JOB, "fp32_layers": ["/head/Softmax", "norm", "odd:name"]}
    command = trtexec.build_command(Installed(version, "trtexec"), job)
    assert ("--precisionConstraints=prefer" in command) is asked
    assert ("--layerPrecisions=/head/Softmax:fp32,norm:fp32" in command) is asked


@pytest.mark.parametrize("version", NAMES)
def test_every_flag_is_declared_by_that_version(version: str) -> None:
    installed, known = Installed(version, "trtexec"), set(declared(version)["trtexec"])
    commands = [
        trtexec.build_command(installed, {**JOB, "fp32_layers": ["norm"]}),
        trtexec.run_command(installed, "e", {"x": "f"}, {"x": (1, 2)}, output="o"),
        trtexec.run_command(installed, "e", {"x": "f"}, {}, times="t", seconds=1),
    ]
    for command in commands:
        assert {part.split("=")[0][2:] for part in command[1:]} <= known


def test_the_lists_of_names_tell_the_versions_apart() -> None:
    """A list that held everything would let everything pass."""
    flags = {version: set(declared(version)["trtexec"]) for version in NAMES}
    assert "buildOnly" in flags["8.5.2"] and "skipInference" not in flags["8.5.2"]
    assert "buildOnly" not in flags["10.3.0"] and "stronglyTyped" in flags["10.3.0"] - flags["8.5.2"]
    assert not {"fp16", "int8", "best", "calib"} & flags["11.4.1"]
    assert "FP16" not in declared("11.4.1")["BuilderFlag"] and "IProgressMonitor" not in declared("8.5.2")


def test_names_that_trtexec_splits_at() -> None:
    new, old = Installed("10.3.0", "trtexec"), Installed("8.5.2", "trtexec")
    assert trtexec.called(new, "input:0") == "'input:0'" and trtexec.called(old, "input") == "input"
    for installed, name in ((old, "input:0"), (new, "a,b")):
        with pytest.raises(BoardError, match="does not take an input called"):
            trtexec.called(installed, name)


@pytest.mark.parametrize(
    ("banner", "version"),
    [("v8201", "8.2.1"), ("v8502", "8.5.2"), ("v100300", "10.3.0"), ("v101303", "10.13.3"), ("v110401", "11.4.1")],
)
def test_the_version_that_trtexec_says(banner: str, version: str, tmp_path: Path) -> None:
    program = tmp_path / "trtexec"
    program.write_text(f"#!/bin/sh\necho '&&&& RUNNING TensorRT.trtexec [TensorRT {banner}] # trtexec --help'\n")
    program.chmod(0o755)
    assert version_of(str(program)) == version


def test_a_program_that_says_no_version_is_none(tmp_path: Path) -> None:
    program = tmp_path / "trtexec"
    program.write_text("#!/bin/sh\necho usage\n")
    program.chmod(0o755)
    assert version_of(str(program)) is None and version_of(str(tmp_path / "missing")) is None


def test_outputs_that_are_no_numbers(tmp_path: Path) -> None:
    """What a C++ stream writes for them is no JSON."""
    path = tmp_path / "model.onnx"
    onnx.save(models.model([helper.make_node("Identity", ["x"], ["y"])], {"x": [4]}, {"y": [4]}), path)
    (tmp_path / "out.json").write_text(
        '[\n { "name" : "y"\n, "dimensions" : "4"\n, "values" : [ nan, -inf, inf, 1e-05 ] } ]'
    )
    run = trtexec.Model(Installed("10.3.0", "trtexec"), "", ModelFile(str(path)), None)
    np.testing.assert_array_equal(
        run._answers(str(tmp_path / "out.json"))["y"], np.float32([np.nan, -np.inf, np.inf, 1e-5])
    )


def test_a_model_with_states_is_timed_with_them() -> None:
    """A runtime that times itself gets whole feeds, states included."""
    sys.path.insert(0, str(_root.TARGETS / "device"))
    from edgepack_device.state import Stateful

    class Run:
        def __call__(self, feeds: Any) -> Any:
            return {"y": feeds["x"], "hn": feeds["h"] + 1}

        def timed(self, feeds: Any, seconds: float) -> list[float]:
            return [float(feeds["h"].sum()), seconds]

    states = [{"input": "h", "output": "hn", "dtype": "float32", "shape": [1, 2]}]
    model = Stateful(Run(), states, [{"name": "x", "shape": [1, 3]}])
    feed = {"x": np.zeros((1, 3), np.float32)}
    assert model.timed(feed, 0.5) == [0.0, 0.5]
    model(feed)
    assert model.timed(feed, 0.5) == [2.0, 0.5]
    assert not hasattr(Stateful(lambda feeds: feeds, states, []), "timed")


# --- the reader of ONNX files ---------------------------------------------------------------------------------


def every_model() -> Iterator[onnx.ModelProto]:
    yield models.convnet()
    yield models.mlp(features=8, classes=4)
    yield onnx.load(demo.MODEL)
    scalar = models.model([helper.make_node("Identity", ["x"], ["y"])], {"x": []}, {"y": []})
    yield scalar
    named = models.model(
        [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.INT64)], {"x": ["N", None, 3]}, {"y": ["N", None, 3]}
    )
    named.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    yield named
    negative = models.mlp(features=8, classes=4)  # as PaddlePaddle's exporter writes an open batch
    negative.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    yield negative


def test_what_it_reads_is_what_onnx_reads(tmp_path: Path) -> None:
    for index, proto in enumerate(every_model()):
        path = tmp_path / f"{index}.onnx"
        onnx.save(proto, path)
        found = ModelFile(str(path))
        weights = {tensor.name for tensor in proto.graph.initializer}
        for entries, values in ((found.inputs, proto.graph.input), (found.outputs, proto.graph.output)):
            assert entries == {
                value.name: (
                    str(np.dtype(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))),
                    tuple(dim.dim_value if dim.dim_value > 0 else None for dim in value.type.tensor_type.shape.dim),
                )
                for value in values
                if value.name not in weights
            }
        assert not found.half and not found.quantized


def test_it_sees_fp16_and_qdq(tmp_path: Path) -> None:
    from tests.test_tensorrt_board import half_inside, quantized

    onnx.save(half_inside(), tmp_path / "half.onnx")
    onnx.save(quantized(), tmp_path / "int8.onnx")
    assert ModelFile(str(tmp_path / "half.onnx")).half and not ModelFile(str(tmp_path / "half.onnx")).quantized
    assert ModelFile(str(tmp_path / "int8.onnx")).quantized and not ModelFile(str(tmp_path / "int8.onnx")).half
    assert open_inputs(ModelFile(str(tmp_path / "half.onnx")).inputs) == ["x"]


@pytest.mark.parametrize("cut", [0, 1, 7, 200, -5])
def test_half_a_model_is_refused(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(models.convnet().SerializeToString()[:cut])
    with pytest.raises(BoardError, match="cannot be read"):
        ModelFile(str(path))


def test_noise_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    for seed in range(30):
        path.write_bytes(np.random.default_rng(seed).bytes(300))
        with pytest.raises(BoardError):
            ModelFile(str(path))


def test_weights_beside_the_file_count(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(models.convnet(), path, save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    before = digest(str(path))
    data = tmp_path / "model.onnx.data"
    data.write_bytes(data.read_bytes()[:-4] + b"\1\2\3\4")
    assert digest(str(path)) != before


# --- settings, the board, engines -----------------------------------------------------------------------------


def test_a_float_original_has_the_ranges_of_its_bundle(tmp_path: Path) -> None:
    import json

    for name in ("model", "baseline"):
        (tmp_path / name).mkdir()
    ranges = {"x": {"min": [1, 8], "opt": [1, 8], "max": [4, 8]}}
    settings = tensorrt_json("10.3.0", precision="int8", sparse=True, profile=ranges)
    (tmp_path / "model" / "tensorrt.json").write_text(json.dumps(settings))
    found = read(str(tmp_path / "baseline" / "original.onnx"))
    assert (found.precision, found.sparse, found.profile) == ("fp32", False, ranges)
    assert engines.folder_for(str(tmp_path / "model" / "model.onnx")) == str(tmp_path / "engines")
    assert read(str(tmp_path / "other" / "place" / "model.onnx")).profile == {}


@pytest.mark.parametrize(
    "ranges",
    [
        {"min": [1], "opt": [1, 8], "max": [4, 8]},
        {"min": [1, 7], "opt": [1, 8], "max": [4, 8]},
        {"min": [2, 8], "opt": [1, 8], "max": [4, 8]},
    ],
)
def test_ranges_that_do_not_fit_are_refused(ranges: dict[str, list[int]], tmp_path: Path) -> None:
    onnx.save(models.mlp(features=8, classes=4), tmp_path / "model.onnx")
    file = ModelFile(str(tmp_path / "model.onnx"))
    settings = read(str(tmp_path / "model.onnx"))
    settings.profile = {"x": ranges}
    with pytest.raises(BoardError, match="range of the input x"):
        check_profile(file, settings)


@pytest.mark.parametrize(
    ("release", "system"),
    [("35.4.1", "jp5.1"), ("36.3.0", "jp6.0"), ("36.4.0", "jp6.2"), ("36.4.7", "jp6.2"), ("36.5.0", "jp6.2"),
     ("38.2.0", "jp7.0"), ("39.1.0", "jp7.2"), ("32.7.4", "jp4.6"), ("40.0", None), (None, None)],
)  # fmt: skip
def test_the_systems_of_l4t_releases(release: str | None, system: str | None) -> None:
    from edgepack import device

    assert board.system(release) == system
    assert system is None or system in {name for known in device.read().values() for name in known.systems}


def test_a_release_is_what_was_wanted_as_far_as_that_says() -> None:
    assert board.within("36.4.3", "36.4") and board.within("36.4", "36.4") and not board.within("36.40", "36.4")


# --- memory on the GPU ----------------------------------------------------------------------------------------

CUDA_PYTHON = """
import ctypes
class cudaMemcpyKind:
    cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost = 1, 2
held = {}
def cudaStreamCreate(): return 0, 7
def cudaMalloc(size):
    held[0] = ctypes.create_string_buffer(size)
    return 0, ctypes.addressof(held[0])
def cudaFree(pointer): return (0,)
def cudaMemcpyAsync(to, source, count, kind, stream):
    ctypes.memmove(to, source, count)
    return (0,)
def cudaStreamSynchronize(stream): return (0,)
"""
ROUND_TRIP = """
import sys, numpy
from edgepack_tensorrt.cuda_memory import device_memory
memory = device_memory()
sent, got = numpy.arange(12, dtype="float32"), numpy.empty(12, "float32")
place = memory.allocate(sent.nbytes)
memory.to_device(place, sent); memory.to_host(got, place); memory.wait(); memory.free(place)
assert (sent == got).all()
print(type(memory).__name__)
"""


@pytest.mark.parametrize("module", ["cuda/bindings/runtime.py", "cuda/cudart.py"])
def test_cuda_python_is_taken_where_it_is(module: str, tmp_path: Path) -> None:
    jetson = Jetson(tmp_path / "board").cuda()
    path = jetson.library / module
    path.parent.mkdir(parents=True)
    path.write_text(CUDA_PYTHON)
    assert round_trip(jetson) == "FromCudaPython"


def test_libcudart_is_enough(tmp_path: Path) -> None:
    assert round_trip(Jetson(tmp_path / "board").cuda()) == "FromLibrary"


def round_trip(jetson: Jetson) -> str:
    environment = dict(jetson.environ(), PYTHONPATH=f"{jetson.library}:{_root.TARGETS / 'tensorrt' / 'bundle'}")
    done = subprocess.run(
        [sys.executable, "-S", "-s", "-B", "-c", ROUND_TRIP], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_no_cuda_at_all_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_memory, "LIBCUDART", ("libnothere.so",))
    with pytest.raises(BoardError, match="CUDA does not work here: none of libnothere"):
        cuda_memory.device_memory()
