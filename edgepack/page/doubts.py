"""The doubts of the measurements, in full."""

from __future__ import annotations

from collections.abc import Sequence

from edgepack.measuring.measurement import setting
from edgepack.page.facts import measurements
from edgepack.page.html import Cell, element, table
from edgepack.results import Result


def of(results: Sequence[Result]) -> list[str]:
    measured = measurements(results)
    if not measured:
        return []
    several = len(measured) > 1
    rows = []
    for _, one in measured:
        about = one["bundle"]
        for doubt in one["doubts"]:
            invalid = doubt["severity"] == "invalid"
            rows.append(
                [
                    Cell(doubt["name"].replace("_", " ")),
                    Cell("not valid" if invalid else "note", style="bad" if invalid else "wary"),
                    *([Cell(f"{about['name']} {about['precision']}, {setting(one)}")] if several else []),
                    Cell(doubt["words"]),
                    Cell(doubt["advice"]),
                ]
            )
    if not rows:
        return [element("p", "None: nothing was seen that speaks against these figures.")]
    headings = ["doubt", "weight", *(["where"] if several else []), "what was seen", "advice"]
    return [table("What speaks against these figures", headings, rows)]
