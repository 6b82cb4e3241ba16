"""What each layer takes, from a profile, beside what int8 does to it, from a diagnosis."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgepack.page import plots
from edgepack.page.facts import setting_of_profile
from edgepack.page.html import Cell, element, figure, number, table
from edgepack.render import decibels
from edgepack.results import LAYERS, PROFILE, Result

# More rows than these are too many to tell apart in a plot; the table has all.
_SHOWN = 20
_TELLING = 0.005
_CONVERSIONS = {"quantize": "(Q/DQ)", "layout": "(layout conversions)"}


@dataclass(frozen=True, kw_only=True)
class _Spent:
    """What the operators of a layer take together; `operator` and `precision` are of the longest."""

    operator: str
    us: float
    share: float
    precision: str
    macs: int

    @property
    def gops(self) -> float | None:
        return 2e-3 * self.macs / self.us if self.macs and self.us else None


def of(results: Sequence[Result]) -> list[str]:
    diagnoses = [result.data for result in results if result.kind == LAYERS]
    profiles = [result.data for result in results if result.kind == PROFILE]
    # The first of each kind stand beside each other, the second, and so on; one diagnosis serves all profiles.
    found: list[str] = []
    for index in range(max(len(diagnoses), len(profiles))):
        errors = diagnoses[min(index, len(diagnoses) - 1)] if diagnoses else None
        found += _side_by_side(errors, profiles[index] if index < len(profiles) else None, f"layers{index}")
    return found


def _side_by_side(errors: Mapping[str, Any] | None, times: Mapping[str, Any] | None, name: str) -> list[str]:
    hurt = {row["layer"]: row for row in errors["layers"]} if errors is not None else {}
    spent = _spent(times["operators"], hurt) if times is not None else {}
    # Whatever stands out in either comes first.
    weight = {
        layer: (spent[layer].share if layer in spent else 0.0) + (hurt[layer]["share"] if layer in hurt else 0.0)
        for layer in dict.fromkeys([*spent, *hurt])
    }
    layers = sorted(weight, key=lambda layer: -weight[layer])
    shown = [layer for layer in layers if weight[layer] > _TELLING][:_SHOWN] or layers[:_SHOWN]
    return [
        element("h3", _heading(errors, times)),
        figure(_plot(shown, hurt, spent, name), _caption(shown, layers, bool(spent), bool(hurt)), "wide"),
        *(_profile_words(times) if times is not None else []),
        _table(layers, hurt, spent),
        *_advice(hurt),
    ]


def _spent(operators: Sequence[Mapping[str, Any]], hurt: Mapping[str, Any]) -> dict[str, _Spent]:
    """By layer: the one that the diagnosis knows, else the first that an operator computes; conversions by kind."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    known = {_node(layer): layer for layer in hurt}
    for row in operators:
        names = [name for layer in row["layers"] for name in (layer.get("output"), layer["name"]) if name]
        judged = next((known[name] for name in names if name in known), None)
        judged = judged or next((name for name in names if name in hurt), None)
        own = row["layers"][0]["name"] if names else f"({row['name']})"
        groups.setdefault(_CONVERSIONS.get(row["role"]) or judged or own, []).append(row)
    return {
        layer: _Spent(
            operator=max(rows, key=lambda row: row["us"])["kind"],
            us=sum(row["us"] for row in rows),
            share=sum(row["share"] for row in rows),
            precision=max(rows, key=lambda row: row["us"])["precision"],
            macs=sum(row["macs"] for row in rows),
        )
        for layer, rows in groups.items()
    }


def _node(output: str) -> str:
    """A node's name, where its output is called after it as PyTorch's exporter does; else the output's."""
    return re.sub(r"_output_\d+$", "", output)


def _heading(errors: Mapping[str, Any] | None, times: Mapping[str, Any] | None) -> str:
    if times is None:
        return f"Error by layer of {errors['path']}" if errors is not None else ""
    return f"Time by layer of {setting_of_profile(times)}" + (
        f", and error by layer of {errors['path']}" if errors is not None else ""
    )


def _plot(shown: Sequence[str], hurt: Mapping[str, Any], spent: Mapping[str, _Spent], name: str) -> str:
    panels: list[tuple[str, list[float | None], str]] = []
    if spent:
        panels.append(("time, µs", [spent[layer].us if layer in spent else None for layer in shown], "one"))
    if hurt:
        values = [100 * hurt[layer]["share"] if layer in hurt else None for layer in shown]
        panels.append(("share of the int8 error, %", values, "two"))
        if not spent:
            macs = [100 * hurt[layer]["macs_share"] if layer in hurt else None for layer in shown]
            panels.insert(0, ("share of the multiply-accumulates, %", macs, "one"))
    label = f"By layer: {' beside '.join(title for title, _, _ in panels)}"
    return plots.svg(plots.bars(shown, panels), name, label, width=plots.WIDE, height=1.0 + 0.24 * len(shown))


def _caption(shown: Sequence[str], layers: Sequence[str], timed: bool, judged: bool) -> str:
    words = "Time" if timed else "Arithmetic"
    if judged:
        words += " on the left, error on the right: long right and short left is cheap to leave in float"
    rest = len(layers) - len(shown)
    return f"{words}. The {len(shown)} layers that stand out{f'; {rest} more are in the table' if rest else ''}."


def _profile_words(times: Mapping[str, Any]) -> list[str]:
    """What the operators come to, and what is estimated in that."""
    lines = [
        f"Operators {times['operators_us']:,.0f} µs; a run without the profiler {times['end_to_end_us']:,.0f} µs.",
        *times["notes"],
    ]
    if times["coverage"] is not None:
        lines.insert(1, f"{100 * times['coverage']:.1f} % of the time belongs to layers of the original.")
    return [f'<ul class="notes">{"".join(element("li", line) for line in lines)}</ul>']


def _table(layers: Sequence[str], hurt: Mapping[str, Any], spent: Mapping[str, _Spent]) -> str:
    headings = ["layer", "operator"]
    headings += ["time", "of time", "type", "GOPS"] if spent else []
    headings += ["SQNR", "weights", "activations", "of error", "of MACs"] if hurt else []
    rows = []
    for layer in layers:
        time, error = spent.get(layer), hurt.get(layer)
        row = [Cell(layer), Cell(time.operator if time else str(error["operator"] or "") if error else "")]
        if spent:
            row += [
                number(f"{time.us:,.1f} µs", time.us) if time else number("", None),
                number(f"{100 * time.share:.1f} %", time.share) if time else number("", None),
                Cell(time.precision if time else ""),
                number(f"{time.gops:.1f}", time.gops) if time and time.gops else number("", None),
            ]
        if hurt:
            for key in ("sqnr_db", "weights_db", "activations_db"):
                value = error[key] if error else None
                row.append(number("" if value is None else decibels(value), value))
            for key in ("share", "macs_share"):
                value = error[key] if error else None
                row.append(number("" if value is None else f"{100 * value:.1f} %", value))
        rows.append(row)
    caption = "Layers" + ("; SQNR and error are of each alone in int8" if hurt else "")
    return table(caption, headings, rows)


def _advice(hurt: Mapping[str, Any]) -> list[str]:
    advice = [f"{row['layer']}: {row['advice']}" for row in hurt.values() if row.get("advice")]
    return [f'<ul class="notes">{"".join(element("li", words) for words in advice)}</ul>'] if advice else []
