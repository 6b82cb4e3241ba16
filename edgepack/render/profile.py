"""A profile as rich tables; nothing here computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from edgepack.measuring.origin import COMPUTE, LAYOUT, QUANTIZE, WEIGHTED
from edgepack.render import check_words

_COLOURS = {QUANTIZE: "yellow", LAYOUT: "magenta"}
_WORDS = {COMPUTE: "layers", QUANTIZE: "Q/DQ", LAYOUT: "layout conversions"}
# The rows of the longest operators; all are in the JSON.
_ROWS = 30


def profile(result: Mapping[str, Any]) -> RenderableType:
    """The operators, the longest first, and what they come to."""
    rows = sorted(result["operators"], key=lambda row: -row["us"])
    headings = ("time", "share", "layer", "operator", "precision", "MMACs", "kB", "GOPS", "of peak")
    table = Table(*headings, box=box.SIMPLE_HEAD)
    for column in table.columns:
        column.justify = "left" if column.header in ("layer", "operator", "precision") else "right"
        column.no_wrap = column.header not in ("layer", "operator")
    for row in rows[:_ROWS]:
        table.add_row(*_cells(row), style=_COLOURS.get(row["role"]))
    rest = rows[_ROWS:]
    if rest:
        micros, share = sum(row["us"] for row in rest), sum(row["share"] for row in rest)
        table.add_row(_us(micros), _percent(share), f"{len(rest)} more", style="dim")
    about = result["bundle"]
    where = "this machine" if result["host"] == "local" else result["host"]
    threads = f"{result['threads']} thread{'s' if result['threads'] > 1 else ''}"
    return Group(
        Text(f"{about['name']}: {about['target']}, {about['precision']}, on {where}, {threads}", style="bold"),
        table,
        *_lines(result),
    )


def _cells(row: Mapping[str, Any]) -> list[str]:
    return [
        _us(row["us"]),
        _percent(row["share"]),
        escape(_layer(row)),
        escape(row["kind"]),
        row["precision"],
        f"{row['macs'] / 1e6:.2f}" if row["macs"] else "",
        f"{row['bytes'] / 1000:,.0f}" if row["bytes"] else "",
        f"{row['gops']:.1f}" if row["gops"] else "",
        _percent(row["of_peak"]) if row["of_peak"] else "",
    ]


def _layer(row: Mapping[str, Any]) -> str:
    """What a reader looks for: the layer with weights, and the last that went with it."""
    names = [layer["name"] for layer in row["layers"]]
    if not names:
        return f"({row['name']})"
    first = next((layer["name"] for layer in row["layers"] if layer["operator"] in WEIGHTED), names[0])
    return first if first == names[-1] else f"{first} … {names[-1]}"


def _lines(result: Mapping[str, Any]) -> list[RenderableType]:
    total = result["operators_us"]
    parts = [
        (f"{_WORDS[role]} {_us(micros)} ({_percent(micros / total if total else 0)})", _COLOURS.get(role, ""))
        for role, micros in result["by_role_us"].items()
    ]
    split = Text()
    for index, (words, colour) in enumerate(parts):
        split.append(", " if index else "").append(words, style=colour or None)
    outside = result["end_to_end_us"] - total
    lines: list[RenderableType] = [
        split,
        Text(
            f"operators {_us(total)}, a run without the profiler {_us(result['end_to_end_us'])}: "
            f"{_percent(result['sum_ratio'])}"
            + (f"; {_us(outside)} are calls, copies and what lies between operators" if outside > 0 else "")
        ),
    ]
    if result["coverage"] is None:
        lines.append(Text("no layers: the original is not here; give the bundle's folder", style="yellow"))
    else:
        lines.append(Text(f"{_percent(result['coverage'])} of the time belongs to layers of the original"))
    peaks = ", ".join(f"{precision} {gops:,.0f} GOPS" for precision, gops in result["peak_gops"].items())
    if peaks:
        lines.append(Text(f"peak, measured with a large product and convolution in this runtime: {peaks}", style="dim"))
    lines += [Text(note, style="dim") for note in result["notes"]]
    lines.append(Text(f"{result['runs']:,} runs, the quietest quarter; {check_words(result['check'])}", style="dim"))
    if result["emulated"]:
        lines.append(Text("! the board is emulated: times mean nothing", style="yellow"))
    return lines


def _us(micros: float) -> str:
    return f"{micros / 1000:.2f} ms" if micros >= 9999.5 else f"{micros:.1f} µs"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
