"""Boards and systems: the file is read strictly, machines are detected by what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from edgepack import _root, device
from edgepack.errors import DeviceFileError, UnknownDevice

SYSTEM = {"title": "Debian 12", "python": "3.11", "glibc": "2.36"}
BOARD = {
    "title": "A board",
    "family": "arm",
    "arch": "aarch64",
    "cpu": "Cortex-A76",
    "cores": 4,
    "memory_mb": 2048,
    "features": ["asimd", "asimddp"],
    "systems": ["mine"],
    "targets": {"onnxruntime": ["fp32", "int8"]},
    "int8_gain": "expected",
    "int8_why": "it has the dot product",
}


def write(folder: Path, board: dict[str, Any] | None = None, system: dict[str, Any] | None = None) -> Path:
    path = folder / "boards.yaml"
    content = {"systems": {"mine": {**SYSTEM, **(system or {})}}, "boards": {"mine": {**BOARD, **(board or {})}}}
    path.write_text(yaml.safe_dump(content))
    return path


def test_three_families_of_at_least_eighteen_boards() -> None:
    boards = device.read()
    assert len(boards) >= 18
    assert {board.family for board in boards.values()} == set(device.FAMILIES)


def test_every_board_runs_with_each_of_its_systems() -> None:
    for name, board in device.read().items():
        for system in board.systems:
            found = device.find(f"{name}@{system}")
            assert found.system.name == system and found.system.python and found.system.glibc


def test_a_system_may_be_of_another_width() -> None:
    assert device.find("rpi4").arch == "aarch64"
    assert device.find("rpi4@bookworm32").arch == "armv7l"


def test_the_name_tells_the_system_where_it_is_not_the_usual_one() -> None:
    assert device.find("rpi4@bookworm").name == "rpi4"
    assert device.find("orin-nano@jp5.1").name == "orin-nano@jp5.1"


@pytest.mark.parametrize(
    ("name", "saturates"),
    [("intel-avx2", True), ("intel-n100", False), ("intel-vnni", False), ("intel-xeon-amx", False), ("rpi4", False)],
)
def test_cpus_that_add_int8_products_with_saturation(name: str, saturates: bool) -> None:
    assert device.find(name).saturates is saturates


@pytest.mark.parametrize(
    ("name", "hint"),
    [("rpi44", "rpi4"), ("RPI5", "rpi5"), ("orin", "orin-n"), ("zzzz", "known devices: host")],
)
def test_an_unknown_board_gets_a_suggestion(name: str, hint: str) -> None:
    with pytest.raises(UnknownDevice) as caught:
        device.find(name)
    assert hint in caught.value.hint


def test_an_unknown_system_gets_a_suggestion() -> None:
    with pytest.raises(UnknownDevice) as caught:
        device.find("rpi4@bokworm")
    assert "rpi4@bookworm" in caught.value.hint


def test_a_device_file_adds_and_replaces(tmp_path: Path) -> None:
    path = write(tmp_path)
    boards = device.read(path)
    assert "mine" in boards and "rpi4" in boards
    content = yaml.safe_load(path.read_text())
    content["boards"]["rpi4"] = {**BOARD, "title": "my own Pi"}
    path.write_text(yaml.safe_dump(content))
    assert device.find("rpi4", path).title == "my own Pi"


def test_a_device_file_may_use_the_systems_of_edgepack(tmp_path: Path) -> None:
    assert device.find("mine@jammy", write(tmp_path, {"systems": ["bookworm", "jammy"]})).system.glibc == "2.35"


@pytest.mark.parametrize(
    ("board", "words"),
    [
        ({"cores": "4"}, ["board mine", "key cores", "int"]),
        ({"cores": True}, ["key cores"]),
        ({"cores": 0}, ["key cores", "positive"]),
        ({"features": ["asimd", "mmx"]}, ["key features", "mmx"]),
        ({"arch": "sparc"}, ["key arch", "sparc"]),
        ({"family": "toy"}, ["key family"]),
        ({"systems": []}, ["key systems", "empty"]),
        ({"systems": ["plan9"]}, ["key systems", "plan9"]),
        ({"targets": {"onnxruntime": ["int9"]}}, ["key targets", "int9"]),
        ({"targets": {"onnxruntime": "int8"}}, ["key targets", "list"]),
        ({"int8_gain": "maybe"}, ["key int8_gain", "maybe"]),
        ({"colour": "green"}, ["key colour", "unknown"]),
        ({"gpu": {"compute": "8.7"}}, ["gpu", "key int8", "missing"]),
        ({"channels": [8, 20]}, ["key channels", "multiple"]),
        ({"channels": [8]}, ["key channels", "two numbers"]),
    ],
)
def test_a_wrong_key_is_named_with_its_file_and_board(tmp_path: Path, board: dict[str, Any], words: list[str]) -> None:
    path = write(tmp_path, board)
    with pytest.raises(DeviceFileError) as caught:
        device.read(path)
    assert all(word in caught.value.message for word in [str(path), *words])


def test_a_board_may_say_what_pruned_layers_are_a_multiple_of(tmp_path: Path) -> None:
    assert device.find("mine", write(tmp_path, {})).channels == device.CHANNELS
    assert device.find("mine", write(tmp_path, {"channels": [4, 32]})).channels == (4, 32)


@pytest.mark.parametrize("key", sorted(BOARD))
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    path = write(tmp_path)
    content = yaml.safe_load(path.read_text())
    del content["boards"]["mine"][key]
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(DeviceFileError, match=f"board mine: key {key}: missing"):
        device.read(path)


def test_a_misspelt_key_gets_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(DeviceFileError) as caught:
        device.read(write(tmp_path, {"memory": 2048}))
    assert caught.value.hint == "did you mean memory_mb?"


@pytest.mark.parametrize("system", [{"glibc": 2.36}, {"arch": "z80"}, {"kernel": "6.1"}])
def test_a_wrong_key_of_a_system_is_named(tmp_path: Path, system: dict[str, Any]) -> None:
    with pytest.raises(DeviceFileError, match=f"system mine: key {next(iter(system))}"):
        device.read(write(tmp_path, system=system))


@pytest.mark.parametrize("text", ["", "boards: [rpi4]", "just words", "boards: {a: 1}", "{", "bords: {}"])
def test_a_file_that_holds_no_boards_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "boards.yaml").write_text(text)
    with pytest.raises(DeviceFileError):
        device.read(tmp_path / "boards.yaml")
    with pytest.raises(DeviceFileError, match="does not exist"):
        device.read(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("machine", "flags", "features", "gain", "saturates"),
    [
        ("x86_64", "fpu sse4_2 avx2", ("avx2",), "expected", True),
        ("AMD64", "avx2 avx_vnni", ("avx2", "avx_vnni"), "expected", False),
        ("aarch64", "fp asimd crc32", ("asimd",), "measure", False),
        ("arm64", "fp asimd asimdhp asimddp", ("asimd", "asimddp", "asimdhp"), "expected", False),
    ],
)
def test_a_machine_is_judged_by_its_flags(
    machine: str, flags: str, features: tuple[str, ...], gain: str, saturates: bool
) -> None:
    found = device.from_facts("x", "x", device.Facts(machine=machine, flags=tuple(flags.split())))
    assert found.features == features and found.int8_gain == gain and found.saturates is saturates


def test_this_machine_is_detected() -> None:
    import platform

    found = device.find("host")
    assert found.arch == device.architecture(platform.machine())
    assert found.cores == device.available_cores() and found.memory_mb > 256
    assert found.system.python == ".".join(platform.python_version_tuple()[:2])


def test_a_detected_profile_can_be_pasted_into_a_file(tmp_path: Path) -> None:
    facts = device.Facts(machine="aarch64", cpu="Cortex-A72", flags=("asimd",), cores=4, python="3.11", glibc="2.36")
    found = device.from_facts("my-pi", "a Pi", facts)
    (tmp_path / "boards.yaml").write_text(device.profile(found))
    again = device.find("my-pi", tmp_path / "boards.yaml")
    assert again.features == found.features and again.targets == found.targets
    assert again.system.python == "3.11" and again.system.glibc == "2.36"


def test_the_file_of_edgepack_says_what_its_keys_mean() -> None:
    head = _root.DEVICES.read_text(encoding="utf-8").partition("\nsystems:")[0]
    assert all(key in head for key in [*BOARD, "gpu", "note", "python", "glibc"])


@pytest.mark.parametrize(
    ("model", "name"), [("0xd08", "Cortex-A72"), ("0xD0B", "Cortex-A76"), ("0xfff", ""), ("AMD EPYC", "AMD EPYC")]
)
def test_arm_cores_are_called_by_their_names(model: str, name: str) -> None:
    assert device.core_name(model) == name
