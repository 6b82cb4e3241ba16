"""What each layer takes, from a profile, beside what int8 does to it, from a diagnosis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgepack.page import plots
from edgepack.page.html import Cell, element, figure, number, table
from edgepack.render import decibels
from edgepack.results import LAYERS, PROFILE, Result

# More rows than these are too many to tell apart in a plot; the table has all.
_SHOWN = 20
_TELLING = 0.005


def of(results: Sequence[Result]) -> list[str]:
    diagnoses = [result for result in results if result.kind == LAYERS]
    profiles = [result for result in results if result.kind == PROFILE]
    # The first of each kind stand beside each other, the second, and so on.
    found: list[str] = []
    for index in range(max(len(diagnoses), len(profiles))):
        errors = diagnoses[index].data if index < len(diagnoses) else None
        times = profiles[index].data if index < len(profiles) else None
        found += _side_by_side(errors, times, f"layers{index}")
    return found


def _side_by_side(errors: Mapping[str, Any] | None, times: Mapping[str, Any] | None, name: str) -> list[str]:
    hurt = {row["layer"]: row for row in errors["layers"]} if errors is not None else {}
    spent = {row["layer"]: row for row in times["layers"]} if times is not None else {}
    total = sum(row["ms"] for row in spent.values())
    layers = list(dict.fromkeys([*spent, *hurt]))
    # Whatever stands out in either comes first.
    weight = {
        layer: (spent[layer]["ms"] / total if layer in spent and total else 0.0)
        + (hurt[layer]["share"] if layer in hurt else 0.0)
        for layer in layers
    }
    layers.sort(key=lambda layer: -weight[layer])
    shown = [layer for layer in layers if weight[layer] > _TELLING][:_SHOWN] or layers[:_SHOWN]
    return [
        element("h3", _heading(errors, times)),
        figure(_plot(shown, hurt, spent, name), _caption(shown, layers, spent, hurt), "wide"),
        _table(layers, hurt, spent, total),
        *_advice(hurt),
    ]


def _heading(errors: Mapping[str, Any] | None, times: Mapping[str, Any] | None) -> str:
    words = []
    if times is not None:
        about = times.get("bundle") or {}
        words.append(f"time by layer of {about['name']}" if "name" in about else "time by layer")
    if errors is not None:
        words.append(
            f"error by layer of {errors['path']}: each alone in int8, by {errors['target']}'s rules, "
            f"{errors['samples']} samples"
        )
    text = "; ".join(words)
    return text[:1].upper() + text[1:]


def _plot(shown: Sequence[str], hurt: Mapping[str, Any], spent: Mapping[str, Any], name: str) -> str:
    panels: list[tuple[str, list[float | None], str]] = []
    if spent:
        panels.append(("time, ms", [spent[layer]["ms"] if layer in spent else None for layer in shown], "one"))
    if hurt:
        values = [100 * hurt[layer]["share"] if layer in hurt else None for layer in shown]
        panels.append(("share of the int8 error, %", values, "two"))
        if not spent:
            macs = [100 * hurt[layer]["macs_share"] if layer in hurt else None for layer in shown]
            panels.insert(0, ("share of the multiply-accumulates, %", macs, "one"))
    height = 1.0 + 0.24 * len(shown)
    label = " beside ".join(title for title, _, _ in panels)
    return plots.svg(plots.bars(shown, panels), name, f"By layer: {label}", width=plots.WIDE, height=height)


def _caption(shown: Sequence[str], layers: Sequence[str], spent: Mapping[str, Any], hurt: Mapping[str, Any]) -> str:
    left = "time" if spent else "arithmetic"
    words = f"Left {left}, right error: " if hurt else "Time: "
    words += "what is long on the right and short on the left is cheap to leave in float. " if hurt else ""
    rest = len(layers) - len(shown)
    return f"{words}The {len(shown)} layers that stand out{f'; {rest} more are in the table' if rest else ''}."


def _table(layers: Sequence[str], hurt: Mapping[str, Any], spent: Mapping[str, Any], total: float) -> str:
    headings = ["layer", "operator"]
    headings += ["time", "of time"] if spent else []
    headings += ["SQNR alone", "weights", "activations", "of error", "of MACs"] if hurt else []
    rows = []
    for layer in layers:
        time, error = spent.get(layer), hurt.get(layer)
        row = [Cell(layer), Cell(str((error or time or {}).get("operator") or ""))]
        if spent:
            taken = time["ms"] if time else None
            row.append(number("" if taken is None else f"{taken:.4f} ms", taken))
            row.append(number("" if taken is None or not total else f"{100 * taken / total:.1f} %", taken))
        if hurt:
            for key in ("sqnr_db", "weights_db", "activations_db"):
                value = error[key] if error else None
                row.append(number("" if value is None else decibels(value), value))
            for key in ("share", "macs_share"):
                value = error[key] if error else None
                row.append(number("" if value is None else f"{100 * value:.1f} %", value))
        rows.append(row)
    return table("Layers", headings, rows)


def _advice(hurt: Mapping[str, Any]) -> list[str]:
    advice = [f"{row['layer']}: {row['advice']}" for row in hurt.values() if row.get("advice")]
    if not advice:
        return []
    return ['<ul class="notes">', *(element("li", words) for words in advice), "</ul>"]
