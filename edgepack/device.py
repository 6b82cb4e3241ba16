"""Devices: flat facts about boards and their systems, read strictly from devices.yaml, or detected."""

from __future__ import annotations

import difflib
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgepack._root import DEVICES
from edgepack.errors import DeviceFileError, UnknownDevice

ARCHITECTURES = ("x86_64", "aarch64", "armv7l")
FAMILIES = ("arm", "intel", "jetson")
PRECISIONS = ("fp32", "fp16", "int8", "dynamic", "w8", "w4", "w8a16")
# Weights of w4 that may share a scale: what MatMulNBits has kernels for.
BLOCKS = (16, 32, 64, 128)
# Channels that kernels take at once, in narrow layers and in wide ones, where a board says nothing of its own: what
# vectors of 128 to 512 bits and blocked layouts hold.
CHANNELS = (8, 16)
_CPU = ("fp32", "fp16", "int8", "dynamic", "w8", "w4")
GAINS = ("expected", "measure")
# Flags of /proc/cpuinfo that change what a runtime computes or how fast.
FEATURES = (
    "avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8", "amx_bf16",
    "asimd", "asimddp", "asimdhp", "i8mm", "bf16", "sve",
)  # fmt: skip
_DOT_PRODUCT = {"avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"}
HOST = "host"
# "CPU part" in /proc/cpuinfo of ARM Ltd.'s own cores (gcc, aarch64-cores.def).
_PARTS = {
    "0xd03": "Cortex-A53", "0xd04": "Cortex-A35", "0xd05": "Cortex-A55", "0xd07": "Cortex-A57", "0xd08": "Cortex-A72",
    "0xd09": "Cortex-A73", "0xd0b": "Cortex-A76", "0xd0c": "Neoverse N1", "0xd40": "Neoverse V1", "0xd41": "Cortex-A78",
    "0xd42": "Cortex-A78AE", "0xd46": "Cortex-A510", "0xd47": "Cortex-A710",
    "0xd49": "Neoverse N2", "0xd4f": "Neoverse V2",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class JetPack:
    """What a JetPack comes with: L4T, CUDA and TensorRT, by the numbers that tell them apart."""

    version: str
    l4t: str
    cuda: str
    tensorrt: str


@dataclass(frozen=True, kw_only=True)
class System:
    """What runs on a board. `python` and `glibc` decide which wheels fit; empty where they are unknown.

    `brings` are the versions of distributions that its own packages install, for where there are no wheels.
    """

    name: str
    title: str
    python: str
    glibc: str
    arch: str = ""
    note: str = ""
    brings: dict[str, str] = field(default_factory=dict)
    jetpack: JetPack | None = None


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A Jetson's GPU: what its tensor cores do, and its deep learning accelerators."""

    compute: str
    int8: bool
    fp16: bool
    sparsity: bool
    dla: int


@dataclass(frozen=True, kw_only=True)
class Device:
    """What is known of a board with one of its systems.

    `targets` maps a runtime to the precisions it runs well there, the default first. `channels` are what pruned layers
    keep a multiple of, narrow and wide ones.
    """

    board: str
    title: str
    family: str
    arch: str
    cpu: str
    cores: int
    memory_mb: int
    features: tuple[str, ...]
    system: System
    systems: tuple[str, ...]
    targets: dict[str, tuple[str, ...]]
    int8_gain: str
    int8_why: str
    gpu: Gpu | None = None
    note: str = ""
    channels: tuple[int, int] = CHANNELS

    @property
    def name(self) -> str:
        """As for --device: with the system where that is not the board's usual one."""
        usual = not self.systems or self.system.name == self.systems[0]
        return self.board if usual else f"{self.board}@{self.system.name}"

    @property
    def saturates(self) -> bool:
        """True where u8×s8 products are added in pairs of 16 bits, which overflows (VPMADDUBSW)."""
        return self.arch == "x86_64" and not self.has_dot_product

    @property
    def has_dot_product(self) -> bool:
        """True where the CPU adds int8 products into 32 bits in one instruction."""
        return bool(_DOT_PRODUCT & set(self.features))


# --- devices.yaml -----------------------------------------------------------------------------------------

# Key -> type and whether it must be there.
_SYSTEM_KEYS: dict[str, tuple[type, bool]] = {
    "title": (str, True), "python": (str, True), "glibc": (str, True), "arch": (str, False), "note": (str, False),
    "brings": (dict, False), "jetpack": (dict, False),
}  # fmt: skip
_BOARD_KEYS: dict[str, tuple[type, bool]] = {
    "title": (str, True), "family": (str, True), "arch": (str, True), "cpu": (str, True), "cores": (int, True),
    "memory_mb": (int, True), "features": (list, True), "systems": (list, True), "targets": (dict, True),
    "int8_gain": (str, True), "int8_why": (str, True), "gpu": (dict, False), "note": (str, False),
    "channels": (list, False),
}  # fmt: skip
_JETPACK_KEYS: dict[str, tuple[type, bool]] = {
    "version": (str, True), "l4t": (str, True), "cuda": (str, True), "tensorrt": (str, True),
}  # fmt: skip
_GPU_KEYS: dict[str, tuple[type, bool]] = {
    "compute": (str, True), "int8": (bool, True), "fp16": (bool, True), "sparsity": (bool, True), "dla": (int, True),
}  # fmt: skip


def read(path: Path | None = None) -> dict[str, Device]:
    """Every board of edgepack's own file with its usual system, then those of `path`, which add or replace.

    Raises:
        DeviceFileError: naming the file, the board and the key.
    """
    return {name: _device(board, None) for name, board in _boards(path).items()}


def find(name: str, path: Path | None = None) -> Device:
    """The device called BOARD or BOARD@SYSTEM; `host` is this machine.

    Args:
        path: a device file that adds to edgepack's own, or replaces its boards.

    Raises:
        UnknownDevice: with the nearest name as a hint.
    """
    if name == HOST:
        return detect()
    board_name, _, system = name.partition("@")
    boards = _boards(path)
    if board_name not in boards:
        near = difflib.get_close_matches(board_name.lower(), [*boards, HOST], 1, cutoff=0.5)
        known = ", ".join([HOST, *boards])
        raise UnknownDevice(f"no device {name!r}", f"did you mean {near[0]}?" if near else f"known devices: {known}")
    board = boards[board_name]
    if system and system not in board["systems"]:
        near = difflib.get_close_matches(system, board["systems"], 1, cutoff=0.5)
        raise UnknownDevice(
            f"no system {system!r} for {board_name}",
            f"did you mean {board_name}@{near[0]}?" if near else f"it runs {', '.join(board['systems'])}",
        )
    return _device(board, system or None)


def _boards(path: Path | None) -> dict[str, dict[str, Any]]:
    """The checked boards of both files, each with its name and its systems' tables filled in."""
    systems: dict[str, System] = {}
    boards: dict[str, dict[str, Any]] = {}
    for file in (DEVICES, path):
        if file is not None:
            _read_file(file, systems, boards)
    return boards


def _read_file(path: Path, systems: dict[str, System], boards: dict[str, dict[str, Any]]) -> None:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DeviceFileError(f"{path} does not exist", "give the path of a device file") from error
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise DeviceFileError(
            f"{path} cannot be read: {error}", "it should be YAML; see the shipped devices.yaml"
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("boards"), dict) or not content["boards"]:
        raise DeviceFileError(f"{path} holds no boards", "boards: is a table, each board a name with its keys below it")
    for key in content:
        if key not in ("boards", "systems"):
            raise DeviceFileError(f"{path}: key {key}: unknown", "systems and boards are the two tables of the file")
    for name, table in (content.get("systems") or {}).items():
        where = f"{path}: system {name}"
        _check_keys(where, table, _SYSTEM_KEYS)
        _check_choice(where, "arch", table.get("arch", "aarch64"), ARCHITECTURES)
        for package, version in table.get("brings", {}).items():
            if not isinstance(version, str):
                raise DeviceFileError(
                    f"{where}: key brings: {package} should be a version", 'in quotes, such as numpy: "1.24.2"'
                )
        if "jetpack" in table:
            _check_keys(f"{where}: jetpack", table["jetpack"], _JETPACK_KEYS)
            table = {**table, "jetpack": JetPack(**table["jetpack"])}
        systems[str(name)] = System(name=str(name), **table)
    for name, table in content["boards"].items():
        _check_board(f"{path}: board {name}", table, systems)
        boards[str(name)] = {**table, "name": str(name), "known": {s: systems[s] for s in table["systems"]}}


def _check_board(where: str, board: Any, systems: Mapping[str, System]) -> None:
    _check_keys(where, board, _BOARD_KEYS)
    for key, allowed in (("arch", ARCHITECTURES), ("family", FAMILIES), ("int8_gain", GAINS)):
        _check_choice(where, key, board[key], allowed)
    for key in ("cores", "memory_mb"):
        if board[key] < 1:
            raise DeviceFileError(f"{where}: key {key}: should be positive", f"it is {board[key]}")
    for feature in board["features"]:
        _check_choice(where, "features", feature, FEATURES)
    for key in ("systems", "targets"):
        if not board[key]:
            raise DeviceFileError(f"{where}: key {key}: is empty", "name one at least")
    for system in board["systems"]:
        _check_choice(where, "systems", system, tuple(systems))
    for target, precisions in board["targets"].items():
        if not isinstance(precisions, list) or not precisions:
            raise DeviceFileError(
                f"{where}: key targets: {target} should list precisions", f"any of {', '.join(PRECISIONS)}"
            )
        for precision in precisions:
            _check_choice(where, "targets", precision, PRECISIONS)
    if "gpu" in board:
        _check_keys(f"{where}: gpu", board["gpu"], _GPU_KEYS)
    _check_channels(where, board.get("channels", list(CHANNELS)))


def _check_channels(where: str, channels: list[object]) -> None:
    match channels:
        case [int(narrow), int(wide)] if 0 < narrow <= wide and wide % narrow == 0:
            return
    raise DeviceFileError(
        f"{where}: key channels: {channels} should be two numbers, the second a multiple of the first",
        f"such as {list(CHANNELS)}, for narrow and wide layers",
    )


def _check_keys(where: str, table: Any, keys: Mapping[str, tuple[type, bool]]) -> None:
    if not isinstance(table, dict):
        raise DeviceFileError(f"{where}: not a table of keys", f"it takes {', '.join(keys)}")
    for key in table:
        if key not in keys:
            near = difflib.get_close_matches(str(key), keys, 1)
            raise DeviceFileError(
                f"{where}: key {key}: unknown", f"did you mean {near[0]}?" if near else f"keys: {', '.join(keys)}"
            )
    for key, (kind, needed) in keys.items():
        if key not in table:
            if needed:
                raise DeviceFileError(f"{where}: key {key}: missing", f"add it: a {kind.__name__}")
            continue
        if not isinstance(table[key], kind) or (kind is int and isinstance(table[key], bool)):
            raise DeviceFileError(
                f"{where}: key {key}: should be a {kind.__name__}, is {table[key]!r}",
                "see the boards in the shipped devices.yaml",
            )


def _nearest(value: object, allowed: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(str(value), allowed, 1)
    return f"did you mean {near[0]}?" if near else "take one of these"


def _check_choice(where: str, key: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise DeviceFileError(
            f"{where}: key {key}: {value!r} is not one of {', '.join(allowed)}", _nearest(value, allowed)
        )


def _device(board: Mapping[str, Any], system: str | None) -> Device:
    chosen: System = board["known"][system or board["systems"][0]]
    return Device(
        board=board["name"],
        title=board["title"],
        family=board["family"],
        arch=chosen.arch or board["arch"],
        cpu=board["cpu"],
        cores=board["cores"],
        memory_mb=board["memory_mb"],
        features=tuple(board["features"]),
        system=chosen,
        systems=tuple(board["systems"]),
        targets={str(target): tuple(precisions) for target, precisions in board["targets"].items()},
        int8_gain=board["int8_gain"],
        int8_why=board["int8_why"],
        gpu=Gpu(**board["gpu"]) if "gpu" in board else None,
        note=board.get("note", ""),
        channels=tuple(board.get("channels", CHANNELS)),
    )


# --- a machine --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a machine says of itself; empty or zero where it does not say."""

    machine: str
    cpu: str = ""
    flags: tuple[str, ...] = ()
    cores: int = 1
    memory_mb: int = 1024
    python: str = ""
    glibc: str = ""
    system: str = ""


def detect() -> Device:
    """This machine as a device, from /proc/cpuinfo and os.sched_getaffinity."""
    cpuinfo = _cpuinfo()
    flags = (cpuinfo.get("flags") or cpuinfo.get("features") or "").split()
    facts = Facts(
        machine=platform.machine(),
        cpu=core_name(cpuinfo.get("model name") or cpuinfo.get("cpu part") or platform.processor())
        or platform.machine(),
        flags=tuple(flags),
        cores=available_cores(),
        memory_mb=_memory_mb(),
        python=".".join(platform.python_version_tuple()[:2]),
        glibc=platform.libc_ver()[1],
        system=platform.system(),
    )
    return from_facts(HOST, f"this machine ({facts.cpu})", facts)


def from_facts(name: str, title: str, facts: Facts) -> Device:
    """A device from what a machine says of itself; never from its name."""
    arch = architecture(facts.machine)
    features = tuple(feature for feature in FEATURES if feature in facts.flags)
    dots = sorted(_DOT_PRODUCT & set(features))
    targets: dict[str, tuple[str, ...]] = {"onnxruntime": _CPU}
    if arch == "x86_64":
        targets["openvino"] = _CPU
    elif arch == "aarch64":
        targets["openvino"] = ("fp32", "fp16")
    targets["tflite"] = ("fp32", "fp16", "int8", "dynamic", "w8")
    return Device(
        board=name,
        title=title,
        family="intel" if arch == "x86_64" else "arm",
        arch=arch,
        cpu=facts.cpu,
        cores=facts.cores,
        memory_mb=facts.memory_mb,
        features=features,
        system=System(name="detected", title=facts.system or "unknown", python=facts.python, glibc=facts.glibc),
        systems=(),
        targets=targets,
        int8_gain="expected" if dots or (arch == "x86_64" and "avx2" in features) else "measure",
        int8_why=f"it has {', '.join(dots)}" if dots else "it has no int8 dot product",
    )


def core_name(model: str) -> str:
    """A core by its name, from what /proc/cpuinfo calls its model or part."""
    return _PARTS.get(model.lower(), "" if model.startswith("0x") else model)


def architecture(machine: str) -> str:
    """`uname -m` by one name for each architecture."""
    return {"amd64": "x86_64", "arm64": "aarch64", "armv8l": "armv7l"}.get(machine.lower(), machine.lower())


def profile(device: Device) -> str:
    """A device as YAML, ready to paste into a device file."""
    import yaml

    system = f"{device.board}-system"
    table: dict[str, Any] = {
        "systems": {
            system: {"title": device.system.title, "python": device.system.python, "glibc": device.system.glibc}
        },
        "boards": {
            device.board: {
                "title": device.title,
                "family": device.family,
                "arch": device.arch,
                "cpu": device.cpu,
                "cores": device.cores,
                "memory_mb": device.memory_mb,
                "features": list(device.features),
                "systems": [system],
                "targets": {target: list(precisions) for target, precisions in device.targets.items()},
                "int8_gain": device.int8_gain,
                "int8_why": device.int8_why,
            }
        },
    }
    return yaml.safe_dump(table, sort_keys=False, default_flow_style=None, allow_unicode=True, width=110)


def available_cores() -> int:
    """Cores this process may use; not os.cpu_count, which ignores the affinity mask."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpuinfo() -> dict[str, str]:
    """The first processor's fields, keys in lower case; empty where there is no /proc/cpuinfo."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip().lower(), value.strip())
    return fields


def _memory_mb() -> int:
    try:
        return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20)
    except (ValueError, OSError, AttributeError):
        return 1024
