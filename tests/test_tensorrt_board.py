"""TensorRT's bundle on a board: prepared, checked, timed and run, by stand-ins that take only what each version has."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests import models
from tests.jetson import JETPACK, Jetson, bundle_for, engines, reseal, tensorrt_json

VERSIONS = ("8.5.2", "10.3.0", "11.4.1")
WAYS = ("python", "trtexec")


def put(board: Jetson, way: str, fault: str = "") -> Jetson:
    return board.python_api(fault) if way == "python" else board.cuda().trtexec(fault or "none")


def tokens() -> onnx.ModelProto:
    """Two inputs of open length, one of int64, and outputs of both kinds."""
    proto = models.model(
        [
            helper.make_node("Gather", ["table", "ids"], ["rows"], axis=0),
            helper.make_node("Cast", ["mask"], ["weight"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["weight", "last"], ["column"]),
            helper.make_node("Mul", ["rows", "column"], ["kept"]),
            helper.make_node("ReduceMean", ["kept"], ["y"], axes=[1], keepdims=0),
            helper.make_node("ArgMax", ["y"], ["best"], axis=-1, keepdims=0),
        ],
        {"ids": ["N", "L"], "mask": ["N", "L"]},
        {"y": ["N", 16], "best": ["N"]},
        {"table": models.random((50, 16)), "last": np.array([-1], np.int64)},
    )
    for value in (*proto.graph.input, proto.graph.output[1]):
        value.type.tensor_type.elem_type = TensorProto.INT64
    return proto


def token_feed(length: int, count: int = 1) -> dict[str, np.ndarray]:
    random = np.random.default_rng(length)
    return {
        "ids": random.integers(0, 50, (count, length)),
        "mask": random.integers(0, 2, (count, length)),
    }


RANGE = {name: {"min": [1, 16], "opt": [1, 64], "max": [2, 128]} for name in ("ids", "mask")}
IMAGES = {"x": {"min": [1, 3, 16, 16], "opt": [1, 3, 16, 16], "max": [4, 3, 16, 16]}}


def picture_bundle(folder: Path, version: str, proto: onnx.ModelProto | None = None, **changes: Any) -> Path:
    feeds = [{"x": image[None]} for image in models.images(3, seed=2)]
    settings = tensorrt_json(version, **{"profile": IMAGES, **changes})
    return bundle_for(folder / "bundle", proto or models.convnet(), feeds, settings)


def token_bundle(folder: Path, version: str) -> Path:
    feeds = [token_feed(length) for length in (16, 64, 128)]
    return bundle_for(folder / "bundle", tokens(), feeds, tensorrt_json(version, profile=RANGE))


# --- what goes well -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("way", WAYS)
def test_prepare_then_check_then_run(way: str, version: str, tmp_path: Path) -> None:
    board = put(Jetson(tmp_path / "board", version), way)
    bundle = picture_bundle(tmp_path, version)
    report = board.answer(bundle, "prepare")["prepared"]["model"]
    assert report["built"] and report["tensorrt"] == version and report["via"] == way and report["warnings"] == []
    assert (report["gpu"], report["compute"]) == ("Orin", "8.7")
    assert report["l4t"].startswith({"8": "35", "10": "36", "11": "39"}[version.split(".")[0]])
    checked = board.answer(bundle, "check")
    assert checked["versions"] == {"tensorrt": version}
    assert checked["outputs"]["y"]["expected_sqnr_db"] > (100 if way == "python" else 90)
    assert [remark["name"] for remark in checked.get("remarks", [])] == ([] if way == "python" else ["trtexec"])
    again = board.answer(bundle, "prepare")["prepared"]["model"]
    assert not again["built"] and again["engine"] == report["engine"]
    np.save(tmp_path / "one.npy", models.images(2, seed=2))
    results = board.answer(bundle, "run", tmp_path / "one.npy", "--out", tmp_path / "out.npz")
    assert results[0]["outputs"]["y"]["shape"] == [2, 10]  # type: ignore[index]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("way", WAYS)
def test_lengths_within_the_range_and_integers(way: str, version: str, tmp_path: Path) -> None:
    """INT64 is INT32 in the engine before TensorRT 10, and INT64 again in the answers."""
    board = put(Jetson(tmp_path / "board", version), way)
    bundle = token_bundle(tmp_path, version)
    board.answer(bundle, "prepare")
    checked = board.answer(bundle, "check")
    assert checked["outputs"]["y"]["expected_sqnr_db"] > 90 and checked["outputs"]["best"]["expected_sqnr_db"] > 90
    for length, count in ((17, 1), (100, 2)):
        feed = token_feed(length, count)
        np.savez(tmp_path / "feed.npz", **feed)
        board.answer(bundle, "run", tmp_path / "feed.npz", "--out", tmp_path / "out.npz")
        with np.load(tmp_path / "out.npz") as out:
            assert out["0/y"].shape == (count, 16) and out["0/y"].dtype == np.float32
            assert out["0/best"].dtype == np.int64
    np.savez(tmp_path / "long.npz", **token_feed(129))
    done = board.run(bundle, "run", tmp_path / "long.npz")
    assert done.returncode == 22 and "ids has shape 1x129, and the engine takes 1x16 to 2x128" in done.stderr
    np.savez(tmp_path / "many.npz", **token_feed(20, 3))
    assert "3x20" in board.run(bundle, "run", tmp_path / "many.npz").stderr


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_typed_graph_gets_the_flags_of_its_version(way: str, version: str, precision: str, tmp_path: Path) -> None:
    """The stand-ins refuse Q/DQ without INT8 and fp16 without FP16 in 8, and any such flag beside strong types."""
    proto = half_inside() if precision == "fp16" else quantized()
    board = put(Jetson(tmp_path / "board", version), way)
    bundle = picture_bundle(tmp_path, version, proto, precision=precision)
    engine = Path(board.answer(bundle, "prepare")["prepared"]["model"]["engine"])
    assert board.answer(bundle, "check")["outputs"]["y"]["expected_sqnr_db"] > 60
    flags = json.loads(engine.read_bytes().split(b"\n", 1)[0][4:])["flags"]
    assert ("TF32" in flags) is False
    wanted = {"8.5.2": precision.upper(), "10.3.0": "STRONGLY_TYPED", "11.4.1": None}[version]
    assert {flag for flag in flags if flag in ("FP16", "INT8", "STRONGLY_TYPED")} == ({wanted} if wanted else set())


@pytest.mark.parametrize(("version", "asked"), [("8.5.2", {"wide:pool"}), ("10.3.0", set())])
@pytest.mark.parametrize("way", WAYS)
def test_weak_types_are_told_which_layers_stay_wide(way: str, version: str, asked: set[str], tmp_path: Path) -> None:
    proto = half_inside()
    proto.graph.node[-1].name = "pool"
    board = put(Jetson(tmp_path / "board", version), way)
    bundle = picture_bundle(tmp_path, version, proto, precision="fp16", fp32_layers=["pool", "gone"])
    engine = Path(board.answer(bundle, "prepare")["prepared"]["model"]["engine"])
    flags = json.loads(engine.read_bytes().split(b"\n", 1)[0][4:])["flags"]
    assert {flag for flag in flags if flag in ("wide:pool", "PREFER_PRECISION_CONSTRAINTS")} == asked


def half_inside() -> onnx.ModelProto:
    return models.model(
        [
            helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
            helper.make_node("Conv", ["h", "w"], ["c"], pads=[1, 1, 1, 1]),
            helper.make_node("Cast", ["c"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["f"], ["y"], axes=[2, 3], keepdims=0),
        ],
        {"x": ["N", 3, 16, 16]},
        {"y": ["N", 4]},
        {"w": models.random((4, 3, 3, 3)).astype(np.float16)},
    )


def quantized(zero: int = 0) -> onnx.ModelProto:
    return models.model(
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
            helper.make_node("Conv", ["d", "w"], ["c"], pads=[1, 1, 1, 1]),
            helper.make_node("ReduceMean", ["c"], ["y"], axes=[2, 3], keepdims=0),
        ],
        {"x": ["N", 3, 16, 16]},
        {"y": ["N", 4]},
        {"w": models.random((4, 3, 3, 3)), "s": np.float32(0.05), "z": np.int8(zero)},
    )


@pytest.mark.parametrize("way", WAYS)
def test_bench(way: str, tmp_path: Path) -> None:
    board = put(Jetson(tmp_path / "board"), way)
    bundle = picture_bundle(tmp_path, "10.3.0")
    board.answer(bundle, "prepare")
    result = board.answer(bundle, "bench", "--seconds", 0.4, "--processes", 2, "--min-runs", 4)
    model = result["models"]["model"]
    assert result["valid"] and model["versions"] == {"tensorrt": "10.3.0"} and 0 < model["median_ms"] < 1000
    named = [doubt["name"] for doubt in result["doubts"]]
    assert ("trtexec" in named) is (way == "trtexec")
    # What trtexec cannot give is null, and said.
    assert (model["load_ms"] is None) is (way == "trtexec")
    assert (model["peak_memory_mb"] is None) is (way == "trtexec")
    words = board.run(bundle, "bench", "--seconds", 0.1, "--processes", 1, "--min-runs", 1)
    assert words.returncode == 0 and ("load unknown" in words.stdout) is (way == "trtexec")


def test_batches_of_bench_stay_in_the_range(tmp_path: Path) -> None:
    board = Jetson(tmp_path / "board").python_api()
    bundle = picture_bundle(tmp_path, "10.3.0")
    board.answer(bundle, "prepare")
    few = ("--seconds", 0.1, "--processes", 1, "--min-runs", 1)
    assert board.answer(bundle, "bench", "--batch", 4, *few)["models"]["model"]["throughput_per_s"] > 0
    done = board.run(bundle, "bench", "--batch", 5, *few)
    assert done.returncode == 2 and "1x3x16x16 to 4x3x16x16" in done.stderr


def test_the_timing_cache_is_kept_and_used_again(tmp_path: Path) -> None:
    board = Jetson(tmp_path / "board").python_api()
    bundle = picture_bundle(tmp_path, "10.3.0")
    board.answer(bundle, "prepare")
    names = engines(bundle)
    assert [name.rpartition(".")[2] for name in names] == ["engine", "json", "cache"]
    assert (bundle / "engines" / names[-1]).read_bytes() == b"timing cache of 10.3.0"
    board.answer(bundle, "prepare", "--again")
    assert engines(bundle) == names


def test_engines_may_lie_elsewhere(tmp_path: Path) -> None:
    board = Jetson(tmp_path / "board").python_api()
    board.environment["EDGEPACK_ENGINES"] = str(tmp_path / "elsewhere")
    bundle = picture_bundle(tmp_path, "10.3.0")
    board.answer(bundle, "prepare")
    assert engines(bundle) == [] and len(list((tmp_path / "elsewhere").glob("*.engine"))) == 1
    assert board.answer(bundle, "check")["ok"]


def test_workspace_is_bounded_by_what_is_free(tmp_path: Path) -> None:
    board = Jetson(tmp_path / "board").python_api()
    board.memory(1000, 4000)
    bundle = picture_bundle(tmp_path, "10.3.0")
    engine = Path(board.answer(bundle, "prepare")["prepared"]["model"]["engine"])
    assert f"workspace:{500 * 2**20}" in json.loads(engine.read_bytes().split(b"\n", 1)[0][4:])["flags"]


@pytest.mark.parametrize("version", ["8.5.2", "10.3.0"])
def test_the_python_api_comes_first_and_either_may_be_asked_for(version: str, tmp_path: Path) -> None:
    """Both load the same engine, though 8.5 calls itself 8.5.2.2 in Python."""
    board = Jetson(tmp_path / "board", version).python_api().trtexec()
    bundle = picture_bundle(tmp_path, version)
    assert board.answer(bundle, "prepare")["prepared"]["model"]["via"] == "python"
    board.environment["EDGEPACK_TENSORRT"] = "trtexec"
    assert [remark["name"] for remark in board.answer(bundle, "check")["remarks"]] == ["trtexec"]


def test_sparse_weights_are_asked_for(tmp_path: Path) -> None:
    board = Jetson(tmp_path / "board").python_api()
    bundle = picture_bundle(tmp_path, "10.3.0", sparse=True)
    engine = Path(board.answer(bundle, "prepare")["prepared"]["model"]["engine"])
    assert "SPARSE_WEIGHTS" in json.loads(engine.read_bytes().split(b"\n", 1)[0][4:])["flags"]


def test_other_targets_have_nothing_to_prepare(tmp_path: Path) -> None:
    from edgepack import demo

    built = demo.run(tmp_path / "demo", seconds=0.2)
    board = Jetson(tmp_path / "board")
    done = board.run(built.bundle, "prepare", "--build-machine")
    assert done.returncode == 0 and "nothing to prepare" in done.stdout


# --- faults ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_an_unprepared_bundle_is_refused(way: str, tmp_path: Path) -> None:
    board = put(Jetson(tmp_path / "board"), way)
    bundle = picture_bundle(tmp_path, "10.3.0")
    np.save(tmp_path / "one.npy", models.images(1))
    for command in (["check"], ["bench"], ["run", tmp_path / "one.npy"]):
        done = board.run(bundle, *command)
        assert done.returncode == 52 and "no engine has been built" in done.stderr
        assert "hint: python3 harness.py prepare" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("way", WAYS)
def test_out_of_memory_says_how_to_get_more(way: str, tmp_path: Path) -> None:
    board = put(Jetson(tmp_path / "board"), way, "oom")
    board.memory(900, 0)
    done = board.run(picture_bundle(tmp_path, "10.3.0"), "prepare")
    assert done.returncode == 52 and "too little memory to build the engine (900 MB were free" in done.stderr
    assert "swapon" in done.stderr and "Traceback" not in done.stderr
    assert engines(tmp_path / "bundle") == []


@pytest.mark.parametrize("way", WAYS)
def test_a_build_that_the_kernel_kills_leaves_nothing(way: str, tmp_path: Path) -> None:
    board = put(Jetson(tmp_path / "board"), way, "killed")
    bundle = picture_bundle(tmp_path, "10.3.0")
    done = board.run(bundle, "prepare")
    assert done.returncode == 52 and "killed, as the kernel does where memory runs out (6000 MB" in done.stderr
    assert "swapon" in done.stderr and "Traceback" not in done.stderr and engines(bundle) == []
    assert put(board, way).answer(bundle, "prepare")["prepared"]["model"]["built"]


def test_bad_alloc_is_memory_too(tmp_path: Path) -> None:
    done = Jetson(tmp_path / "board").python_api("bad_alloc").run(picture_bundle(tmp_path, "10.3.0"), "prepare")
    assert done.returncode == 52 and "too little memory" in done.stderr


def test_little_memory_is_told_before(tmp_path: Path) -> None:
    board = Jetson(tmp_path / "board").python_api()
    board.memory(300, 0)
    done = board.run(picture_bundle(tmp_path, "10.3.0"), "prepare")
    assert done.returncode == 0 and "warning: 300 MB of memory and swap are free" in done.stderr


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("way", WAYS)
def test_an_operator_that_tensorrt_lacks_is_named(way: str, version: str, tmp_path: Path) -> None:
    proto = models.model(
        [helper.make_node("Frobnicate", ["x"], ["y"], name="odd", domain="some.company")],
        {"x": ["N", 3, 16, 16]},
        {"y": ["N", 3, 16, 16]},
        {},
    )
    board = put(Jetson(tmp_path / "board", version), way)
    done = board.run(picture_bundle(tmp_path, version, proto), "prepare")
    assert done.returncode == 52 and "Traceback" not in done.stderr
    if way == "trtexec" or version != "8.5.2":
        assert "Frobnicate" in done.stderr
    else:  # its Python API gives the node's number alone
        assert "node 0" in done.stderr
    assert "edgepack inspect" in done.stderr


@pytest.mark.parametrize("way", WAYS)
def test_an_asymmetric_graph_is_refused_in_tensorrts_words(way: str, tmp_path: Path) -> None:
    board = put(Jetson(tmp_path / "board"), way)
    done = board.run(picture_bundle(tmp_path, "10.3.0", quantized(zero=3), precision="int8"), "prepare")
    assert done.returncode == 52 and "Non-zero zero point is not supported" in done.stderr


@pytest.mark.parametrize("way", WAYS)
def test_an_engine_of_another_tensorrt_is_built_anew(way: str, tmp_path: Path) -> None:
    board = Jetson(tmp_path / "board", "10.3.0")
    put(board, way)
    bundle = picture_bundle(tmp_path, "10.3.0")
    first = Path(board.answer(bundle, "prepare")["prepared"]["model"]["engine"])
    updated = Jetson(tmp_path / "updated", "10.3.0")
    if way == "python":
        updated.python_api()
        module = updated.library / "tensorrt" / "__init__.py"
        module.write_text(module.read_text().replace("'10.3.0'", "'10.7.0'", 1))
    else:
        updated.cuda().trtexec()
        program = updated.root / "usr/src/tensorrt/bin/trtexec"
        program.write_text(program.read_text().replace("10.3.0 none", "10.7.0 none"))
    done = updated.run(bundle, "check")
    assert done.returncode == 52 and "TensorRT was 10.3.0 and is 10.7.0" in done.stderr and "prepare" in done.stderr
    done = updated.run(bundle, "prepare", "--json")
    report = json.loads(done.stdout)["prepared"]["model"]
    assert report["built"] and report["warnings"] == ["it was built for TensorRT 10.3, and this board has 10.7.0"]
    assert "warning: it was built for TensorRT 10.3" in done.stderr
    assert updated.answer(bundle, "check")["ok"] and not first.exists()


@pytest.mark.parametrize("way", WAYS)
def test_an_engine_that_was_put_there_from_elsewhere_does_not_load(way: str, tmp_path: Path) -> None:
    """The record fits, the engine inside is another TensorRT's: what the runtime says comes through."""
    board = put(Jetson(tmp_path / "board"), way)
    bundle = picture_bundle(tmp_path, "10.3.0")
    engine = Path(board.answer(bundle, "prepare")["prepared"]["model"]["engine"])
    engine.write_bytes(engine.read_bytes().replace(b'"version": "10.3.0"', b'"version": "10.1.0"'))
    done = board.run(bundle, "check")
    assert done.returncode == 52 and "Version tag does not match" in done.stderr and "prepare --again" in done.stderr
    engine.write_bytes(engine.read_bytes()[:-100])
    done = board.run(bundle, "check")
    assert done.returncode == 52 and "is damaged" in done.stderr
    assert board.answer(bundle, "prepare")["prepared"]["model"]["built"] and board.answer(bundle, "check")["ok"]


