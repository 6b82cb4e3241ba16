"""What a build did: size and answers before and after, its steps, and what a search tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgepack.page import plots
from edgepack.page.facts import about, promise, sizes
from edgepack.page.html import Cell, element, figure, number, table
from edgepack.render import decibels, ms, size
from edgepack.results import BUILD, BUNDLE, Result
from edgepack.results.figures import quality


def of(results: Sequence[Result]) -> list[str]:
    made = [result for result in results if result.kind in (BUILD, BUNDLE)]
    return [html for index, result in enumerate(made) for html in _one(result, f"made{index}")]


def _one(result: Result, name: str) -> list[str]:
    known = about(result)
    assert known is not None
    title = f"{known['name']} {known['version']} for {known['device']}: {known['target']}, {known['precision']}"
    found = [element("h3", title)]
    if result.kind == BUILD and result.data["reason"]:
        found.append(element("p", f"Precision: {result.data['precision']}; {result.data['reason']}"))
    rows = _size_rows(result) + _quality_rows(quality(result))
    if rows:
        found.append(table("Size and answers", ["", "original", "built", "change"], rows, sortable=False))
    measured = result.data if result.kind == BUILD else result.data["manifest"].get("measured", {})
    found += _steps(measured.get("steps") or [], measured.get("forms") or [])
    if result.kind == BUILD:
        known_notes = {step["note"] for step in measured.get("steps") or []}
        found += _list("Beside the passes", [note for note in result.data["notes"] if note not in known_notes])
        found += _list("To look at", result.data["warnings"], "wary")
    promised = promise(result)
    return found + (_search(promised, name) if promised is not None else [])


def _steps(steps: Sequence[Mapping[str, Any]], forms: Sequence[Mapping[str, Any]]) -> list[str]:
    """What each pass did, and the forms of int8 that were compared."""
    found = []
    if steps:
        rows = [
            [
                Cell(step["name"]),
                number(size(step["bytes_before"]), step["bytes_before"]),
                number(size(step["bytes_after"]), step["bytes_after"]),
                number(f"{step['nodes_before']:,} → {step['nodes_after']:,}", None),
                Cell(step["note"]),
            ]
            for step in steps
        ]
        headings = ["pass", "weights before", "after", "nodes", "what it did"]
        found.append(table("Passes, in the order they were taken", headings, rows, sortable=False))
    if forms:
        rows = [
            [
                Cell(form["form"]),
                number("" if form["sqnr_db"] is None else decibels(form["sqnr_db"]), form["sqnr_db"]),
                Cell("yes" if form["chosen"] else ""),
            ]
            for form in forms
        ]
        caption = "Forms of int8 that were compared, by typical SQNR to the float model on samples held back"
        found.append(table(caption, ["form", "SQNR", "taken"], rows))
    return found


def _list(title: str, lines: Sequence[str], style: str = "") -> list[str]:
    if not lines:
        return []
    items = "".join(element("li", line) for line in lines)
    return [element("h3", title), f'<ul class="notes {style}">{items}</ul>']


def _size_rows(result: Result) -> list[list[Cell]]:
    found = sizes(result)
    if found is None:
        return []
    original, model, archive = found
    rows = [
        [
            Cell("model"),
            number(size(original), original),
            number(size(model), model),
            number(f"{100 * (model / original - 1):+.1f} %", None),
        ]
    ]
    if archive is not None:
        rows.append(
            [Cell("archive, all that is shipped"), number("", None), number(size(archive), archive), number("", None)]
        )
    return rows


def _quality_rows(judged: Mapping[str, Any] | None) -> list[list[Cell]]:
    if judged is None:
        return []
    rows = []
    if judged["metric"] is not None:
        sign = -1 if judged["higher_is_better"] else 1
        limits = sorted(sign * judged[key] + 0.0 for key in ("drop_low", "drop_high") if judged[key] is not None)
        change = f"{sign * judged['drop'] + 0.0:+.2f} {judged['unit']}"
        change += f" ({limits[0]:+.2f} to {limits[1]:+.2f})" if len(limits) == 2 else ""
        name = judged["metric"] if judged["higher_is_better"] else f"{judged['metric']} (lower is better)"
        rows.append(
            [
                Cell(f"{name}, {judged['count']:,} samples"),
                number(f"{judged['original']:.2f} %", None),
                number(f"{judged['built']:.2f} %", None),
                number(change, None),
            ]
        )
    if judged["agreement"] is not None:
        rows.append(
            [
                Cell("same answer as the original"),
                number("", None),
                number(f"{judged['agreement']:.2f} %", None),
                number("", None),
            ]
        )
    if judged["sqnr_db"] is not None:
        rows.append(
            [
                Cell("SQNR to the original"),
                number("", None),
                number(decibels(judged["sqnr_db"]), None),
                number("", None),
            ]
        )
    return rows


def _search(promised: Mapping[str, Any], name: str) -> list[str]:
    tried = promised["trials"]
    found = [element("h3", "The search for --max-drop"), element("p", str(promised["reason"]))]
    built = sorted(layer["layer"] for layer in promised["float_layers"])
    timed = [trial for trial in tried if trial["ms"] is not None]
    if len(timed) > 1:
        points = [(trial["ms"], trial["drop"], trial["keeps"], sorted(trial["keep_float"]) == built) for trial in timed]
        drawn = plots.svg(plots.trials(points, promised["max_drop"]), name, "Latency and loss of what was tried")
        found.append(figure(drawn, "What was tried and timed: lower loses less, further left is faster.", "narrow"))
    if len(tried) > 1:
        rows = [
            [
                Cell(_form(trial)),
                number(
                    f"{trial['drop']:.2f} ± {trial['margin']:.2f}", trial["drop"], "good" if trial["keeps"] else "bad"
                ),
                number("" if trial["sqnr_db"] is None else decibels(trial["sqnr_db"]), trial["sqnr_db"]),
                number("" if trial["ms"] is None else ms(trial["ms"]), trial["ms"]),
                Cell("yes" if trial["keeps"] else "no"),
            ]
            for trial in tried
        ]
        found.append(table("What was tried", ["form", "points lost", "SQNR", "latency", "keeps the budget"], rows))
    if promised["float_layers"]:
        rows = [
            [
                Cell(layer["layer"]),
                Cell(layer["operator"] or ""),
                number(
                    "" if layer["sqnr_alone_db"] is None else decibels(layer["sqnr_alone_db"]), layer["sqnr_alone_db"]
                ),
            ]
            for layer in promised["float_layers"]
        ]
        found.append(table("Layers that stayed float", ["layer", "operator", "SQNR if it alone were int8"], rows))
    return found


def _form(trial: Mapping[str, Any]) -> str:
    floats = len(trial["keep_float"])
    if trial["precision"] != "int8":
        return str(trial["precision"])
    return "all int8" if not floats else f"{floats} layer{'s' if floats > 1 else ''} float"
