"""A bundle on another machine: preflight, upload, install, check, bench, and the results back."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgepack import device, target
from edgepack.bundles import bundle, wheels
from edgepack.bundles.here import error_from
from edgepack.bundles.pins import version_tuple
from edgepack.errors import DoubtfulMeasurement, HostError, RunFailed, UnfitHost, writing
from edgepack.hosts import Completed, connect
from edgepack.hosts.remote import Remote
from edgepack.metrics.merit import harness as figures
from edgepack.progress import Progress

# The board's own Python of the version that the wheels are for, else whatever python3 is.
_PYTHON = 'python=$(command -v "python$1" || command -v python3) || { echo "error: there is no python3" >&2; exit 52; }'
_UNPACK = (
    _PYTHON
    + """
mkdir -p "$2" && cd "$2" && rm -rf "$4" && "$python" - "$3" <<'END'
import sys, tarfile
with tarfile.open(sys.argv[1]) as tar:
    tar.extractall(".", **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
END"""
)
# What is built there, such as engines, outlives the bundle's folder, which each upload makes anew.
_HARNESS = (
    _PYTHON
    + '\nfolder=$2; export EDGEPACK_ENGINES="$3/engines" ORT_DISABLE_TELEMETRY=1; shift 3'
    + '\nexec "$python" -B "$folder/harness.py" "$@"'
)
# Unpacked wheels take about this many times their archive's size, and the archive lies there too.
_UNPACKED = 4


def check(folder: Path, manifest: bundle.Manifest, on: str, flags: Sequence[str], progress: Progress) -> dict[str, Any]:
    """Upload the bundle in `folder` to the host `on`, install its wheels, and run its own harness's check there.

    Args:
        flags: for the harness.

    Returns:
        What the harness printed, with `host` and `emulated`.

    Raises:
        UnfitHost: before anything is copied, if the machine is not one the bundle runs on.
        HostError, HostLost, WriteFailed, and what the harness itself finds.
    """
    with _remote(on) as remote:
        place = _ready(remote, folder, manifest, progress, flags=_fallback_among(flags))
        progress("checking there", 0, 0)
        result = _job(remote, manifest, place, ["check", *flags])
        return {**result, "host": on, "emulated": remote.transport.emulated}


def bench(
    folders: Sequence[Path],
    manifests: Sequence[bundle.Manifest],
    on: str,
    arguments: Sequence[list[str]],
    progress: Progress,
    *,
    emulated_too: bool,
) -> list[dict[str, Any]]:
    """Upload one or two bundles to the host `on`, and time the first, beside the second, with this edgepack's harness.

    Args:
        arguments: a list of flags for each measurement.
        emulated_too: time on an emulated board as well.

    Returns:
        The measurements, with `host` and `emulated`.

    Raises:
        DoubtfulMeasurement: the board is emulated.
        UnfitHost, HostError, HostLost, WriteFailed, and what the harness itself finds.
    """
    fallback = _fallback_among(arguments[0])
    with _remote(on) as remote:
        places = [
            _ready(remote, folder, manifest, progress, below, flags=fallback)
            for folder, manifest, below in zip(folders, manifests, ("", "/.against"), strict=False)
        ]
        emulated = remote.transport.emulated
        if emulated and not emulated_too:
            for place, manifest in zip(places, manifests, strict=True):
                progress("checking there", 0, 0)
                _job(remote, manifest, place, ["check", *fallback])
            raise DoubtfulMeasurement(
                f"{on} answers as it should, but it is emulated, and its times mean nothing",
                "`edgepack check` is for that; --accept-doubts times it all the same",
            )
        kit = _kit(remote, manifests[0])
        results = []
        for index, flags in enumerate(arguments):
            progress("checking and timing there", index, len(arguments))
            against = ["--against", places[1]] if len(places) > 1 else []
            command = ["bench", "--bundle", places[0], *against, *flags]
            results.append({**_job(remote, manifests[0], kit, command), "host": on, "emulated": emulated})
        return results


def profile(
    folder: Path,
    manifest: bundle.Manifest,
    on: str,
    kit: Path,
    flags: list[str],
    progress: Progress,
    *,
    emulated_too: bool,
) -> dict[str, Any]:
    """Upload a bundle and the harness in `kit` to the host `on`, and profile it there.

    Returns:
        What the harness printed, with `host` and `emulated`.

    Raises:
        DoubtfulMeasurement: the board is emulated.
        UnfitHost, HostError, HostLost, WriteFailed, and what the harness itself finds.
    """
    with _remote(on) as remote:
        if remote.transport.emulated and not emulated_too:
            raise DoubtfulMeasurement(
                f"{on} is emulated, and its times mean nothing", "--accept-doubts profiles it all the same"
            )
        place = _ready(remote, folder, manifest, progress)
        with writing(tempfile.gettempdir()), tempfile.TemporaryDirectory() as scratch:
            archive = Path(scratch) / "kit.tar.gz"
            bundle.tar_of(kit, sorted(path for path in kit.rglob("*") if path.is_file()), archive, name="kit")
            name = f"kit-{figures().sha256(str(archive))[:12]}.tar.gz"
            remote.put(archive, name, progress)
        there = _unpack(remote, manifest, name, "/.kit", "kit")
        progress("checking and profiling there", 0, 0)
        result = _job(remote, manifest, there, ["_profile", "--bundle", place, *flags])
        return {**result, "host": on, "emulated": remote.transport.emulated}


def _fallback_among(flags: Sequence[str]) -> list[str]:
    """--allow-fallback and its value, where they are among the flags."""
    at = flags.index("--allow-fallback") if "--allow-fallback" in flags else len(flags)
    return list(flags[at : at + 2])


def _ready(
    remote: Remote,
    folder: Path,
    manifest: bundle.Manifest,
    progress: Progress,
    below: str = "",
    flags: Sequence[str] = (),
) -> str:
    """Copy a bundle there, if the machine is one it runs on, install its wheels and prepare it; its folder there."""
    name = remote.transport.name
    progress(f"looking at {name}", 0, 0)
    problems = unfit(manifest, remote.facts(), _wheel_bytes(folder))
    if problems:
        raise UnfitHost(f"{name}: {problems[0][0]}", problems[0][1])
    place = _deliver(remote, folder, manifest, progress, below)
    if (folder / wheels.FOLDER).is_dir():
        progress("installing there", 0, 0)
        _job(remote, manifest, place, ["install"])
    if target.prepares(manifest["target"]):
        progress("preparing there", 0, 0)
        _job(remote, manifest, place, ["prepare", *flags])
    return place


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


def _deliver(remote: Remote, folder: Path, manifest: bundle.Manifest, progress: Progress, below: str) -> str:
    """Copy the bundle there and unpack it; returns its folder there."""
    digest = figures().sha256(str(folder / figures().SUMS))[:12]
    name = f"{re.sub(r'[^A-Za-z0-9._-]', '_', manifest['name'])}-{digest}.tar.gz"
    with writing(tempfile.gettempdir()), tempfile.TemporaryDirectory() as scratch:
        remote.put(bundle.pack(folder, Path(scratch) / name), name, progress)
    return _unpack(remote, manifest, name, below, folder.name)


def _kit(remote: Remote, manifest: bundle.Manifest) -> str:
    """Copy this edgepack's harness there; returns its folder there."""
    with writing(tempfile.gettempdir()), tempfile.TemporaryDirectory() as scratch:
        archive = bundle.device_code(Path(scratch) / "kit.tar.gz")
        name = f"kit-{figures().sha256(str(archive))[:12]}.tar.gz"
        remote.put(archive, name)
    return _unpack(remote, manifest, name, "/.kit", "kit")


def _unpack(remote: Remote, manifest: bundle.Manifest, archive: str, below: str, folder: str) -> str:
    place = remote.root + below
    arguments = [manifest["requires"]["python"], place, f"{remote.root}/{archive}", folder]
    done = remote.transport.run(_UNPACK, arguments, timeout=300)
    if done.returncode != 0:
        raise _failure(remote, done)
    return f"{place}/{folder}"


def _job(remote: Remote, manifest: bundle.Manifest, place: str, arguments: list[str]) -> dict[str, Any]:
    """Run the harness there as a job that outlives the connection."""
    done = remote.run("harness", _HARNESS, [manifest["requires"]["python"], place, remote.root, *arguments, "--json"])
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


def _wheel_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in (folder / wheels.FOLDER).glob("*.whl"))


def _for_its_system(board: str) -> str:
    return f"build it with --device {board.partition('@')[0]}@SYSTEM for the system it runs (edgepack devices show)"
