"""The device: what it is, and its clocks, temperatures and load while it was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgepack.measuring.measurement import setting
from edgepack.page import plots
from edgepack.page.facts import Measured, measurements, place
from edgepack.page.html import Cell, element, figure, table
from edgepack.results import Result

Series = Mapping[str, tuple[Sequence[float], Sequence[float]]]


def of(results: Sequence[Result]) -> list[str]:
    found: list[str] = []
    known: list[dict[str, str]] = []
    for index, (_, one) in enumerate(measurements(results)):
        facts = _facts(one)
        if facts not in known:
            known.append(facts)
            rows = [[Cell(name), Cell(words)] for name, words in facts.items()]
            found += [element("h3", place(one)), table("The machine", ["", ""], rows, sortable=False)]
        if index < _PLOTTED:
            found += _over_time(one, f"machine{index}", _setting(one) if len(measurements(results)) > 1 else "")
    return found


# A sweep of many settings would show the same thing as often.
_PLOTTED = 3


def _setting(one: Measured) -> str:
    about = one["bundle"]
    return f", {about['name']} {about['precision']}, {setting(one)}"


def _facts(one: Measured) -> dict[str, str]:
    about = one["environment"]
    governors = sorted(set(about["after"]["governors"].values()))
    clocks = about.get("clocks") or {}
    facts = {
        "where": one.get("host", "local"),
        "board": about["board"],
        "CPU": about["cpu"],
        "machine": f"{about['machine']}, {about['cores']} cores",
        "CPUs that may be used": ", ".join(map(str, about["affinity"] or [])),
        "system": about["system"],
        "kernel": about["kernel"],
        "governor": ", ".join(governors),
        "clocks fixed": ", ".join(clocks.get("fixed", [])),
        "power mode": about["power_mode"],
        "jetson_clocks": {True: "on", False: "off"}.get(about.get("jetson_clocks", "")),
        "emulated": "yes: times mean nothing" if about["emulated"] or one.get("emulated") else "",
    }
    return {name: str(words) for name, words in facts.items() if words}


def _over_time(one: Measured, name: str, which: str) -> list[str]:
    samples = one["environment"]["during"]
    panels: list[tuple[str, Series]] = []
    clocks = _extremes(samples, "mhz")
    if clocks:
        panels.append(("clock, MHz", clocks))
    temperatures = _by_name(samples, "celsius")
    if temperatures:
        panels.append(("temperature, °C", temperatures))
    watts = _by_name(samples, "watts")
    if watts:
        panels.append(("power, W", watts))
    busy = {
        words: _known(samples, key)
        for key, words in (("busy", "all"), ("busy_elsewhere", "others"))
        if _known(samples, key)[0]
    }
    if busy:
        panels.append(("CPUs in use", busy))
    if not panels or len(samples) < 2:
        return []
    titles = ", ".join(title for title, _ in panels)
    drawn = plots.svg(
        plots.lines(panels), name, f"Over time: {titles}", width=plots.WIDE, height=0.7 + 1.35 * len(panels)
    )
    return [figure(drawn, f"While it was measured, about once a second{which}.", "wide")]


def _extremes(samples: Sequence[Mapping[str, Any]], key: str) -> Series:
    """The fastest and the slowest CPU's; one line where they are the same."""
    known = [(sample["t"], sample[key].values()) for sample in samples if sample[key]]
    if not known:
        return {}
    seconds = [when for when, _ in known]
    low, high = [min(values) for _, values in known], [max(values) for _, values in known]
    return {"all": (seconds, high)} if low == high else {"fastest": (seconds, high), "slowest": (seconds, low)}


def _by_name(samples: Sequence[Mapping[str, Any]], key: str) -> Series:
    """Of many sensors those that moved furthest."""
    names = {name for sample in samples for name in sample[key]}
    found = {}
    for name in sorted(names):
        points = [(sample["t"], sample[key][name]) for sample in samples if sample[key].get(name) is not None]
        if points:
            found[name] = ([when for when, _ in points], [value for _, value in points])
    moved = sorted(found, key=lambda name: min(found[name][1]) - max(found[name][1]))
    return {name: found[name] for name in moved[: len(plots.SERIES)]}


def _known(samples: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]]:
    points = [(sample["t"], sample[key]) for sample in samples if sample.get(key) is not None]
    return [when for when, _ in points], [value for _, value in points]