@pytest.mark.parametrize("change", ["l4t", "gpu", "model", "settings"])
def test_whatever_an_engine_depends_on_makes_it_anew(change: str, tmp_path: Path) -> None:
    board = Jetson(tmp_path / "board").python_api()
    bundle = picture_bundle(tmp_path, "10.3.0")
    board.answer(bundle, "prepare")
    if change == "l4t":
        board.l4t("36.4.7")
    elif change == "gpu":
        board.environment["FAKE_GPU"] = "Thor"
    elif change == "model":
        proto = models.convnet()
        proto.doc_string = "other"
        onnx.save(proto, bundle / "model" / "model.onnx")
    else:
        settings = tensorrt_json("10.3.0", profile={"x": dict(IMAGES["x"], max=[8, 3, 16, 16])})
        (bundle / "model" / "tensorrt.json").write_text(json.dumps(settings))
    reseal(bundle)
    words = {"l4t": "L4T was 36.4.3 and is 36.4.7", "gpu": "the GPU was Orin and is Thor",
             "model": "the model changed", "settings": "the settings changed"}[change]  # fmt: skip
    done = board.run(bundle, "check")
    assert done.returncode == 52 and words in done.stderr
    assert board.answer(bundle, "prepare")["prepared"]["model"]["built"] and board.answer(bundle, "check")["ok"]


