"""Comparisons as rich tables and as Markdown; nothing here computes."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from edgepack.results.comparison import BETTER, SAME, UNCLEAR, WORSE, Comparison, Pair, Row
from edgepack.results.gate import Judged

_COLOURS = {BETTER: "green", WORSE: "red", SAME: "bold", UNCLEAR: "yellow"}
_HEADINGS = ("", "before", "after", "change", "")


def comparison(found: Comparison, judged: Sequence[Judged]) -> RenderableType:
    """Before and after, a table a setting, the notes, the gate."""
    lines: list[RenderableType] = [_heading("before: ", found.before), _heading("after:  ", found.after)]
    for pair in found.pairs:
        table = Table(*_HEADINGS, title=_setting(pair) or None, title_justify="left", title_style="")
        for column in table.columns[1:4]:
            column.justify = "right"
        for row in pair.rows:
            *cells, verdict = cells_of(row)
            table.add_row(*map(escape, cells), f"[{_COLOURS[row.verdict]}]{verdict}[/]")
        lines.append(table)
        lines += [Text(line, style) for line, style in _about_pair(pair)]
    lines += [Text(note, style="dim") for note in found.notes]
    for one in judged:
        word, style = ("failed", "bold red") if one.failed else ("passed", "green")
        lines.append(Text.assemble((word, style), f": {one.condition}: {one.words}"))
    return Group(*lines)


def markdown(found: Comparison, judged: Sequence[Judged]) -> str:
    """The same for a comment or a job's summary on a code host."""
    lines = []
    if judged:
        failed = sum(one.failed for one in judged)
        verdict = f"failed: {failed} of {len(judged)}" if failed else f"passed: {len(judged)}"
        lines += [f"### Conditions {verdict}", ""]
        lines += [f"- {'❌' if one.failed else '✅'} `{one.condition}`: {_plain(one.words)}" for one in judged]
        lines.append("")
    lines += [f"Before: {_plain(found.before)}  ", f"After: {_plain(found.after)}", ""]
    for pair in found.pairs:
        if _setting(pair):
            lines += [f"**{_setting(pair)}**", ""]
        lines += ["|  | before | after | change | verdict |", "|---|---:|---:|---:|---|"]
        for row in pair.rows:
            cells = [_plain(cell) for cell in cells_of(row)]
            cells[-1] = cells[-1] if row.verdict in (SAME, UNCLEAR) else f"**{cells[-1]}**"
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
        lines += [f"> {_plain(line)}" for line, _ in _about_pair(pair)]
    lines += [f"- {_plain(note)}" for note in found.notes]
    return "\n".join(lines).rstrip() + "\n"


def cells_of(row: Row) -> tuple[str, str, str, str, str]:
    """Title, before, after, change with its interval, verdict."""
    return row.title, _value(row, row.before), _value(row, row.after), change_words(row), row.words


def change_words(row: Row) -> str:
    """`+5.1 % (+3.9 to +6.3)`, or points."""

    def number(end: float) -> str:
        return f"{end:+.2f}" if row.points else f"{100 * (end - 1):+.{_digits(row)}f}"

    unit = "%" if not row.points else "dB" if row.unit == "dB" else "points"
    limits = f" ({number(row.low)} to {number(row.high)})" if row.low is not None and row.high is not None else ""
    return f"{number(row.change)} {unit}{limits}"


def _digits(row: Row) -> int:
    """Percentages to a tenth, but no tenths where the change is large."""
    return 1 if abs(row.change - 1) < 1 else 0


def _value(row: Row, value: float) -> str:
    if row.unit in ("%", "dB"):
        return f"{value:.2f} {row.unit}" if row.unit == "%" else f"{value:.1f} {row.unit}"
    return f"{value:,.4g}{'' if row.unit == '/s' else ' '}{row.unit}"


def _setting(pair: Pair) -> str:
    if pair.threads is None:
        return ""
    words = f"{pair.threads} thread{'s' if pair.threads > 1 else ''}"
    return f"{words}, batch {pair.batch}" if pair.batch and pair.batch > 1 else words


def _about_pair(pair: Pair) -> list[tuple[str, str]]:
    lines = [(f"NOT VALID: {words}", "bold red") for words in pair.invalid]
    lines += [(f"! not the same {words}: the change says little of the models", "yellow") for words in pair.differences]
    if pair.interleaved:
        lines.append(("timed turn by turn in pairs of processes; the change is of these pairs", "dim"))
    return lines


def _heading(label: str, text: str) -> Text:
    return Text.assemble((label, "dim"), (text, "bold"))


def _plain(text: str) -> str:
    """Text that Markdown and HTML leave as it is."""
    for mark in ("\\", "|", "*", "_", "`", "<", ">", "[", "]"):
        text = text.replace(mark, f"\\{mark}")
    return text
