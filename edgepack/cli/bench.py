"""`edgepack bench` and `edgepack check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgepack.cli.options import AllowFallback, Json, On, integers, shapes, share
from edgepack.cli.show import progress_bar, render, show
from edgepack.errors import UsageError

BENCH_EXAMPLES = (
    "Examples:\n\nedgepack bench out --threads 1 --output result.json\n\n"
    "edgepack bench out --against other --on ssh://pi@raspberrypi.local\n\n"
    "edgepack bench out --threads 1,2,4 --batch 1,8"
)
CHECK_EXAMPLES = "Examples:\n\nedgepack check out.tar.gz\n\nedgepack check out --on ssh://pi@raspberrypi.local"


def bench(
    path: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle's folder or .tar.gz.")],
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="OTHER", help="Another bundle to time it beside.", show_default="the float original, where it is"
        ),
    ] = None,
    on: On = "local",
    threads: Annotated[
        str | None,
        typer.Option(metavar="N[,N…]", help="Threads to run with.", show_default="as built: all cores of the device"),
    ] = None,
    batch: Annotated[str, typer.Option(metavar="N[,N…]", help="Samples a run.")] = "1",
    input_shape: Annotated[
        list[str] | None,
        typer.Option("--input-shape", metavar="NAME=1x3x224x224", help="Another shape than the golden inputs have."),
    ] = None,
    concurrency: Annotated[int, typer.Option(help="Callers at the same time, each with a model of its own.")] = 1,
    seconds: Annotated[float, typer.Option(help="How long each model runs, over all of its processes.")] = 5.0,
    min_runs: Annotated[int, typer.Option(help="How often each model runs at least.")] = 50,
    processes: Annotated[int, typer.Option(help="Processes of each model.")] = 10,
    equivalence: Annotated[str, typer.Option(metavar="PERCENT", help="What counts as the same.")] = "2%",
    accept_doubts: Annotated[
        bool, typer.Option("--accept-doubts", help="Keep a measurement that is not valid, marked.")
    ] = False,
    fix_clocks: Annotated[
        bool,
        typer.Option("--fix-clocks", help="Governor performance meanwhile, where that is allowed; then as it was."),
    ] = False,
    allow_fallback: AllowFallback = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the result there, as JSON.")] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="What each operator takes, and which layers of the original it is.")
    ] = False,
    trace: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the profile as a timeline for Perfetto or Chrome.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a bundle, then time it turn by turn with its float original or another bundle, here or on a device."""
    from edgepack.measuring.benchmark import bench as run

    if profile:
        others = {"--against": against, "--batch": batch != "1", "--input-shape": input_shape,
                  "--concurrency": concurrency != 1, "--fix-clocks": fix_clocks,
                  "--allow-fallback": allow_fallback}  # fmt: skip
        _profile(path, on, threads, seconds, accept_doubts, output, trace, as_json, [k for k, v in others.items() if v])
        return
    if trace is not None:
        raise UsageError("--trace is for --profile", "add --profile")

    with progress_bar() as progress:
        result = run(
            path,
            against=against,
            on=on,
            threads=integers("--threads", threads),
            batch=integers("--batch", batch) or 1,
            input_shape=shapes(input_shape),
            concurrency=concurrency,
            seconds=seconds,
            min_runs=min_runs,
            processes=processes,
            equivalence=share("--equivalence", equivalence),
            accept_doubts=accept_doubts,
            fix_clocks=fix_clocks,
            allow_fallback=allow_fallback,
            output=output,
            progress=progress,
        )

    def rendered() -> Any:
        from edgepack.render.measurement import measurement

        return measurement(result)

    show(result, as_json, rendered)


def _profile(
    path: Path,
    on: str,
    threads: str | None,
    seconds: float,
    accept_doubts: bool,
    output: Path | None,
    trace: Path | None,
    as_json: bool,
    others: list[str],
) -> None:
    from edgepack.measuring.profiling import profile as run

    if others:
        raise UsageError(f"{others[0]} does not go with --profile", "a profile is of one model on one sample")
    counts = integers("--threads", threads)
    if counts is not None and len(counts) > 1:
        raise UsageError("--profile takes one number of --threads", "run it again for another")
    with progress_bar() as progress:
        result = run(
            path,
            on=on,
            threads=counts[0] if counts else None,
            seconds=seconds,
            accept_doubts=accept_doubts,
            output=output,
            trace=trace,
            progress=progress,
        )

    def rendered() -> Any:
        from edgepack.render.profile import profile as table

        return table(result)

    show(result, as_json, rendered)


def check(
    path: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle's folder or .tar.gz.")],
    on: On = "local",
    allow_fallback: AllowFallback = None,
    as_json: Json = False,
) -> None:
    """Will a bundle run there, is it whole, and does it answer as it should?"""
    from edgepack.measuring.benchmark import check as run

    with progress_bar() as progress:
        report = run(path, on=on, allow_fallback=allow_fallback, progress=progress)
    show(report, as_json, lambda: f"ok: {render().check_words(report)}")
