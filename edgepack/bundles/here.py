"""Run a bundle's harness on this machine, in a process that sees only what the bundle pins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from edgepack import target
from edgepack.errors import (
    BrokenBundle,
    DoubtfulMeasurement,
    EdgepackError,
    Interrupted,
    RunFailed,
    UnfitHost,
    UnreadableSample,
    UsageError,
    WriteFailed,
    WrongOutput,
)

_ERRORS: dict[int, type[EdgepackError]] = {
    error.exit_code: error
    for error in (
        UnreadableSample,
        BrokenBundle,
        WrongOutput,
        RunFailed,
        UnfitHost,
        DoubtfulMeasurement,
        WriteFailed,
        Interrupted,
    )
}


def closure(names: tuple[str, ...]) -> dict[str, Distribution]:
    """The installed distributions called `names` and all they require, extras apart."""
    found: dict[str, Distribution] = {}
    waiting = list(names)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found:
            continue
        found[name] = distribution(name)
        for line in found[name].requires or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return dict(sorted(found.items()))


def pins(names: tuple[str, ...]) -> list[str]:
    """`name==version` of each installed distribution in the closure, without local version labels."""
    return [f"{name}=={found.version.partition('+')[0]}" for name, found in closure(names).items()]


def runtime_of(manifest: dict[str, Any], fallback: str | None = None) -> tuple[str, ...]:
    """The distributions that a bundle's processes may see; with those of `fallback`, another runtime.

    Raises:
        UsageError: the bundle's target has no such fallback.
    """
    own = target.packages(target.load(manifest["target"]), images=bool(manifest.get("preprocess")))
    return own if fallback is None else (*own, *fallback_packages(manifest["target"], fallback))


def fallback_packages(target_name: str, fallback: str) -> tuple[str, ...]:
    """The distributions of a runtime that may answer where the target's own is missing.

    Raises:
        UsageError: the target has no such fallback.
    """
    known = target.fallbacks(target_name)
    if fallback not in known:
        raise UsageError(
            f"{target_name} has no fallback {fallback!r}",
            f"it has {', '.join(known)}" if known else "leave --allow-fallback out",
        )
    return known[fallback]


def installed(package: str) -> str:
    """The version of an installed distribution."""
    return distribution(package).version


def link_only(names: tuple[str, ...], folder: Path) -> None:
    """Fill `folder` with links to the files of the named distributions, and to nothing else."""
    for found in closure(names).values():
        for file in found.files or []:
            top = file.parts[0]
            if top in ("..", "__pycache__") or (folder / top).is_symlink():
                continue
            source = Path(str(found.locate_file(top)))
            if source.exists():
                (folder / top).symlink_to(source)


def harness(bundle: Path, *arguments: str, only: tuple[str, ...] | None = None) -> dict[str, Any]:
    """Run a bundle's `harness.py ARGUMENTS --json` and return what it printed.

    Args:
        bundle: its folder, or this edgepack's own device code, which is told of a bundle by `--bundle`.
        only: the distributions that the process may see; None leaves it this interpreter's own.

    Raises:
        BrokenBundle, WrongOutput, RunFailed: what the harness said.
    """
    script = bundle / "harness.py"
    if not script.is_file():
        raise BrokenBundle(
            f"{bundle} is no bundle: harness.py is missing", "give the folder that `edgepack build` made"
        )
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-B"]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        if only is not None:
            try:
                link_only(only, Path(scratch))
            except PackageNotFoundError as error:
                raise RunFailed(f"{error.name} is not installed here", "install the target's extra") from error
            environment["PYTHONPATH"] = scratch
            command += ["-S", "-s"]
        process = subprocess.run(
            [*command, str(script), *arguments, "--json"],
            env=environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
    if process.returncode == 0:
        try:
            result: dict[str, Any] = json.loads(process.stdout)
        except ValueError as error:
            raise RunFailed(f"the harness of {bundle} printed no JSON", "build or copy the bundle again") from error
        return result
    raise error_from(process.returncode, process.stderr, f"the harness of {bundle}")


def error_from(code: int, stderr: str, who: str) -> EdgepackError:
    """The error that a harness meant by its exit code and what it wrote to stderr."""
    message, hint = "", ""
    lines = stderr.strip().splitlines()
    for line in lines:
        if line.startswith("error: "):
            message = line[len("error: ") :]
        elif line.startswith("hint: "):
            hint = line[len("hint: ") :]
    if message and code == UsageError.exit_code:
        return UsageError(message, hint)
    if not message:
        message = f"{who} ended with exit code {code}" + (f": {lines[-1]}" if lines else "")
    return _ERRORS.get(code, RunFailed)(message, hint)
