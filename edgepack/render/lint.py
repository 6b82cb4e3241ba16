"""Findings of a linter as a rich table; nothing here computes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from edgepack.lint import SEVERITIES, Finding

# Places of one rule beyond these say nothing new; --json has all.
_SHOWN = 5
_COLOURS = dict(zip(SEVERITIES, ("red", "yellow", "dim"), strict=True))


def findings(found: Sequence[Finding], linted: Sequence[str], device: str) -> list[RenderableType]:
    """A table of the broken rules, then the places of each; one line where there are none."""
    title = f"by the rules of {' and '.join(linted)} on {device}"
    if not found:
        return [Text(f"nothing found {title}", style="green")]
    groups = [list(group) for _, group in groupby(found, key=lambda finding: finding.rule)]
    table = Table(title=title, title_justify="left")
    for name in ("", "rule", "places", "what to do"):
        table.add_column(name, justify="right" if name == "places" else "left")
    for group in groups:
        first = group[0]
        table.add_row(_coloured(first.severity), first.rule, f"{len(group):,}", Text(first.advice))
    return [table, *(line for group in groups for line in _places(group))]


def _coloured(severity: str) -> Text:
    return Text(severity, style=_COLOURS[severity])


def _places(group: list[Finding]) -> list[RenderableType]:
    lines: list[RenderableType] = [_coloured(group[0].severity).append(f" {group[0].rule}", style="default not dim")]
    for finding in group[:_SHOWN]:
        where = ", ".join(part for part in (finding.node, finding.tensor and f"tensor {finding.tensor}") if part)
        lines.append(Text(f"  {where}: {finding.what}" if where else f"  {finding.what}"))
    rest = len(group) - _SHOWN
    if rest > 0:
        lines.append(Text(f"  {rest:,} more; --json has all", style="dim"))
    return lines
