"""`bench` and `check`: a bundle judged by the harness it carries, here or on a device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgepack import bundle, local
from edgepack.candidate import Progress
from edgepack.errors import UsageError

Measurement = dict[str, Any]


def _quiet(what: str, done: int, total: int) -> None:
    """No progress is shown."""


def bench(
    path: str | Path,
    *,
    on: str = "local",
    threads: int | None = None,
    seconds: float = 2.0,
    progress: Progress = _quiet,
) -> Measurement:
    """Check a bundle's golden outputs, then time it; here the float original too, turn by turn.

    Args:
        path: a bundle's folder, or its .tar.gz (which does not carry the original).
        on: local, ssh://user@host[:port], or qemu:CPU, whose times mean nothing and are left out.
        threads: threads to run with; as built if not given.
        seconds: how long each model runs.

    Returns:
        The harness's measurement: `models` with percentiles and the raw rounds of each process in milliseconds,
        `ratio` with its 95 % interval, `environment`, and the `host`; docs/bundle.md has the schema.

    Raises:
        BrokenBundle, WrongOutput, RunFailed, HostError, UnfitHost.
    """
    if not 0 < seconds < float("inf"):
        raise UsageError("--seconds should be positive", "2 is the default")
    if threads is not None and threads < 1:
        raise UsageError("--threads should be 1 or more", "leave it out to take all cores")
    arguments = ["--seconds", str(seconds), *(["--threads", str(threads)] if threads is not None else [])]
    return _harness(Path(path), on, "bench", arguments, progress)


def check(path: str | Path, *, on: str = "local", progress: Progress = _quiet) -> dict[str, Any]:
    """Will the bundle run there, is it whole, and does it answer as it did where it was built?

    Raises:
        BrokenBundle, WrongOutput, RunFailed, HostError, UnfitHost.
    """
    return _harness(Path(path), on, "check", [], progress)


def _harness(path: Path, on: str, command: str, arguments: list[str], progress: Progress) -> dict[str, Any]:
    with bundle.opened(path) as folder:
        manifest = bundle.verify(folder)
        if on == "local":
            progress("checking" if command == "check" else "checking and timing", 0, 0)
            only = local.runtime_of(manifest)
            return local.harness(folder, command, "--build-machine", *arguments, only=only)
        from edgepack import remote_bundle

        return remote_bundle.harness(folder, manifest, on, command, arguments, progress)
