"""`edgepack compare` and `edgepack report`: what is done with results that are there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgepack.cli.options import Json, share
from edgepack.cli.show import show
from edgepack.errors import GATE_FAILED, UsageError

COMPARE_EXAMPLES = (
    "Examples:\n\nedgepack compare before.json after.json\n\n"
    "edgepack compare old-bundle new-bundle --fail-if 'accuracy<-0.5' --fail-if 'size>+10%'\n\n"
    "edgepack compare both.json --fail-if 'p90>+3%' --markdown"
)
REPORT_EXAMPLES = (
    "Examples:\n\nedgepack report result.json -o report.html\n\nedgepack report build.json result.json layers.json"
)


def compare(
    before: Annotated[
        Path, typer.Argument(metavar="A", help="Of `bench` or `build` (JSON), or a bundle: what B is held against.")
    ],
    after: Annotated[
        Path | None,
        typer.Argument(
            metavar="B",
            help="Another.",
            show_default="the two models of a measurement that timed them turn by turn",
        ),
    ] = None,
    fail_if: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-if",
            metavar="CONDITION",
            help="End with exit code 4 if this holds: 'p90>+3%', 'p90>20ms', 'size>+100kB', 'accuracy<-0.5'.",
        ),
    ] = None,
    significant: Annotated[
        bool,
        typer.Option("--significant", help="Conditions hold only if the whole 95 % interval is beyond the threshold."),
    ] = False,
    equivalence: Annotated[str, typer.Option(metavar="PERCENT", help="What counts as the same.")] = "2%",
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown to stdout.")] = False,
    as_json: Json = False,
) -> None:
    """Hold one result against another: latency, size, memory, accuracy; and gate a CI job by it."""
    from edgepack.render import comparison as render_comparison
    from edgepack.results import comparison, gate

    if as_markdown and as_json:
        raise UsageError("--markdown and --json are two forms of the same", "give one of them")
    margin = share("--equivalence", equivalence)
    if not 0 <= margin < 1:
        raise UsageError("--equivalence should be 0 to 100 %", "2% is the default")
    asked = gate.conditions(fail_if or [])
    if significant and not asked:
        raise UsageError("--significant is about --fail-if", "add --fail-if 'p90>+3%'")
    found = comparison.compare(before, after, equivalence=margin)
    judged = gate.judge(found, asked, significant=significant)
    if as_markdown:
        typer.echo(render_comparison.markdown(found, judged), nl=False)
    else:
        data = {**found.to_json(), "gate": gate.to_json(judged, significant=significant)}
        show(data, as_json, lambda: render_comparison.comparison(found, judged))
    failed = [one for one in judged if one.failed]
    for one in failed:
        typer.secho(f"failed: {one.condition}: {one.words}", fg="red", err=True)
    if failed:
        raise typer.Exit(GATE_FAILED)


def report(
    results: Annotated[
        list[Path],
        typer.Argument(metavar="RESULT…", help="JSON of bench, build, inspect --layers; or a bundle."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML file.")] = Path("report.html"),
    title: Annotated[str | None, typer.Option(help="Its title.", show_default="the bundle's name")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Write one self-contained HTML file: the verdict, latency, layers, the device, the doubts, how to reproduce."""
    from edgepack.page import report as run

    path = run(results, output, title=title, force=force)
    show({"report": str(path)}, as_json, lambda: f"report: {path}")
