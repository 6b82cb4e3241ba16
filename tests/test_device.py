"""Devices: the file is read strictly, and this machine is recognized from what it says of itself."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgepack import device, target
from edgepack._root import DEVICES
from edgepack.device import PRECISIONS, Device, detect, find, read
from edgepack.errors import DeviceFileError, UnknownDevice

BOARD: dict[str, Any] = {
    "title": "A board",
    "arch": "aarch64",
    "cpu": "Cortex-A55",
    "cores": 4,
    "memory_mb": 2048,
    "features": ["asimd", "asimddp"],
    "targets": {"onnxruntime": ["fp32", "int8"], "openvino": ["fp16"]},
    "int8_gain": "expected",
    "int8_why": "it has the dot product",
}


def write(path: Path, **changes: object) -> Path:
    """A device file with one board, some of its keys changed, or left out where the change is `...`."""
    board = {key: value for key, value in {**BOARD, **changes}.items() if value is not ...}
    file = path / "boards.yaml"
    file.write_text(yaml.safe_dump({"mine": board}))
    return file


# --- the file -------------------------------------------------------------------------------------------


def test_a_board_is_read_as_written(tmp_path: Path) -> None:
    board = read(write(tmp_path))["mine"]
    assert board == Device(
        name="mine",
        title="A board",
        arch="aarch64",
        cpu="Cortex-A55",
        cores=4,
        memory_mb=2048,
        features=("asimd", "asimddp"),
        targets={"onnxruntime": ("fp32", "int8"), "openvino": ("fp16",)},
        int8_gain="expected",
        int8_why="it has the dot product",
    )
    assert board.default_target == "onnxruntime"


@pytest.mark.parametrize("key", BOARD)
def test_a_missing_key_is_named(key: str, tmp_path: Path) -> None:
    with pytest.raises(DeviceFileError, match=rf"boards\.yaml: board mine: key {key}: missing"):
        read(write(tmp_path, **{key: ...}))


@pytest.mark.parametrize("key", BOARD)
@pytest.mark.parametrize("value", [None, True, 1.5])
def test_a_value_of_another_type_is_named(key: str, value: object, tmp_path: Path) -> None:
    with pytest.raises(DeviceFileError, match=rf"board mine: key {key}: should be"):
        read(write(tmp_path, **{key: value}))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("arch", "arm64", "x86_64, aarch64, armv7l"),
        ("int8_gain", "maybe", "expected, measure"),
        ("cores", 0, "positive"),
        ("memory_mb", -1, "positive"),
        ("features", ["neon"], "neon"),
        ("features", [1], "1"),
        ("targets", {}, "empty"),
        ("targets", {"onnxruntime": "int8"}, "onnxruntime"),
        ("targets", {"onnxruntime": []}, "onnxruntime"),
        ("targets", {"onnxruntime": ["fp32", "int4"]}, "int4"),
    ],
)
def test_a_wrong_value_is_named(key: str, value: object, words: str, tmp_path: Path) -> None:
    with pytest.raises(DeviceFileError, match=f"key {key}") as caught:
        read(write(tmp_path, **{key: value}))
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("key", "near"), [("titel", "title"), ("memory", "memory_mb"), ("core", "cores"), ("int8_gains", "int8_gain")]
)
def test_an_unknown_key_gets_a_suggestion(key: str, near: str, tmp_path: Path) -> None:
    with pytest.raises(DeviceFileError, match=f"key {key}: unknown") as caught:
        read(write(tmp_path, **{key: 1}))
    assert caught.value.hint == f"did you mean {near}?"


@pytest.mark.parametrize("key", [5, True])
def test_a_key_that_is_no_word_is_unknown(key: object, tmp_path: Path) -> None:
    (tmp_path / "boards.yaml").write_text(yaml.safe_dump({"mine": {**BOARD, key: 1}}))
    with pytest.raises(DeviceFileError, match="unknown"):
        read(tmp_path / "boards.yaml")


@pytest.mark.parametrize("text", ["", "[]", "{}", "just words", "a: [", "mine: 5", "mine:"])
def test_a_file_without_boards(text: str, tmp_path: Path) -> None:
    (tmp_path / "boards.yaml").write_text(text)
    with pytest.raises(DeviceFileError, match=r"boards\.yaml"):
        read(tmp_path / "boards.yaml")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DeviceFileError, match="does not exist"):
        read(tmp_path / "nothing.yaml")
    with pytest.raises(DeviceFileError, match="cannot be read"):
        read(tmp_path)
    (tmp_path / "boards.yaml").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DeviceFileError, match="cannot be read"):
        read(tmp_path / "boards.yaml")


# --- the boards that come along -------------------------------------------------------------------------

# From the CPUs' manuals: only the AVX2 machine without VNNI multiplies int8 in pairs of 16 bits.
SATURATES = {"rpi4": False, "rpi5": False, "intel-avx2": True, "intel-n100": False, "intel-vnni": False}


def test_every_board_is_judged_for_saturation() -> None:
    assert {name: board.saturates for name, board in read().items()} == SATURATES


@pytest.mark.parametrize("name", SATURATES)
def test_boards_name_targets_and_precisions_that_exist(name: str) -> None:
    for target_name, precisions in read()[name].targets.items():
        assert set(precisions) <= set(target.load(target_name).PRECISIONS)


def test_a_gain_is_expected_only_where_something_brings_it() -> None:
    for board in read().values():
        dot_product = {"asimddp", "i8mm", "avx_vnni", "avx512_vnni", "amx_int8", "avx2"} & set(board.features)
        assert (board.int8_gain == "expected") is bool(dot_product)


def test_the_file_holds_each_board_once() -> None:
    """YAML takes the last of two equal keys without a word."""
    names = [line.split(":")[0] for line in DEVICES.read_text().splitlines() if line and line[0] not in " #"]
    assert len(names) == len(set(names)) == len(read())


# --- finding --------------------------------------------------------------------------------------------


def test_find_gives_the_board() -> None:
    assert find("rpi5") == read()["rpi5"]
    assert find("rpi5").title == "Raspberry Pi 5"


@pytest.mark.parametrize(
    ("name", "near"),
    [("rpi6", "rpi"), ("pi5", "rpi5"), ("rpi-4", "rpi4"), ("n100", "intel-n100"), ("hots", "host"), ("RPI5", "rpi5")],
)
def test_an_unknown_board_gets_a_suggestion(name: str, near: str) -> None:
    with pytest.raises(UnknownDevice, match=f"no device '{name}'") as caught:
        find(name)
    assert caught.value.hint.startswith(f"did you mean {near}")


def test_a_board_like_none_gets_the_list() -> None:
    with pytest.raises(UnknownDevice) as caught:
        find("zzzzzz")
    assert caught.value.hint == "known devices: host, " + ", ".join(read())


# --- this machine ---------------------------------------------------------------------------------------

X86 = """processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) N100
flags\t\t: fpu vme sse4_2 avx avx2 avx_vnni sha_ni
bugs\t\t: spectre_v1

