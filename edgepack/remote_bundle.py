"""A bundle on another machine: preflight, upload, install, check, bench, and the results back."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgepack import bundle, device, wheels
from edgepack.candidate import Progress
from edgepack.errors import HostError, RunFailed, UnfitHost
from edgepack.hosts import Completed, connect
from edgepack.local import error_from
from edgepack.metric import harness as figures
from edgepack.pins import version_tuple
from edgepack.remote import Remote

# The board's own Python of the version that the wheels are for, else whatever python3 is.
_PYTHON = 'python=$(command -v "python$1" || command -v python3) || { echo "error: there is no python3" >&2; exit 52; }'
_UNPACK = (
    _PYTHON
    + """
cd "$2" && rm -rf "$4" && "$python" - "$3" <<'END'
import sys, tarfile
with tarfile.open(sys.argv[1]) as tar:
    tar.extractall(".", **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
END"""
)
_HARNESS = _PYTHON + '\nfolder=$2; shift 2; export ORT_DISABLE_TELEMETRY=1; exec "$python" -B "$folder/harness.py" "$@"'
# Unpacked wheels take about this many times their archive's size, and the archive lies there too.
_UNPACKED = 4


def harness(
    folder: Path, manifest: bundle.Manifest, on: str, command: str, arguments: list[str], progress: Progress
) -> dict[str, Any]:
    """Upload the bundle in `folder` to the host `on`, install its wheels, and run its harness there.

    Returns:
        What the harness printed, with `host` and `emulated`; an emulated board's times are left out.

    Raises:
        UnfitHost: before anything is copied, if the machine is not one the bundle runs on.
        HostError, HostLost, WriteFailed, and what the harness itself finds.
    """
    with _remote(on) as remote:
        progress(f"looking at {on}", 0, 0)
        problems = unfit(manifest, remote.facts(), _wheel_bytes(folder))
        if problems:
            raise UnfitHost(f"{on}: {problems[0][0]}", problems[0][1])
        place = _deliver(remote, folder, manifest, progress)
        if (folder / wheels.FOLDER).is_dir():
            progress("installing there", 0, 0)
            _job(remote, manifest, place, ["install"])
        progress("checking there" if command == "check" else "checking and timing there", 0, 0)
        if remote.transport.emulated and command == "bench":
            # Emulated times say nothing of the device, so none are taken.
            report = _job(remote, manifest, place, ["check"])
            result = {**_header(manifest), "models": {}, "check": report}
        else:
            result = _job(remote, manifest, place, [command, *arguments])
        return {**result, "host": on, "emulated": remote.transport.emulated}


def unfit(manifest: Mapping[str, Any], facts: Mapping[str, Any], wheel_bytes: int) -> list[tuple[str, str]]:
    """Why a machine with these facts would not run the bundle: what is wrong, and what to do; worst first."""
    needed = manifest.get("requires", {})
    board = manifest["device"]
    found = []
    arch = facts.get("machine")
    if arch and needed.get("arch") and device.architecture(arch) != needed["arch"]:
        found.append(
            (f"it is {arch}, and the bundle is for {board} ({needed['arch']})", "build it with --device for it")
        )
    python = facts.get("python")
    if not python:
        found.append(("it has no python3", "install Python 3.8 or newer there"))
    elif needed.get("python") and version_tuple(python)[:2] < version_tuple(needed["python"])[:2]:
        found.append((f"it has Python {python}, and the bundle needs {needed['python']}", _for_its_system(board)))
    elif wheel_bytes and version_tuple(python)[:2] != version_tuple(needed["python"])[:2]:
        found.append(
            (f"it has Python {python}, and the bundle's wheels are for {needed['python']}", _for_its_system(board))
        )
    glibc = facts.get("glibc")
    if glibc and needed.get("glibc") and version_tuple(glibc) < version_tuple(needed["glibc"]):
        found.append((f"it has glibc {glibc}, and the wheels need {needed['glibc']}", _for_its_system(board)))
    flags = set(facts.get("cpu_flags") or [])
    if needed.get("int8_dot_product") and flags and not flags & {"avx_vnni", "avx512_vnni", "amx_int8"}:
        found.append(("its CPU adds int8 products with saturation", "build it with --device intel-avx2"))
    memory = facts.get("memory_available_kb")
    if memory and needed.get("memory_mb", 0) * 1024 > memory:
        found.append(
            (
                f"it has {memory / 1024:.0f} MB of memory free; the bundle took {needed['memory_mb']} MB at home",
                "free some, or take a smaller model",
            )
        )
    disk = facts.get("disk_free_bytes")
    if disk is not None and wheel_bytes * (_UNPACKED + 1) > disk:
        found.append((f"it has {disk / 1e6:.0f} MB of disk free, and the wheels need more", "free some space there"))
    return found


def detect(on: str, name: str) -> device.Device:
    """A machine as a device, from what it says of itself."""
    with _remote(on) as remote:
        facts = remote.facts()
        return device.from_facts(
            name,
            f"{device.core_name(facts.get('cpu') or '') or facts.get('machine')} at {on}",
            device.Facts(
                machine=facts.get("machine") or "",
                cpu=device.core_name(facts.get("cpu") or "") or facts.get("machine") or "unknown",
                flags=tuple(facts.get("cpu_flags") or ()),
                cores=facts.get("cores") or 1,
                memory_mb=(facts.get("memory_kb") or 1_048_576) // 1024,
                python=".".join((facts.get("python") or "").split(".")[:2]),
                glibc=facts.get("glibc") or "",
                system="as found",
            ),
        )


def clean(on: str) -> list[str]:
    """Stop what runs on a host and remove edgepack's folder there; returns what was in it."""
    with _remote(on) as remote:
        return remote.clean()


@contextmanager
def _remote(on: str) -> Iterator[Remote]:
    transport = connect(on)
    try:
        yield Remote(transport)
    finally:
        transport.close()


def _deliver(remote: Remote, folder: Path, manifest: bundle.Manifest, progress: Progress) -> str:
    """Copy the bundle there and unpack it; returns its folder there."""
    digest = figures().sha256(str(folder / figures().SUMS))[:12]
    name = f"{re.sub(r'[^A-Za-z0-9._-]', '_', manifest['name'])}-{digest}"
    archive = bundle.pack(folder)
    try:
        remote.put(archive, f"{name}.tar.gz", progress)
    finally:
        archive.unlink()
    python = manifest["requires"]["python"]
    arguments = [python, remote.root, f"{name}.tar.gz", folder.name]
    done = remote.transport.run(_UNPACK, arguments, timeout=300)
    if done.returncode != 0:
        raise _failure(remote, done)
    return f"{remote.root}/{folder.name}"


def _job(remote: Remote, manifest: bundle.Manifest, place: str, arguments: list[str]) -> dict[str, Any]:
    """Run the harness there as a job that outlives the connection."""
    done = remote.run("harness", _HARNESS, [manifest["requires"]["python"], place, *arguments, "--json"])
    if done.returncode != 0:
        raise _failure(remote, done)
    try:
        result: dict[str, Any] = json.loads(done.stdout)
    except ValueError as error:
        raise RunFailed(
            f"the harness on {remote.transport.name} printed no JSON", "try again, or run harness.py there by hand"
        ) from error
    return result


def _failure(remote: Remote, done: Completed) -> Exception:
    error = error_from(done.returncode, done.stderr.decode(errors="replace"), f"the harness on {remote.transport.name}")
    if "No space left" in error.message:
        return HostError(f"{remote.transport.name}: no space left there", "free some space, or edgepack devices clean")
    return error


def _header(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "format": figures().FORMAT,
        "kind": "measurement",
        "bundle": {key: manifest[key] for key in ("name", "version", "target", "precision", "device")},
        "threads": manifest["threads"],
    }


def _wheel_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in (folder / wheels.FOLDER).glob("*.whl"))


def _for_its_system(board: str) -> str:
    return f"build it with --device {board.partition('@')[0]}@SYSTEM for the system it runs (edgepack devices show)"