@pytest.mark.parametrize("way", WAYS)
def test_a_damaged_timing_cache_is_left_out(way: str, tmp_path: Path) -> None:
    board = put(Jetson(tmp_path / "board"), way)
    bundle = picture_bundle(tmp_path, "10.3.0")
    board.answer(bundle, "prepare")
    cache = next((bundle / "engines").glob("*.cache"))
    cache.write_bytes(b"\0garbage")
    done = board.run(bundle, "prepare", "--again", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["prepared"]["model"]["built"]
    assert "timing cache" in done.stderr and cache.read_bytes() == b"timing cache of 10.3.0"


@pytest.mark.parametrize(("built_for", "there"), [("10.3.0", "8.5.2"), ("8.5.2", "10.3.0"), ("8.5.2", "11.4.1")])
def test_a_tensorrt_that_reads_other_graphs_is_refused_by_name(built_for: str, there: str, tmp_path: Path) -> None:
    board = Jetson(tmp_path / "board", there).python_api()
    done = board.run(picture_bundle(tmp_path, built_for), "prepare")
    named = f"TensorRT {built_for.rpartition('.')[0]} (JetPack {JETPACK[built_for]})"
    assert done.returncode == 55 and f"was built for {named}, and this board has {there}" in done.stderr
    assert f"--device BOARD@jp{JETPACK[there]}" in done.stderr


def test_11_takes_what_was_built_for_10(tmp_path: Path) -> None:
    """Both read types off the graph, and JetPack 7.2 came with the one first and the other later."""
    board = Jetson(tmp_path / "board", "11.4.1").python_api()
    report = board.answer(picture_bundle(tmp_path, "10.3.0"), "prepare")["prepared"]["model"]
    assert report["built"] and report["warnings"][0] == "it was built for TensorRT 10.3, and this board has 11.4.1"
    assert board.answer(tmp_path / "bundle", "check")["ok"]


def test_another_l4t_is_told_and_built_all_the_same(tmp_path: Path) -> None:
    board = Jetson(tmp_path / "board").python_api()
    board.l4t("36.3.0")
    report = board.answer(picture_bundle(tmp_path, "10.3.0"), "prepare")["prepared"]["model"]
    assert report["built"] and report["warnings"] == ["it was built for L4T 36.4, and this board has 36.3.0"]
    (board.root / "etc/nv_tegra_release").unlink()
    report = board.answer(tmp_path / "bundle", "prepare")["prepared"]["model"]
    assert "this machine does not say which it has" in report["warnings"][0]


def test_a_crash_of_trtexec_is_no_traceback(tmp_path: Path) -> None:
    board = Jetson(tmp_path / "board").trtexec("crash")
    done = board.run(picture_bundle(tmp_path, "10.3.0"), "prepare")
    assert done.returncode == 52 and "trtexec crashed (signal 11)" in done.stderr
    assert engines(tmp_path / "bundle") == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_prepare_that_is_ended_leaves_no_half_engine(number: signal.Signals, tmp_path: Path) -> None:
    board = Jetson(tmp_path / "board").trtexec("hang")
    bundle = picture_bundle(tmp_path, "10.3.0")
    process = subprocess.Popen(
        board.command(bundle, "prepare"), env=board.environ(), stderr=subprocess.PIPE, start_new_session=True
    )
    half = waited_for(bundle)
    process.send_signal(number)
    process.wait(timeout=30)
    if number == signal.SIGKILL:  # nobody was left to tidy up, and the child still has the lock
        os.killpg(process.pid, signal.SIGKILL)
    else:
        assert process.returncode == 130 and engines(bundle) == []
    assert process.stderr is not None
    process.stderr.close()
    done = board.run(bundle, "check")
    assert done.returncode == 52 and "no engine" in done.stderr
    board.trtexec()
    assert board.answer(bundle, "prepare")["prepared"]["model"]["built"] and not half.exists()
    assert [name.rpartition(".")[2] for name in engines(bundle)] == ["engine", "json", "cache"]


def waited_for(bundle: Path) -> Path:
    """The half of an engine that a stand-in has written."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        for path in (bundle / "engines").glob("*.engine.partial"):
            if path.stat().st_size:
                return path
        time.sleep(0.05)
    raise AssertionError("nothing was written")


def test_a_build_whose_parent_was_killed_keeps_others_out(tmp_path: Path) -> None:
    board = Jetson(tmp_path / "board").cuda().trtexec("hang")
    bundle = picture_bundle(tmp_path, "10.3.0")
    first = subprocess.Popen(board.command(bundle, "prepare"), env=board.environ(), stderr=-1, start_new_session=True)
    try:
        waited_for(bundle)
        first.kill()
        first.wait(timeout=30)
        board.trtexec()
        second = subprocess.Popen(board.command(bundle, "prepare", "--json"), env=board.environ(), stdout=-1, stderr=-1)
        assert second.stderr is not None and b"another prepare is at it" in second.stderr.readline()
        assert second.poll() is None
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        assert first.stderr is not None
        first.stderr.close()
    out, _ = second.communicate(timeout=60)
    assert json.loads(out)["prepared"]["model"]["built"] and board.answer(bundle, "check")["ok"]


def test_two_builds_take_turns(tmp_path: Path) -> None:
    board = Jetson(tmp_path / "board").trtexec("slow")
    bundle = picture_bundle(tmp_path, "10.3.0")
    both = [
        subprocess.Popen(board.command(bundle, "prepare", "--json"), env=board.environ(), stdout=-1, stderr=-1)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    built = [json.loads(out)["prepared"]["model"]["built"] for out, _ in said]
    assert sorted(built) == [False, True]
    assert sum(b"another prepare is at it" in err for _, err in said) == 1


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    board = Jetson(tmp_path / "board").trtexec()
    board.environment["EDGEPACK_ENGINES"] = "/proc/nowhere"
    done = board.run(picture_bundle(tmp_path, "10.3.0"), "prepare")
    assert done.returncode == 61 and "EDGEPACK_ENGINES" in done.stderr


def test_memory_that_the_gpu_does_not_give_is_told(tmp_path: Path) -> None:
    board = Jetson(tmp_path / "board").python_api()
    bundle = picture_bundle(tmp_path, "10.3.0")
    board.answer(bundle, "prepare")
    board.environment["FAKE_CUDA_OOM"] = "1"
    done = board.run(bundle, "check")
    assert done.returncode == 52 and "CUDA says: out of memory" in done.stderr


def test_an_open_input_without_a_range_is_named(tmp_path: Path) -> None:
    board = Jetson(tmp_path / "board").trtexec()
    done = board.run(picture_bundle(tmp_path, "10.3.0", profile={}), "prepare")
    assert done.returncode == 52 and "the input x has an open dimension" in done.stderr
    assert "--input-shape x=" in done.stderr


@pytest.mark.parametrize("text", ["", "[]", '{"format": 1}', '{"format": 9}'])
def test_settings_that_are_none(text: str, tmp_path: Path) -> None:
    board = Jetson(tmp_path / "board").trtexec()
    bundle = picture_bundle(tmp_path, "10.3.0")
    (bundle / "model" / "tensorrt.json").write_text(text)
    reseal(bundle)
    for command in ("prepare", "check"):
        done = board.run(bundle, command)
        assert done.returncode == 50 and "tensorrt.json" in done.stderr and "Traceback" not in done.stderr
