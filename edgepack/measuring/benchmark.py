"""`bench` and `check`: a bundle judged by a harness, here or on a device."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from edgepack import _root
from edgepack.bundles import bundle, here
from edgepack.errors import UsageError, WriteFailed
from edgepack.measuring.measurement import Measurement, hosted, sweep, write
from edgepack.progress import Progress

Several = int | Sequence[int]


def _quiet(what: str, done: int, total: int) -> None:
    """No progress is shown."""


def bench(
    path: str | Path,
    *,
    against: str | Path | None = None,
    on: str = "local",
    threads: Several | None = None,
    batch: Several = 1,
    input_shape: Mapping[str, Sequence[int]] | None = None,
    concurrency: int = 1,
    seconds: float = 5.0,
    min_runs: int = 50,
    processes: int = 10,
    equivalence: float = 0.02,
    accept_doubts: bool = False,
    fix_clocks: bool = False,
    allow_fallback: str | None = None,
    output: str | Path | None = None,
    progress: Progress = _quiet,
) -> Measurement:
    """Check a bundle's golden outputs, then time it turn by turn with another bundle, or with its float original.

    Args:
        path: a bundle's folder, or its .tar.gz (which does not carry the original).
        against: another bundle, of the same target or not.
        on: local, ssh://user@host[:port], or qemu:CPU, whose times mean nothing.
        threads: threads to run with, as built if not given; several are measured one after the other.
        batch: samples a run; several likewise.
        input_shape: other shapes than the golden inputs have, by name.
        concurrency: callers at the same time, each with a model of its own.
        seconds, min_runs: how long, and how often at least, each model runs, over all of its processes.
        processes: of each model; the interval is as good as there are many.
        equivalence: what counts as the same, 0.02 is 2 %.
        accept_doubts: keep a measurement that is not valid, marked.
        fix_clocks: set the governor to performance where that is allowed, and back afterwards.
        allow_fallback: the runtime to take where the bundle's own is missing; the measurement is then marked.
        output: a file for the result, as JSON.

    Returns:
        A measurement, or a sweep of several (docs/measurement.md).

    Raises:
        DoubtfulMeasurement: it is not valid; nothing is written.
        BrokenBundle, WrongOutput, RunFailed, HostError, UnfitHost.
    """
    wanted = _Wanted(
        threads=_several(threads), batch=_several(batch), input_shape=dict(input_shape or {}), concurrency=concurrency,
        seconds=seconds, min_runs=min_runs, processes=processes, equivalence=equivalence, fix_clocks=fix_clocks,
        accept_doubts=accept_doubts, allow_fallback=allow_fallback,
    )  # fmt: skip
    wanted.refuse_nonsense()
    if output is not None and not Path(output).resolve().parent.is_dir():
        raise WriteFailed(f"cannot write {output}: there is no such folder", "make it first")
    with ExitStack() as stack:
        folders = [stack.enter_context(bundle.opened(Path(one))) for one in (path, against) if one is not None]
        manifests = [bundle.verify(folder) for folder in folders]
        if on == "local":
            results = _here(folders, manifests, wanted, progress)
        else:
            from edgepack.bundles import remote_bundle

            results = remote_bundle.bench(folders, manifests, on, wanted.flags(), progress, emulated_too=accept_doubts)
    results = [hosted(result, on, emulated=bool(result.get("emulated"))) for result in results]
    result = sweep(results)
    if output is not None:
        write(result, Path(output))
    return result


def check(
    path: str | Path, *, on: str = "local", allow_fallback: str | None = None, progress: Progress = _quiet
) -> dict[str, Any]:
    """Will the bundle run there, is it whole, and does it answer as it did where it was built?

    Args:
        allow_fallback: the runtime to take where the bundle's own is missing; `remarks` in the answer then say so.

    Raises:
        BrokenBundle, WrongOutput, RunFailed, HostError, UnfitHost.
    """
    with bundle.opened(Path(path)) as folder:
        manifest = bundle.verify(folder)
        if on == "local":
            progress("checking", 0, 0)
            only = here.runtime_of(manifest, allow_fallback)
            return here.harness(folder, "check", "--build-machine", *fallback_flags(allow_fallback), only=only)
        from edgepack.bundles import remote_bundle

        return remote_bundle.check(folder, manifest, on, fallback_flags(allow_fallback), progress)


def fallback_flags(allow_fallback: str | None) -> list[str]:
    """The harness's flag for it."""
    return ["--allow-fallback", allow_fallback] if allow_fallback is not None else []


def _here(
    folders: Sequence[Path], manifests: Sequence[bundle.Manifest], wanted: _Wanted, progress: Progress
) -> list[Measurement]:
    # The processes of both see what either pins: of each distribution, one version is installed here.
    fallback = wanted.allow_fallback
    only = tuple(dict.fromkeys(name for manifest in manifests for name in here.runtime_of(manifest, fallback)))
    command = ["bench", "--build-machine", "--bundle", str(folders[0].resolve())]
    if len(folders) > 1:
        command += ["--against", str(folders[1].resolve())]
    results = []
    for index, flags in enumerate(wanted.flags()):
        progress("checking and timing", index, len(wanted.flags()))
        results.append(here.harness(_root.TARGETS / "device", *command, *flags, only=only))
    return results


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """What is to be measured, as the user said it."""

    threads: list[int]
    batch: list[int]
    concurrency: int
    seconds: float
    min_runs: int
    processes: int
    equivalence: float
    fix_clocks: bool
    accept_doubts: bool
    allow_fallback: str | None = None
    input_shape: dict[str, Sequence[int]] = field(default_factory=dict)

    def refuse_nonsense(self) -> None:
        if not 0 < self.seconds < math.inf:
            raise UsageError("--seconds should be positive", "5 is the default")
        for name, values, usual in (
            ("threads", self.threads, "leave it out to take all cores"),
            ("batch", self.batch, "1 is the default"),
            ("concurrency", [self.concurrency], "1 is the default"),
            ("min-runs", [self.min_runs], "50 is the default"),
            ("processes", [self.processes], "10 is the default"),
        ):
            if any(value < 1 for value in values):
                raise UsageError(f"--{name} should be 1 or more", usual)
        if not 0 <= self.equivalence < 1:
            raise UsageError("--equivalence should be 0 to 100 %", "2% is the default")

    def flags(self) -> list[list[str]]:
        """The harness's flags of each measurement."""
        common = [
            "--seconds", str(self.seconds), "--min-runs", str(self.min_runs), "--processes", str(self.processes),
            "--concurrency", str(self.concurrency), "--equivalence", str(self.equivalence),
            "--input-shapes", json.dumps({name: list(shape) for name, shape in self.input_shape.items()}),
            *(["--fix-clocks"] if self.fix_clocks else []), *(["--accept-doubts"] if self.accept_doubts else []),
            *fallback_flags(self.allow_fallback),
        ]  # fmt: skip
        return [
            [*common, "--batch", str(batch), *(["--threads", str(threads)] if threads else [])]
            for threads, batch in product(self.threads or [0], self.batch or [1])
        ]


def _several(values: Several | None) -> list[int]:
    if values is None:
        return []
    return [values] if isinstance(values, int) else list(values)
