"""What `--prune` did, or why it did not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

# Rows of a table on a screen; the manifest holds all.
_MOST = 12


def pruning_lines(pruning: Mapping[str, Any]) -> list[RenderableType]:
    """Sizes before and after, the groups that lost most, and the layers that were left alone with the reasons."""
    if "pattern" in pruning:
        return _pattern_lines(pruning)
    macs, parameters = (pruning[f"{what}_after"] / pruning[f"{what}_before"] for what in ("macs", "parameters"))
    if pruning["declined"]:
        heading = Text(str(pruning["declined"]), "yellow")
    else:
        heading = Text("pruned", "green").append(f" to {pruning['budget']} by {pruning['importance']}", "default")
    ratio = "" if pruning["ratio"] is None else f", {pruning['ratio']:.0%} of the latency here"
    heading.append(f": {macs:.0%} of the MACs, {parameters:.0%} of the parameters{ratio}", "default")
    lines: list[RenderableType] = [heading]
    lines.append(
        Text(
            f"error of the output {pruning['error']:.2g}, {pruning['error_unrepaired']:.2g} without repair; "
            f"refitted on {pruning['samples']} samples",
            style="dim",
        )
    )
    narrowed = [group for group in pruning["groups"] if group["after"] < group["before"]]
    narrowed.sort(key=lambda group: group["after"] / group["before"])
    table = Table("channels of", "before", "after", "error alone", box=None, padding=(0, 2, 0, 0))
    for group in narrowed[:_MOST]:
        table.add_row(Text(group["layer"]), str(group["before"]), str(group["after"]), f"{group['error']:.1e}")
    lines += [table] if narrowed else []
    whole = len(pruning["groups"]) - len(narrowed)
    rest = [f"{len(narrowed) - _MOST} more groups narrowed"] if len(narrowed) > _MOST else []
    rest += [f"{whole} groups kept whole"] if whole else []
    lines += [Text("; ".join(rest), style="dim")] if rest else []
    return [*lines, *_left(pruning["left_alone"], "left alone")]


def _pattern_lines(pruning: Mapping[str, Any]) -> list[RenderableType]:
    """Which share of the weights has zeros in a pattern, and which layers have none."""
    heading = Text("pruned", "green").append(
        f" to {pruning['pattern']}: {len(pruning['layers'])} layers, {pruning['share']:.0%} of the weights; refitted "
        f"on {pruning['samples']} samples, error of the output {pruning['error']:.2g}",
        "default",
    )
    lines: list[RenderableType] = [heading]
    if pruning["narrow"]:
        words = f"{pruning['narrow']} of them read few channels, where skipping zeros gains little"
        lines.append(Text(words, style="dim"))
    return [*lines, *_left(pruning["left_dense"], "left dense")]


def _left(why: Mapping[str, str], word: str) -> list[RenderableType]:
    reasons: dict[str, list[str]] = {}
    for layer, reason in why.items():
        reasons.setdefault(reason, []).append(layer)
    lines: list[RenderableType] = []
    for reason, layers in list(reasons.items())[:_MOST]:
        more = f" and {len(layers) - 3} more" if len(layers) > 3 else ""
        lines.append(Text(f"{word}: {', '.join(layers[:3])}{more}: {reason}", style="dim"))
    return lines
