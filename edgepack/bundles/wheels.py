"""Wheels in the bundle, so that a board without network or pip can run it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from edgepack.bundles.pins import brought, version_tuple
from edgepack.device import HOST, Device
from edgepack.errors import UnfitDevice

FOLDER = "wheels"
# The names of manylinux before it was called by its glibc.
LEGACY = {"manylinux2014": 17, "manylinux2010": 12, "manylinux1": 5}


def platforms(arch: str, glibc: str) -> list[str]:
    """Every platform tag that a system with this glibc takes; pip does not work them out by itself."""
    minor = version_tuple(glibc)[1]
    return [
        *(f"manylinux_2_{number}_{arch}" for number in range(minor, 4, -1)),
        *(f"{name}_{arch}" for name, needed in LEGACY.items() if needed <= minor),
    ]


def fetch(requirements: Sequence[str], device: Device, folder: Path) -> str:
    """Download the wheels of the requirements, and of all that they require, for the device's system.

    What has no wheel there and comes from the system's own packages is left out.

    Returns:
        A line on what was fetched.

    Raises:
        UnfitDevice: something has no wheel there, or the package index cannot be reached.
    """
    system = device.system
    if not system.glibc:
        raise UnfitDevice(
            f"the C library of {device.name} is not glibc, so no wheel is known to fit",
            "leave --wheels out and install there by hand",
        )
    folder.mkdir()
    names = {line: line.partition("==")[0] for line in requirements}
    own = [line for line in requirements if brought(names[line], device.arch, system) is not None]
    wanted = [line for line in requirements if line not in own]
    nodot = system.python.replace(".", "")
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--only-binary=:all:",
        "--dest", str(folder), "--python-version", system.python, "--implementation", "cp",
        *(part for abi in (f"cp{nodot}", "abi3", "none") for part in ("--abi", abi)),
        *(part for platform in platforms(device.arch, system.glibc) for part in ("--platform", platform)),
        # Asked for what it requires, pip would look for a wheel of what the system brings.
        *(["--no-deps"] if own else []),
        *wanted,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
        reason = lines[-1].removeprefix("ERROR: ") if lines else f"pip ended with exit code {done.returncode}"
        where = "this machine" if device.board == HOST else f"{device.name} ({system.title})"
        raise UnfitDevice(f"no wheels for {where}: {reason[:200]}", "leave --wheels out and install there by hand")
    found = sorted(folder.glob("*.whl"))
    size = sum(file.stat().st_size for file in found) / 1e6
    return f"{len(found)} wheels for Python {system.python} on {device.arch}, {size:.0f} MB"
