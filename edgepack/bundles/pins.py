"""Pins: the newest versions that have wheels for a board's Python, glibc and architecture (targets/wheels.yaml)."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from packaging.requirements import Requirement

from edgepack import _root
from edgepack.device import System
from edgepack.errors import UnfitDevice

OLDEST_PYTHON = (3, 8)
_DEBIAN = {"pillow": "python3-pil"}


@dataclass(frozen=True, kw_only=True)
class Reads:
    """The newest ONNX file that a runtime's version loads."""

    ir: int
    opset: int


@functools.cache
def _table() -> Mapping[str, Any]:
    import yaml

    table: Mapping[str, Any] = yaml.safe_load((_root.TARGETS / "wheels.yaml").read_text(encoding="utf-8"))
    return table


def newest(package: str, arch: str, system: System) -> str | None:
    """The newest version of `package` with a wheel for the system, or None; a bound is part of the table's names."""
    for row in _table()["wheels"].get(package, {}).get(arch, []):
        if system.python in row["python"] and version_tuple(row["glibc"]) <= version_tuple(system.glibc):
            return str(row["version"])
    return None


def brought(package: str, arch: str, system: System) -> str | None:
    """The version that the system's own packages bring, where there is no wheel and it is not too new or too old."""
    wanted = Requirement(package)
    version = system.brings.get(wanted.name)
    if version is None or version not in wanted.specifier or newest(package, arch, system) is not None:
        return None
    return version


def pins(packages: tuple[str, ...], arch: str, system: System) -> dict[str, str]:
    """A version for each package, which may have a bound as in "numpy<2"; by the names of the distributions.

    Raises:
        UnfitDevice: one has no wheel, naming what there would be.
    """
    if version_tuple(system.python) < OLDEST_PYTHON:
        raise UnfitDevice(
            f"{system.title} has Python {system.python}, a bundle needs 3.8 or newer", "install a newer Python there"
        )
    chosen = {}
    for package in packages:
        version = newest(package, arch, system) or brought(package, arch, system)
        if version is None:
            raise UnfitDevice(
                f"there is no wheel of {package} for Python {system.python} on {arch} with glibc {system.glibc}",
                alternatives(package, arch, system),
            )
        chosen[Requirement(package).name] = version
    return chosen


def from_the_system(packages: tuple[str, ...], arch: str, system: System) -> str:
    """What has no wheel and comes from the system's own packages, in a line; empty where there is nothing."""
    found = {package: version for package in packages if (version := brought(package, arch, system)) is not None}
    if not found:
        return ""
    names = " ".join(_DEBIAN.get(package, f"python3-{package}") for package in found)
    versions = ", ".join(f"{package} {version}" for package, version in found.items())
    return f"no wheel of {versions} for {arch}, so that of the system: apt-get install {names}"


def exists_for(package: str, arch: str) -> bool:
    """Whether there is a wheel for the architecture at all."""
    return bool(_table()["wheels"].get(package, {}).get(arch))


def alternatives(package: str, arch: str, system: System) -> str:
    """What would have a wheel: another Python or glibc on this architecture, or nothing at all."""
    rows = _table()["wheels"].get(package, {}).get(arch, [])
    fitting = {python for row in rows for python in row["python"] if fits(row["glibc"], system.glibc)}
    if fitting:
        return f"with Python {', '.join(sorted(fitting, key=version_tuple))} there would be one"
    if rows:
        return f"it needs glibc {min((row['glibc'] for row in rows), key=version_tuple)} or newer"
    return f"there are none for {arch} at all; take a 64-bit system, or another target"


def reads(package: str, version: str) -> Reads | None:
    """What a version of a runtime loads; that of the nearest older version known where it is not in the table."""
    known = _table()["reads"].get(package, {})
    older = [entry for entry in known if version_tuple(entry) <= version_tuple(version)]
    if not older:
        return None
    return Reads(**known[max(older, key=version_tuple)])


def fits(needed: str, there: str) -> bool:
    return version_tuple(needed) <= version_tuple(there)


def version_tuple(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())
