"""`bench`: time a bundle beside its float original, through the harness it carries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgepack import bundle, local
from edgepack.errors import UsageError

Measurement = dict[str, Any]


def bench(path: str | Path, *, threads: int | None = None, seconds: float = 2.0) -> Measurement:
    """Check a bundle's golden outputs, then time it and the float original turn by turn.

    Args:
        path: a bundle's folder, or its .tar.gz (which does not carry the original).
        threads: threads to run with; as built if not given.
        seconds: how long each model runs.

    Returns:
        The harness's measurement: `models` with percentiles and the raw rounds of each process in milliseconds,
        `ratio` with its 95 % interval, `environment`; docs/bundle.md has the schema.

    Raises:
        BrokenBundle, WrongOutput, RunFailed.
    """
    if seconds <= 0:
        raise UsageError("--seconds should be positive")
    if threads is not None and threads < 1:
        raise UsageError("--threads should be 1 or more")
    with bundle.opened(Path(path)) as folder:
        manifest = bundle.read_manifest(folder)
        arguments = ["--seconds", str(seconds)]
        if threads is not None:
            arguments += ["--threads", str(threads)]
        return local.harness(folder, "bench", *arguments, only=local.runtime_of(manifest))


def check(path: str | Path) -> dict[str, Any]:
    """Is the bundle whole, and does it answer here as it did where it was built?

    Raises:
        BrokenBundle, WrongOutput, RunFailed.
    """
    with bundle.opened(Path(path)) as folder:
        return local.harness(folder, "check", only=local.runtime_of(bundle.read_manifest(folder)))
