"""Devices: flat facts about a board, read strictly from devices.yaml, or detected on this machine."""

from __future__ import annotations

import difflib
import os
import platform
from dataclasses import dataclass
from pathlib import Path

from edgepack._root import DEVICES
from edgepack.errors import DeviceFileError, UnknownDevice

ARCHITECTURES = ("x86_64", "aarch64", "armv7l")
PRECISIONS = ("fp32", "fp16", "int8")
GAINS = ("expected", "measure")
# Flags of /proc/cpuinfo that change what a runtime computes or how fast.
FEATURES = (
    "avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8", "amx_bf16",
    "asimd", "asimddp", "asimdhp", "i8mm", "bf16", "sve",
)  # fmt: skip
_DOT_PRODUCT = {"avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"}


@dataclass(frozen=True, kw_only=True)
class Device:
    """What is known of a board. `targets` maps a runtime to the precisions it runs well there."""

    name: str
    title: str
    arch: str
    cpu: str
    cores: int
    memory_mb: int
    features: tuple[str, ...]
    targets: dict[str, tuple[str, ...]]
    int8_gain: str
    int8_why: str

    @property
    def saturates(self) -> bool:
        """True where u8×s8 products are added in pairs of 16 bits, which overflows (VPMADDUBSW)."""
        return self.arch == "x86_64" and not _DOT_PRODUCT & set(self.features)

    @property
    def default_target(self) -> str:
        return next(iter(self.targets))


_KEYS = {
    "title": str, "arch": str, "cpu": str, "cores": int, "memory_mb": int, "features": list,
    "targets": dict, "int8_gain": str, "int8_why": str,
}  # fmt: skip


def read(path: Path = DEVICES) -> dict[str, Device]:
    """Read a device file.

    Raises:
        DeviceFileError: naming the file, the board and the key.
    """
    import yaml

    try:
        boards = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DeviceFileError(f"{path} does not exist") from error
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise DeviceFileError(f"{path} cannot be read: {error}") from error
    if not isinstance(boards, dict) or not boards:
        raise DeviceFileError(f"{path} holds no boards", "each board is a name with its keys below it")
    return {str(name): _device(path, str(name), board) for name, board in boards.items()}


def _device(path: Path, name: str, board: object) -> Device:
    def wrong(key: str, why: str, hint: str = "") -> DeviceFileError:
        return DeviceFileError(f"{path}: board {name}: key {key}: {why}", hint)

    if not isinstance(board, dict):
        raise DeviceFileError(f"{path}: board {name}: not a table of keys")
    for key in board:
        if key not in _KEYS:
            near = difflib.get_close_matches(str(key), _KEYS, 1)
            raise wrong(str(key), "unknown", f"did you mean {near[0]}?" if near else "")
    for key, kind in _KEYS.items():
        if key not in board:
            raise wrong(key, "missing")
        if not isinstance(board[key], kind) or isinstance(board[key], bool):
            raise wrong(key, f"should be a {kind.__name__}, is {board[key]!r}")
    for key, allowed in (("arch", ARCHITECTURES), ("int8_gain", GAINS)):
        if board[key] not in allowed:
            raise wrong(key, f"{board[key]!r} is not one of {', '.join(allowed)}")
    for key in ("cores", "memory_mb"):
        if board[key] < 1:
            raise wrong(key, "should be positive")
    for feature in board["features"]:
        if feature not in FEATURES:
            raise wrong("features", f"{feature!r} is not one of {', '.join(FEATURES)}")
    if not board["targets"]:
        raise wrong("targets", "is empty")
    targets = {}
    for target, precisions in board["targets"].items():
        if not isinstance(precisions, list) or not precisions:
            raise wrong("targets", f"{target} should list precisions")
        for precision in precisions:
            if precision not in PRECISIONS:
                raise wrong("targets", f"{target}: {precision!r} is not one of {', '.join(PRECISIONS)}")
        targets[str(target)] = tuple(precisions)
    return Device(
        name=name,
        title=board["title"],
        arch=board["arch"],
        cpu=board["cpu"],
        cores=board["cores"],
        memory_mb=board["memory_mb"],
        features=tuple(board["features"]),
        targets=targets,
        int8_gain=board["int8_gain"],
        int8_why=board["int8_why"],
    )


def find(name: str, path: Path = DEVICES) -> Device:
    """The board called `name`; `host` is this machine.

    Raises:
        UnknownDevice: with the nearest name as a hint.
    """
    if name == "host":
        return detect()
    boards = read(path)
    if name in boards:
        return boards[name]
    near = difflib.get_close_matches(name, [*boards, "host"], 1, cutoff=0.5)
    known = ", ".join(["host", *boards])
    raise UnknownDevice(f"no device {name!r}", f"did you mean {near[0]}?" if near else f"known devices: {known}")


def detect() -> Device:
    """This machine as a device, from /proc/cpuinfo and os.sched_getaffinity."""
    cpuinfo = _cpuinfo()
    machine = platform.machine().lower()
    arch = {"amd64": "x86_64", "arm64": "aarch64", "armv8l": "armv7l"}.get(machine, machine)
    flags = set((cpuinfo.get("flags") or cpuinfo.get("features") or "").split())
    features = tuple(feature for feature in FEATURES if feature in flags)
    gain = bool(_DOT_PRODUCT & set(features)) or (arch == "x86_64" and "avx2" in features)
    why = f"{', '.join(sorted(_DOT_PRODUCT & set(features))) or 'no int8 dot product'} on this machine"
    targets: dict[str, tuple[str, ...]] = {"onnxruntime": PRECISIONS}
    if arch == "x86_64":
        targets["openvino"] = PRECISIONS
    elif arch == "aarch64":
        targets["openvino"] = ("fp32", "fp16")
    return Device(
        name="host",
        title=f"this machine ({cpuinfo.get('model name') or platform.processor() or machine})",
        arch=arch,
        cpu=cpuinfo.get("model name") or platform.processor() or machine,
        cores=available_cores(),
        memory_mb=_memory_mb(),
        features=features,
        targets=targets,
        int8_gain="expected" if gain else "measure",
        int8_why=why,
    )


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