processor\t: 1
model name\t: another
flags\t\t: fpu
"""
ARM = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm aes asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU part\t: 0xd0b

processor\t: 1
Features\t: fp asimd
"""


def machine(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, cpuinfo: str | None) -> Device:
    """What a machine would be detected as that calls itself `name` and has this /proc/cpuinfo."""
    file = folder / "cpuinfo"
    if cpuinfo is not None:
        file.write_text(cpuinfo)
    monkeypatch.setattr(platform, "machine", lambda: name)
    monkeypatch.setattr(device, "Path", lambda _: file)
    return detect()


def test_an_x86_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    host = machine(monkeypatch, tmp_path, "x86_64", X86)
    assert (host.name, host.arch, host.cpu) == ("host", "x86_64", "Intel(R) N100")
    assert host.features == ("avx2", "avx_vnni")
    assert host.int8_gain == "expected"
    assert "avx_vnni" in host.int8_why
    assert host.targets == {"onnxruntime": PRECISIONS, "openvino": PRECISIONS}
    assert not host.saturates


def test_an_arm_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    host = machine(monkeypatch, tmp_path, "aarch64", ARM)
    assert host.arch == "aarch64"
    assert set(host.features) == {"asimd", "asimddp", "asimdhp"}
    assert host.int8_gain == "expected"
    assert "asimddp" in host.int8_why
    assert host.targets == {"onnxruntime": PRECISIONS, "openvino": ("fp32", "fp16")}
    assert not host.saturates
    assert host.cpu


@pytest.mark.parametrize(
    ("flags", "saturates", "gain"),
    [
        ("avx2", True, "expected"),
        ("sse4_2 avx", True, "measure"),
        ("avx2 avx_vnni", False, "expected"),
        ("avx2 avx512f", True, "expected"),
        ("avx2 avx512f avx512_vnni", False, "expected"),
        ("avx2 amx_int8", False, "expected"),
        ("avx2 avx_vnni_int8_of_another_name", True, "expected"),
    ],
)
def test_what_the_flags_of_an_x86_machine_mean(
    flags: str, saturates: bool, gain: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    host = machine(monkeypatch, tmp_path, "x86_64", f"model name : test\nflags : {flags}\n")
    assert (host.saturates, host.int8_gain) == (saturates, gain)


def test_an_arm_machine_without_the_dot_product(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    host = machine(monkeypatch, tmp_path, "aarch64", "Features : fp asimd crc32\n")
    assert host.int8_gain == "measure"
    assert "no int8 dot product" in host.int8_why
    assert not host.saturates


@pytest.mark.parametrize(
    ("name", "arch", "targets"),
    [
        ("AMD64", "x86_64", {"onnxruntime", "openvino"}),
        ("arm64", "aarch64", {"onnxruntime", "openvino"}),
        ("armv7l", "armv7l", {"onnxruntime"}),
        ("armv8l", "armv7l", {"onnxruntime"}),
        ("riscv64", "riscv64", {"onnxruntime"}),
    ],
)
def test_machines_under_other_names_and_without_cpuinfo(
    name: str, arch: str, targets: set[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    host = machine(monkeypatch, tmp_path, name, None)
    assert host.arch == arch
    assert set(host.targets) == targets
    assert host.features == ()
    assert host.int8_gain == "measure"
    assert host.cpu


def test_cores_are_those_this_process_may_use() -> None:
    host = detect()
    assert host.cores == len(os.sched_getaffinity(0))
    one = {min(os.sched_getaffinity(0))}
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, one)
    try:
        assert device.available_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


def test_this_machine_is_a_board_like_others() -> None:
    host = find("host")
    assert host == detect()
    assert host.memory_mb > 100
    assert set(host.features) <= set(device.FEATURES)
    assert host.title == f"this machine ({host.cpu})"
