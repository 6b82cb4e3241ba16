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
    reasons: dict[str, list[str]] = {}
    for layer, reason in pruning["left_alone"].items():
        reasons.setdefault(reason, []).append(layer)
    for reason, layers in list(reasons.items())[:_MOST]:
        more = f" and {len(layers) - 3} more" if len(layers) > 3 else ""
        lines.append(Text(f"left alone: {', '.join(layers[:3])}{more}: {reason}", style="dim"))
    return lines
