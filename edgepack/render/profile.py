"""A profile as rich tables; nothing here computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from edgepack.measuring.origin import COMPUTE, LAYOUT, QUANTIZE, WEIGHTED
from edgepack.render import check_words

_COLOURS = {QUANTIZE: "yellow", LAYOUT: "magenta"}
_WORDS = {COMPUTE: "layers", QUANTIZE: "Q/DQ", LAYOUT: "layout conversions"}
# The rows of the longest operators; all are in the JSON.
_ROWS = 30
# Columns of a terminal from which all of the table is shown.
_WIDE = 110
# What columns of figures take in a narrow one, and what operators may.
_FIGURES, _OPERATOR = 47, 13


def profile(result: Mapping[str, Any]) -> RenderableType:
    """The operators, the longest first, and what they come to."""
    rows = sorted(result["operators"], key=lambda row: -row["us"])
    table = _Rows(rows)
    about = result["bundle"]
    where = "this machine" if result["host"] == "local" else result["host"]
    threads = f"{result['threads']} thread{'s' if result['threads'] > 1 else ''}"
    return Group(
        Text(f"{about['name']}: {about['target']}, {about['precision']}, on {where}, {threads}", style="bold"),
        table,
        *_lines(result),
    )


@dataclass(frozen=True)
class _Rows:
    """The table in as many columns as the terminal has room for; narrow ones do without MACs and bytes."""

    rows: Sequence[Mapping[str, Any]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wide = options.max_width >= _WIDE
        headings = ["µs", "share", "layer", "operator", "type", *(["MMACs", "kB"] if wide else []), "GOPS", "of peak"]
        table = Table(*headings, box=box.SIMPLE_HEAD, padding=(0, 1) if wide else (0, 1, 0, 0), pad_edge=False)
        for column in table.columns:
            column.justify = "left" if column.header in ("layer", "operator", "type") else "right"
            column.no_wrap = not wide or column.header not in ("layer", "operator")
        room = max(24, options.max_width - _FIGURES)
        for row in self.rows[:_ROWS]:
            layer, operator = _layer(row, whole=wide), row["kind"]
            if not wide:
                operator = operator if len(operator) <= _OPERATOR else f"{operator[: _OPERATOR - 1]}…"
                # A name's end tells more than its beginning, which all of a model share.
                layer = layer if len(layer) <= room - _OPERATOR else f"…{layer[1 + _OPERATOR - room :]}"
            table.add_row(*_cells(row, escape(layer), escape(operator), wide=wide), style=_COLOURS.get(row["role"]))
        rest = self.rows[_ROWS:]
        if rest:
            micros, share = sum(row["us"] for row in rest), sum(row["share"] for row in rest)
            table.add_row(_number(micros), _percent(share), f"{len(rest)} more", style="dim")
        yield table


def _cells(row: Mapping[str, Any], layer: str, operator: str, *, wide: bool) -> list[str]:
    return [
        _number(row["us"]),
        _percent(row["share"]),
        layer,
        operator,
        row["precision"],
        *([f"{row['macs'] / 1e6:.2f}" if row["macs"] else ""] if wide else []),
        *([f"{row['bytes'] / 1000:,.0f}" if row["bytes"] else ""] if wide else []),
        f"{row['gops']:.1f}" if row["gops"] else "",
        _percent(row["of_peak"]) if row["of_peak"] else "",
    ]


def _layer(row: Mapping[str, Any], *, whole: bool) -> str:
    """What a reader looks for: the layer with weights, and with `whole` the last that went with it."""
    names = [layer["name"] for layer in row["layers"]]
    if not names:
        return f"({row['name']})"
    first = next((layer["name"] for layer in row["layers"] if layer["operator"] in WEIGHTED), names[0])
    return first if first == names[-1] or not whole else f"{first} … {names[-1]}"


def _lines(result: Mapping[str, Any]) -> list[RenderableType]:
    total = result["operators_us"]
    parts = [
        (f"{_WORDS[role]} {_us(micros)} ({_percent(micros / total if total else 0)})", _COLOURS.get(role, ""))
        for role, micros in result["by_role_us"].items()
    ]
    split = Text()
    for index, (words, colour) in enumerate(parts):
        split.append(", " if index else "").append(words, style=colour or None)
    lines: list[RenderableType] = [split, *(Text(words) for words in sums(result))]
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


def sums(result: Mapping[str, Any]) -> list[str]:
    """What the operators come to beside a run without the profiler, and how that sum was come by."""
    whole, total, call = result["end_to_end_us"], result["operators_us"], result["call_us"]
    left = whole - total - call
    words = f"a run without the profiler {_us(whole)}: operators {_us(total)} ({_percent(total / whole)}), "
    words += f"the call around them {_us(call)} ({_percent(call / whole)})"
    if left > 0.005 * whole:
        words += f", between them {_us(left)} ({_percent(left / whole)})"
    found = [words]
    how = f"the profiler's own sum is {_us(result['raw_us'])} ({_percent(result['raw_us'] / whole)} of a run)"
    if abs(result["measured_us"] - result["raw_us"]) > 0.005 * whole:
        verb = "taken off" if result["measured_us"] < result["raw_us"] else "put back"
        why = "what it adds" if verb == "taken off" else "what rounding cut"
        how += f", with {why} {verb} {_us(result['measured_us'])}"
    if result["scaled"] is not None:
        how += f", scaled by {result['scaled']:.2f}"
    return [*found, how]


def _number(micros: float) -> str:
    return f"{micros:,.1f}" if micros < 9999.5 else f"{micros:,.0f}"


def _us(micros: float) -> str:
    return f"{micros / 1000:.2f} ms" if micros >= 9999.5 else f"{micros:.1f} µs"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
