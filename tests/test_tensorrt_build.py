"""Builds for Jetson boards on a machine without TensorRT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import edgepack
from edgepack import device, target
from edgepack.building.plan import Plan, plan
from edgepack.cli.options import shapes, shapes_or_ranges
from edgepack.data.ranges import ShapeRange
from edgepack.errors import DataNeeded, SamplesError, ShapeNeeded, UnfitDevice, UsageError
from edgepack.model import constant
from edgepack.pruning.pattern import is_two_of_four
from edgepack.quantization.layer import to_matrix
from tests import models
from tests.conftest import Run

BOARD = "orin-nano@jp6.2"


def planned(board: str, precision: str = "auto", *, name: str = "auto", data: bool = True, on_it: bool = False) -> Plan:
    found = device.find(board)
    return plan(
        found, target=name, precision=precision, has_data=data, is_quantized=False, threads=None, measured=on_it
    )


def told(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "model" / "tensorrt.json").read_text())
    return found


# --- the plan -------------------------------------------------------------------------------------------


def jetsons() -> list[str]:
    return [
        f"{name}@{system}"
        for name, board in device.read().items()
        if board.family == "jetson"
        for system in board.systems
    ]


@pytest.mark.parametrize("board", jetsons())
def test_a_jetson_gets_tensorrt_in_fp16(board: str) -> None:
    found = planned(board)
    jetpack = found.device.system.jetpack
    assert jetpack is not None and found.runtime == ("tensorrt", jetpack.tensorrt)
    assert (found.target_name, found.precision, found.on_trial) == ("tensorrt", "fp16", False)
    assert not found.measurable_here and found.stand_in == "onnxruntime" and found.multiplies_half
    assert [line.partition("==")[0] for line in found.requirements(images=False)] == ["numpy"]
    assert found.reads is not None and found.reads.opset >= 13


@pytest.mark.parametrize("board", ["jetson-nano", "jetson-tx2"])
def test_a_gpu_without_int8_refuses_it_by_name(board: str) -> None:
    with pytest.raises(UnfitDevice, match=rf"the GPU of {board} \(compute capability \d.\d\) has no int8") as caught:
        planned(board, "int8")
    assert caught.value.hint == "take --precision fp16"


def test_fp8_is_nowhere() -> None:
    for board in jetsons():
        with pytest.raises(UsageError, match="no precision 'fp8'"):
            planned(board, "fp8")


@pytest.mark.parametrize("precision", ["w8", "w4", "dynamic", "w8a16"])
def test_other_precisions_are_refused_with_the_reason(precision: str) -> None:
    with pytest.raises(UnfitDevice, match=f"tensorrt gains nothing from {precision}: ") as caught:
        planned(BOARD, precision)
    assert "fp16" in caught.value.hint


def test_int8_is_on_trial_only_where_the_board_itself_measures() -> None:
    assert (planned(BOARD, on_it=True).precision, planned(BOARD, on_it=True).on_trial) == ("int8", True)
    assert planned(BOARD, on_it=True).plain == "fp16"
    assert planned("jetson-nano", on_it=True).precision == "fp16"
    assert planned(BOARD, on_it=True, data=False).precision == "fp16"
    assert planned(BOARD, "int8").precision == "int8"


def test_what_can_be_written_depends_on_the_jetpack() -> None:
    opsets = {"jp5.1": 17, "jp6.0": 17, "jp6.1": 20, "jp6.2": 20, "jp7.2": 22}
    for system, opset in opsets.items():
        found = planned(f"orin-nano@{system}")
        assert found.reads is not None and found.reads.opset == opset
        assert found.mixes_half == (opset >= 19)


def test_a_board_whose_system_is_no_jetpack_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "devices.yaml"
    file.write_text(
        "systems: {mine: {title: My Linux, python: '3.10', glibc: '2.35'}}\n"
        "boards: {mine: {title: Mine, family: jetson, arch: aarch64, cpu: A, cores: 6, memory_mb: 8192, features: [], "
        "systems: [mine], targets: {tensorrt: [fp16]}, int8_gain: measure, int8_why: unknown}}\n"
    )
    with pytest.raises(UnfitDevice, match="My Linux is no JetPack, and tensorrt comes with nothing else"):
        plan(
            device.find("mine", file),
            target="tensorrt",
            precision="fp16",
            has_data=False,
            is_quantized=False,
            threads=None,
        )


def test_a_jetpack_lacking_a_key_is_named(tmp_path: Path) -> None:
    file = tmp_path / "devices.yaml"
    file.write_text(
        "systems: {mine: {title: M, python: '3.10', glibc: '2.35', jetpack: {version: '6.2'}}}\nboards: {}\n"
    )
    with pytest.raises(Exception, match="boards"):
        device.read(file)
    file.write_text(file.read_text().replace("boards: {}", "boards: {b: {}}"))
    with pytest.raises(Exception, match="system mine: jetpack: key l4t: missing"):
        device.read(file)


# --- ranges ---------------------------------------------------------------------------------------------


def test_ranges_on_the_command_line() -> None:
    three = shapes_or_ranges(["ids=1x16..1x64..1x128", "mask=1x8", "a=b=2..4"])
    assert three["ids"] == ShapeRange(least=(1, 16), usual=(1, 64), most=(1, 128))
    assert three["mask"] == (1, 8)
    assert three["a=b"] == ShapeRange(least=(2,), usual=(4,), most=(4,))
    assert str(three["ids"]) == "1x16..1x64..1x128"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("ids=1x16..1x64..1x128..1x256", "is not understood"),
        ("ids=1x16..", "is not understood"),
        ("ids=..1x16", "is not understood"),
        ("ids=1xa..1x16", "is not understood"),
        ("ids=0x1..1x16", "is not understood"),
        ("=1..2", "is not understood"),
        ("ids=1x16..64", "have as many dimensions"),
        ("ids=1x64..1x16", "should grow from the smallest"),
        ("ids=1x16..1x128..1x64", "should grow from the smallest"),
    ],
)
def test_ranges_that_are_none(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        shapes_or_ranges([text])


def test_where_there_are_no_ranges_one_is_refused() -> None:
    with pytest.raises(UsageError, match="is a range"):
        shapes(["ids=1x16..1x64"])


def encoder(folder: Path, lengths: tuple[int, ...] = (5, 9, 12, 12, 20)) -> Path:
    """A Transformer encoder whose sentences are of any length; a folder of samples beside it."""
    onnx.save(models.transformer(width=32, length="L"), folder / "encoder.onnx")
    (folder / "samples").mkdir()
    random = np.random.default_rng(0)
    for index in range(40):
        ids = random.integers(0, 100, (1, lengths[index % len(lengths)]))
        np.savez(folder / "samples" / f"{index:02}.npz", ids=ids)
    return folder / "encoder.onnx"


@pytest.mark.parametrize(
    ("shape", "why"),
    [
        ({"idx": ((1, 4), (1, 8))}, "no input 'idx'"),
        ({"ids": ((4,), (8,))}, "does not fit the input ids"),
        ({"ids": ((1, 4), (2, 8))}, r"dimension 0 of the input ids int64 1×L is 1"),
    ],
)
def test_ranges_that_do_not_fit_the_model(shape: dict[str, Any], why: str, tmp_path: Path) -> None:
    onnx.save(models.transformer(width=32, length="L"), tmp_path / "encoder.onnx")
    ranges = {name: ShapeRange(least=low, usual=high, most=high) for name, (low, high) in shape.items()}
    with pytest.raises(ShapeNeeded, match=why):
        edgepack.build(tmp_path / "encoder.onnx", tmp_path / "out", device=BOARD, input_shape=ranges)


def test_an_open_length_without_range_or_samples_says_how_to_give_it(tmp_path: Path) -> None:
    onnx.save(models.transformer(width=32, length="L"), tmp_path / "encoder.onnx")
    with pytest.raises(ShapeNeeded, match="neither samples nor a range") as caught:
        edgepack.build(tmp_path / "encoder.onnx", tmp_path / "out", device=BOARD)
    assert "--input-shape ids=1x1..1x1..1x1" in caught.value.hint


def test_a_sample_outside_of_the_range_is_named(tmp_path: Path) -> None:
    model = encoder(tmp_path)
    span = ShapeRange(least=(1, 4), usual=(1, 8), most=(1, 16))
    with pytest.raises(SamplesError, match=r"sample 4 of .* has 1x20 for ids, outside of 1x4\.\.1x8\.\.1x16"):
        edgepack.build(model, tmp_path / "out", device=BOARD, data=tmp_path / "samples", input_shape={"ids": span})


@pytest.mark.parametrize("name", ["onnxruntime", "tflite"])
def test_a_range_for_another_target_is_refused(name: str, tmp_path: Path) -> None:
    onnx.save(models.transformer(width=32, length="L"), tmp_path / "encoder.onnx")
    span = ShapeRange(least=(1, 4), usual=(1, 8), most=(1, 16))
    with pytest.raises(UsageError, match=f"ids=1x4..1x8..1x16 is a range, and {name} builds nothing") as caught:
        edgepack.build(
            tmp_path / "encoder.onnx", tmp_path / "out", device="rpi5", target=name, input_shape={"ids": span}
        )
    assert ("ids=1x8" in caught.value.hint) == (name == "tflite")


def test_a_range_without_samples_is_checked_at_its_ends(tmp_path: Path) -> None:
    onnx.save(models.transformer(width=32, length="L"), tmp_path / "encoder.onnx")
    span = ShapeRange(least=(1, 4), usual=(1, 8), most=(1, 16))
    built = edgepack.build(tmp_path / "encoder.onnx", tmp_path / "out", device=BOARD, input_shape={"ids": span})
    assert built.precision == "fp16"
    with np.load(tmp_path / "out" / "golden" / "inputs.npz") as golden:
        assert {golden[name].shape for name in golden.files} == {(1, 4), (1, 8), (1, 16)}
    assert told(tmp_path / "out")["profile"] == {"ids": {"min": [1, 4], "opt": [1, 8], "max": [1, 16]}}
    assert not any("shapes fixed" in note for note in built.notes)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_an_encoder_gets_its_range_from_its_samples(precision: str, tmp_path: Path) -> None:
    built = edgepack.build(
        encoder(tmp_path), tmp_path / "out", device=BOARD, data=tmp_path / "samples", precision=precision
    )
    assert told(tmp_path / "out")["profile"] == {"ids": {"min": [1, 5], "opt": [1, 12], "max": [1, 20]}}
    with np.load(tmp_path / "out" / "golden" / "inputs.npz") as golden:
        assert {(1, 5), (1, 12), (1, 20)} <= {golden[name].shape for name in golden.files}
    assert built.quality is not None and built.quality.sqnr_db is not None
    assert built.quality.sqnr_db > (25 if precision == "int8" else 50)


# --- whole builds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("precision", "least", "system"),
    [
        ("fp16", 50, "jp6.2"),
        ("int8", 30, "jp6.2"),
        ("fp32", 100, "jp6.2"),
        ("fp16", 50, "jp5.1"),
        ("int8", 30, "jp5.1"),
    ],
)
def test_a_build_through_the_command_line(
    cli: Run, convnet_files: Path, tmp_path: Path, precision: str, least: float, system: str
) -> None:
    done = cli(
        "build", convnet_files / "model.onnx", "-o", tmp_path / "out", "--device", f"orin-nano@{system}",
        "--precision", precision, "--data", convnet_files / "calib.npz", "--eval", convnet_files / "eval.npz", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    built = json.loads(done.stdout)
    assert (built["target"], built["precision"], built["latency"]) == ("tensorrt", precision, {})
    assert built["quality"]["metric"] == "top1" and built["quality"]["sqnr_db"] > least
    assert any("tensorrt is not on this machine" in note for note in built["notes"])
    assert [one["name"] for one in built["check"]["remarks"]] == ["fallback"]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    jetpack = device.find(f"orin-nano@{system}").system.jetpack
    assert jetpack is not None and manifest["runtime"] == {"tensorrt": jetpack.tensorrt}
    assert set(manifest["checked_in"]) == {"onnxruntime"}
    assert {one["tolerance"]["kind"] for one in manifest["golden"]["outputs"]} == {"decibels"}
    found = told(tmp_path / "out")
    assert found["precision"] == precision and found["sparse"] is False
    assert found["built_for"] == {
        "jetpack": jetpack.version, "l4t": jetpack.l4t, "cuda": jetpack.cuda, "tensorrt": jetpack.tensorrt,
        "compute": "8.7",
    }  # fmt: skip
    model = ir.load(tmp_path / "out" / "model" / "model.onnx")
    assert [value.dtype for value in (*model.graph.inputs, *model.graph.outputs)] == 2 * [ir.DataType.FLOAT]
    half = any(value.dtype == ir.DataType.FLOAT16 for node in model.graph for value in node.outputs)
    assert half == (precision == "fp16" or (precision, system) == ("int8", "jp6.2"))
    reads = planned(f"orin-nano@{system}").reads
    assert reads is not None and model.opset_imports[""] <= reads.opset and model.ir_version <= reads.ir


def test_the_report_says_where_it_was_judged(cli: Run, convnet_files: Path, tmp_path: Path) -> None:
    done = cli(
        "build", convnet_files / "model.onnx", "-o", tmp_path / "out", "--device", BOARD,
        env={"COLUMNS": "300", "PATH": "", "PYTHONPATH": str(Path.cwd())},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    words = " ".join(done.stdout.split())
    assert "fp16; what tensorrt runs without calibration" in words
    assert "latency not measured: tensorrt is on the device alone" in words
    assert "checked and judged in ONNX Runtime" in words


def test_a_promise_is_judged_here_and_not_timed(convnet_files: Path, tmp_path: Path) -> None:
    built = edgepack.build(
        convnet_files / "model.onnx", tmp_path / "out", device=BOARD, precision="int8",
        data=convnet_files / "calib.npz", eval=convnet_files / "eval.npz", max_drop=10,
    )  # fmt: skip
    assert built.promise is not None and built.promise["kept"] and built.promise["latency_on"] is None
    assert built.precision == "int8" and all(trial["ms"] is None for trial in built.promise["trials"])
    fp16 = edgepack.build(
        convnet_files / "model.onnx", tmp_path / "fp16", device=BOARD,
        data=convnet_files / "calib.npz", eval=convnet_files / "eval.npz", max_drop=10,
    )  # fmt: skip
    assert fp16.precision == "fp16" and fp16.promise is not None and fp16.promise["kept"]


def test_an_overflow_on_samples_stays_fp32_in_the_bundle(tmp_path: Path) -> None:
    proto = models.convnet()
    proto.graph.node.insert(2, onnx.helper.make_node("Mul", ["r1", "k"], ["far"], name="far"))
    proto.graph.node.insert(3, onnx.helper.make_node("Div", ["far", "k"], ["near"], name="near"))
    proto.graph.node[4].input[0] = "near"
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(6e4, np.float32), "k"))
    proto.graph.node.insert(4, onnx.helper.make_node("Sigmoid", ["far"], ["unused"]))
    proto.graph.output.append(onnx.helper.make_tensor_value_info("unused", 1, ["N", 16, 16, 16]))
    onnx.save(proto, tmp_path / "model.onnx")
    np.savez(tmp_path / "calib.npz", x=models.images(32, seed=1))
    built = edgepack.build(tmp_path / "model.onnx", tmp_path / "out", device=BOARD, data=tmp_path / "calib.npz")
    assert built.precision == "fp16" and any("it reaches" in note for note in built.notes)
    model = ir.load(tmp_path / "out" / "model" / "model.onnx")
    dtypes = {node.outputs[0].name: node.outputs[0].dtype for node in model.graph}
    assert dtypes["far"] == ir.DataType.FLOAT and dtypes["c1"] == ir.DataType.FLOAT16
    assert built.quality is not None and built.quality.sqnr_db is not None and built.quality.sqnr_db > 50
    assert "far" in told(tmp_path / "out")["fp32_layers"]


# --- zeros in a pattern ---------------------------------------------------------------------------------


def weights_of(path: Path) -> list[np.ndarray]:
    """The weights of dense convolutions, as they are stored, with fours of input channels beside each other."""
    found = []
    for node in ir.load(path).graph:
        if node.op_type != "Conv" or node.attributes.get_int("group", 1) != 1:
            continue
        value = node.inputs[1]
        producer = value.producer() if value is not None else None
        array = constant(producer.inputs[0] if producer is not None else value)
        assert array is not None
        if array.shape[1] % 4 == 0:
            matrix = to_matrix(node, array)[0]
            order = np.arange(matrix.shape[1]).reshape(array.shape[1], -1).T.reshape(-1)
            found.append(matrix[:, order])
    return found


@pytest.mark.parametrize("precision", ["fp16", "int8", "fp32"])
def test_two_of_four_are_zero_in_the_bundle(precision: str, tmp_path: Path) -> None:
    node, w = onnx.helper.make_node, models.random
    proto = models.model(
        [
            node("Conv", ["x", "w1"], ["c1"], pads=[1, 1, 1, 1]),
            node("Relu", ["c1"], ["r1"]),
            node("Conv", ["r1", "w2"], ["c2"], pads=[1, 1, 1, 1]),
            node("Relu", ["c2"], ["r2"]),
            node("Conv", ["r2", "w3"], ["y"]),
        ],
        {"x": ["N", 3, 16, 16]},
        {"y": ["N", 8, 16, 16]},
        {"w1": w((16, 3, 3, 3), 1, 0.3), "w2": w((16, 16, 3, 3), 2, 0.1), "w3": w((8, 16, 1, 1), 3, 0.3)},
    )
    onnx.save(proto, tmp_path / "model.onnx")
    np.savez(tmp_path / "calib.npz", x=models.images(64, seed=1))
    built = edgepack.build(
        tmp_path / "model.onnx", tmp_path / "out", device=BOARD, precision=precision, data=tmp_path / "calib.npz",
        prune="2:4",
    )  # fmt: skip
    assert built.pruning is not None and built.pruning["pattern"] == "2:4" and len(built.pruning["layers"]) == 2
    assert told(tmp_path / "out")["sparse"] is True
    weights = weights_of(tmp_path / "out" / "model" / "model.onnx")
    assert len(weights) == 2
    for matrix in weights:
        assert is_two_of_four(matrix) and np.mean(matrix != 0) > 0.4


def test_two_of_four_wants_samples_and_a_board_that_skips_zeros(tmp_path: Path) -> None:
    onnx.save(models.convnet(), tmp_path / "model.onnx")
    np.savez(tmp_path / "calib.npz", x=models.images(8))
    with pytest.raises(DataNeeded, match="refits weights"):
        edgepack.build(tmp_path / "model.onnx", tmp_path / "out", device=BOARD, prune="2:4")
    with pytest.raises(UnfitDevice, match="2:4 gains nothing"):
        edgepack.build(
            tmp_path / "model.onnx", tmp_path / "out", device="xavier-nx", data=tmp_path / "calib.npz", prune="2:4"
        )


def test_zeros_that_are_meant_survive_rounding() -> None:
    from edgepack.passes.round_weights import round_matrix

    random = np.random.default_rng(0)
    weight = random.standard_normal((1, 16, 32))
    inputs = random.standard_normal((400, 32)) @ random.standard_normal((32, 32))
    moments = [(inputs.T @ inputs)[None] / 400]
    kept = random.random(weight.shape) < 0.5
    free, _ = round_matrix(weight * kept, moments, 8)
    held, scale = round_matrix(weight * kept, moments, 8, kept=kept)
    assert np.any(free[~kept]) and not np.any(held[~kept])
    error = held * scale[:, :, None] - weight * kept
    assert np.sqrt(np.mean(error**2)) < 0.05


def test_targets_agree_on_what_they_say() -> None:
    """A stand-in is a target that runs here by itself and reads what is written for the other."""
    for name in target.names():
        stand_in = target.load(name).STAND_IN
        assert not stand_in or (not target.load(stand_in).STAND_IN and stand_in in target.fallbacks(name))
