"""The plan: what is built for which board, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgepack import device
from edgepack import target as targets
from edgepack.building.plan import AS_IS, Plan, plan
from edgepack.building.runtimes import consequences
from edgepack.bundles import pins
from edgepack.device import Device, System
from edgepack.errors import DataNeeded, MissingExtra, UnfitDevice, UnknownTarget, UsageError


def planned(
    board: str | Device = "host", *, target: str = "auto", precision: str = "auto", data: bool = True,
    quantized: bool = False, threads: int | None = None, block: int | None = None,
) -> Plan:  # fmt: skip
    found = device.find(board) if isinstance(board, str) else board
    return plan(
        found, target=target, precision=precision, has_data=data, is_quantized=quantized, threads=threads, block=block
    )


@pytest.mark.parametrize(
    ("board", "target"),
    [
        ("rpi4", "onnxruntime"),
        ("rpi3", "tflite"),
        ("rpi4@bookworm32", "tflite"),
        ("intel-n100", "openvino"),
        ("orin-nano", "tensorrt"),
    ],
)
def test_auto_takes_the_first_target_that_is_packaged(board: str, target: str) -> None:
    assert planned(board).target_name == target


@pytest.mark.parametrize(
    ("board", "precision", "data", "built", "on_trial"),
    [
        ("rpi5", "auto", True, "int8", True),
        ("rpi5", "auto", False, "fp32", False),
        ("rpi5", "int8", True, "int8", False),
        ("rpi5", "fp16", False, "fp16", False),
        ("rpi5", "fp32", True, "fp32", False),
        ("rpi5", "dynamic", False, "dynamic", False),
        ("rpi5", "w8", False, "w8", False),
        ("intel-n100", "w4", False, "w4", False),
    ],
)
def test_precision(board: str, precision: str, data: bool, built: str, on_trial: bool) -> None:
    found = planned(board, precision=precision, data=data)
    assert (found.precision, found.on_trial) == (built, on_trial) and found.reason


def test_auto_is_float_where_int8_gains_nothing() -> None:
    found = planned("rpi5", target="openvino")
    assert found.precision == "fp32" and "openvino gains nothing from int8" in found.reason


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"board": "rpi4", "target": "openvino"}, UnfitDevice),
        ({"board": "rpi5", "target": "openvino", "precision": "int8"}, UnfitDevice),
        ({"board": "rpi4@trixie32"}, UnfitDevice),
        ({"board": "intel-n100@jammy", "target": "onnxrntime"}, UnknownTarget),
        ({"precision": "int8", "data": False}, DataNeeded),
        ({"precision": "int3"}, UsageError),
        ({"threads": 0}, UsageError),
        ({"quantized": True, "precision": "fp16"}, UsageError),
        ({"quantized": True, "precision": "w4"}, UsageError),
        ({"board": "rpi5", "target": "openvino", "precision": "w4"}, UnfitDevice),
        ({"board": "rpi5", "precision": "w8a16"}, UnfitDevice),
        ({"precision": "w8", "block": 32}, UsageError),
        ({"precision": "w4", "block": 48}, UsageError),
    ],
)
def test_what_cannot_be_built_is_refused_with_a_hint(arguments: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        planned(**arguments)  # type: ignore[arg-type]
    assert getattr(caught.value, "hint", "") or arguments == {"threads": 0}


def test_a_quantized_model_is_packaged_as_it_is() -> None:
    assert planned(quantized=True).precision == AS_IS
    assert planned(quantized=True, precision="int8").precision == AS_IS


def test_threads_are_the_cores_of_the_board() -> None:
    assert planned("rpi4").threads == 4
    assert planned("rpi4", threads=2).threads == 2
    assert planned("host").threads == device.available_cores()


def test_a_cpu_that_saturates_gets_seven_bits() -> None:
    assert planned("intel-avx2").scheme.weight_bits == 7
    assert planned("intel-vnni").scheme.weight_bits == 8


def test_latency_here_tells_of_cpus_of_the_same_kind_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgepack.building.plan.detect", lambda: device.find("rpi5"))
    assert planned("rpi5").measurable_here
    assert not planned("rpi4").measurable_here and not planned("intel-n100").measurable_here


# --- pins -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("board", "reads_opset", "reads_ir"),
    [("orin-nano@jp5.1", 21, 10), ("orin-nano@jp6.2", 23, 11)],
)
def test_an_old_python_gets_the_runtime_that_has_a_wheel(board: str, reads_opset: int, reads_ir: int) -> None:
    found = planned(board, target="onnxruntime", precision="fp32")
    assert found.reads is not None
    assert (found.reads.opset, found.reads.ir) == (reads_opset, reads_ir)
    lines = found.requirements(images=True)
    assert [line.partition("==")[0] for line in lines] == ["numpy", "onnxruntime", "pillow"]


def test_versions_never_fall_with_a_newer_system() -> None:
    for package in ("numpy", "numpy<2", "onnxruntime", "openvino", "pillow"):
        versions = [
            pins.version_tuple(found)
            for python in ("3.8", "3.9", "3.10", "3.11", "3.12")
            if (found := pins.newest(package, "aarch64", System(name="", title="", python=python, glibc="2.41")))
        ]
        assert versions == sorted(versions) and versions


def test_an_old_glibc_gets_an_older_version() -> None:
    new, old = (System(name="", title="", python="3.10", glibc=glibc) for glibc in ("2.35", "2.31"))
    newest, older = pins.newest("openvino", "aarch64", new), pins.newest("openvino", "aarch64", old)
    assert newest is not None and older is not None
    assert pins.version_tuple(newest) > pins.version_tuple(older)


def test_what_has_no_wheel_says_what_would() -> None:
    with pytest.raises(UnfitDevice) as caught:
        pins.pins(("tflite-runtime",), "armv7l", System(name="", title="", python="3.13", glibc="2.41"))
    assert "3.11" in caught.value.hint
    with pytest.raises(UnfitDevice) as caught:
        pins.pins(("onnxruntime",), "armv7l", System(name="", title="", python="3.11", glibc="2.36"))
    assert "none for armv7l" in caught.value.hint


def test_a_python_before_3_8_is_refused() -> None:
    board = device.find("jetson-nano")
    old = replace(board, system=replace(board.system, python="3.6"))
    with pytest.raises(UnfitDevice, match=r"3\.8"):
        planned(old, target="onnxruntime")


def test_an_unlisted_version_reads_what_the_one_before_it_reads() -> None:
    assert pins.reads("onnxruntime", "1.20.1") == pins.reads("onnxruntime", "1.19.2")
    assert pins.reads("onnxruntime", "1.0.0") is None and pins.reads("openvino", "2026.4.1") is None


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_16_bit_activations_are_refused_with_the_reason(name: str) -> None:
    with pytest.raises(UnfitDevice, match=f"{name} gains nothing from w8a16: .* float") as caught:
        planned("intel-n100", target=name, precision="w8a16")
    assert "dynamic, w8, w4" in caught.value.hint


def test_4_bits_need_a_runtime_that_has_them() -> None:
    board = device.find("intel-n100")
    old = replace(board, system=replace(board.system, python="3.11", glibc="2.17"))
    with pytest.raises(UnfitDevice, match=r"w4 needs onnxruntime 1\.17, and .* gets 1\.16\.3"):
        planned(old, target="onnxruntime", precision="w4")
    assert planned(old, target="onnxruntime", precision="w8").precision == "w8"


@pytest.mark.parametrize(("board", "fast"), [("rpi4", False), ("rpi5", True), ("intel-avx2", True)])
def test_4_bits_meet_8_bit_activations_where_there_are_kernels(board: str, fast: bool) -> None:
    found = planned(board, target="onnxruntime", precision="w4", block=128)
    assert found.int8_blocks is fast and found.block == 128


def test_consequences_tell_of_every_target() -> None:
    for name, board in device.read().items():
        lines = consequences(board)
        assert all(any(line.startswith(f"{target}:") for line in lines) for target in board.targets), name
    assert any("7 bits" in line for line in consequences(device.find("intel-avx2")))
    assert any("none for armv7l" in line for line in consequences(device.find("rpi4@bookworm32")))


def test_auto_takes_what_is_installed_here_and_says_what_it_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    board = device.find("rpi3")
    first, second = [name for name in board.targets if name in targets.names()][:2]
    assert first == "tflite"

    def missing() -> None:
        raise MissingExtra("tflite is not installed", "")

    monkeypatch.setattr(targets.load(first), "check", missing)
    made = planned(board, precision="fp32")
    assert made.target_name == second
    assert any("edgepack[tflite]" in line for line in made.differences("fp32", images=False))
    with pytest.raises(MissingExtra):
        planned(board, target=first, precision="fp32")
