"""Plots as inline SVG. Colours are CSS variables of the page, so that they follow its light and dark.

matplotlib draws with stand-ins, which are then replaced; its text stays text.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from edgepack.errors import needs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = {
    "#010101": "ink", "#020202": "quiet", "#030303": "grid", "#040404": "line", "#0a0a01": "one", "#0a0a02": "two",
    "#0a0a03": "three", "#0a0a04": "four", "#0b0b01": "good", "#0b0b02": "bad",
}  # fmt: skip
_NAMES = {name: colour for colour, name in _COLOURS.items()}
# Inches of a plot that has the page to itself.
WIDE = 14.0
SERIES = ("one", "two", "three", "four")
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "edgepack", "text.parse_math": False, "font.size": 10.5,
    "font.family": ["DejaVu Sans"], "axes.edgecolor": "#040404", "axes.labelcolor": "#020202", "text.color": "#010101",
    "xtick.color": "#040404", "ytick.color": "#040404", "xtick.labelcolor": "#020202", "ytick.labelcolor": "#020202",
    "axes.grid": True, "grid.color": "#030303", "grid.linewidth": 0.8, "axes.axisbelow": True,
    "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10.5, "axes.titlelocation": "left",
    "legend.frameon": False, "legend.fontsize": 10, "figure.dpi": 72, "axes.labelsize": 10.5,
}  # fmt: skip
_SVG = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"
Draw = Callable[["Figure"], None]


def colour(name: str) -> str:
    """The stand-in for a CSS variable of the page."""
    return _NAMES[name]


def svg(draw: Draw, name: str, label: str, width: float = 5.8, height: float = 3.4) -> str:
    """What `draw` puts on a figure, as an <svg> element.

    Args:
        name: what sets its ids apart from those of other plots on the page.
        label: what it shows, for those who do not see it.
        width, height: inches of 72 dots; the page scales it.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    matplotlib = needs("matplotlib")
    figures = needs("matplotlib.figure")
    content = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        figure = figures.Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        figure.savefig(content, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(content.getvalue(), name, label)


def _inline(content: bytes, name: str, label: str) -> str:
    """For the middle of a page: ids of its own, no style for others, colours by name."""
    ElementTree.register_namespace("", _SVG[1:-1])
    root = ElementTree.fromstring(content)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith("}metadata") or child.tag == f"{_SVG}style":
                parent.remove(child)
    used = set(re.findall(rb"#([\w-]+)[\")]", content))
    for node in root.iter():
        old = node.attrib.pop("id", None)
        if old is not None and old.encode() in used:
            node.set("id", f"{name}-{old}")
        link = node.attrib.pop(_LINK, None)
        if link is not None:
            node.set("href", f"#{name}-{link[1:]}")
        for key, value in node.items():
            if key not in ("href", "id"):
                node.set(key, _named(value.replace("url(#", f"url(#{name}-")))
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.set("role", "img")
    root.set("aria-label", label)
    return ElementTree.tostring(root, encoding="unicode")


def _named(value: str) -> str:
    value = re.sub(r"font: ([\d.]+px)[^;]*", r"font-size: \1", value)
    return re.sub("#0[0-9a-f]{5}", lambda found: f"var(--{_COLOURS.get(found[0], 'ink')})", value)


# --- what is drawn ----------------------------------------------------------------------------------------


def distributions(models: Mapping[str, Sequence[Sequence[float]]]) -> Draw:
    """The share of runs that took no longer: all of a model's runs, and pale beside it each process's.

    Args:
        models: [process][run] in milliseconds, by what the model is called.
    """
    import numpy as np

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        shares = np.linspace(0, 1, 201)
        ends: list[float] = []
        for (name, processes), series in zip(models.items(), SERIES, strict=False):
            for runs in processes:
                axes.plot(np.quantile(runs, shares), 100 * shares, color=colour(series), alpha=0.22, linewidth=0.9)
            together = np.concatenate([np.asarray(runs) for runs in processes])
            axes.plot(np.quantile(together, shares), 100 * shares, color=colour(series), linewidth=2.2, label=name)
            ends += [float(np.quantile(together, 0.001)), float(np.quantile(together, 0.995))]
        axes.set_xscale("log")
        axes.set_xlim(0.93 * min(ends), 1.08 * max(ends))
        axes.set_ylim(0, 100)
        _plain_ticks(axes.xaxis)
        axes.set_xlabel("milliseconds a run")
        axes.set_ylabel("% of the runs took no longer")
        figure.legend(loc="outside upper left", ncols=len(models))

    return draw


def medians(models: Mapping[str, tuple[Sequence[float], float, float]]) -> Draw:
    """Each process's median in the order of time, over the interval of the typical one.

    Args:
        models: medians in milliseconds and the interval's ends, by what the model is called.
    """

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for (name, (values, low, high)), series in zip(models.items(), SERIES, strict=False):
            axes.axhspan(low, high, color=colour(series), alpha=0.16, linewidth=0)
            axes.plot(
                range(1, len(values) + 1), values, "o", markersize=6, color=colour(series), label=name
            )  # fmt: skip
        axes.set_xlabel("process, in the order of time")
        axes.set_ylabel("its median, ms")
        axes.set_ylim(bottom=0)
        axes.margins(x=0.08)
        axes.locator_params(axis="x", integer=True)
        if len(models) > 1:
            figure.legend(loc="outside upper left", ncols=len(models))

    return draw


def sweep(rows: Sequence[tuple[int, int, float, float]]) -> Draw:
    """Throughput and latency by threads, a line a batch.

    Args:
        rows: threads, batch, samples a second, median in milliseconds.
    """

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, 2)
        batches = list(dict.fromkeys(batch for _, batch, _, _ in rows))
        threads = sorted({row[0] for row in rows})
        for axes, column, title in ((panels[0], 2, "samples a second"), (panels[1], 3, "median, ms a run")):
            for index, batch in enumerate(batches):
                points = sorted((row[0], row[column]) for row in rows if row[1] == batch)
                places = [threads.index(count) for count, _ in points]
                axes.plot(
                    places, [value for _, value in points], "o-", color=colour(SERIES[index % len(SERIES)]),
                    alpha=1 if index < len(SERIES) else 0.5, label=f"batch {batch}",
                )  # fmt: skip
            axes.set_xticks(range(len(threads)), [str(count) for count in threads])
            axes.set_xlabel("threads")
            axes.set_title(title)
            axes.set_ylim(bottom=0)
            axes.margins(x=0.12)
        if len(batches) > 1:
            figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper")

    return draw


def bars(names: Sequence[str], panels: Sequence[tuple[str, Sequence[float | None], str]]) -> Draw:
    """Horizontal bars, a row a name and a panel a figure, side by side.

    Args:
        panels: title, a value for each name or None, colour.
    """

    def draw(figure: Figure) -> None:
        every = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        places = range(len(names))
        for axes, (title, values, series) in zip(every, panels, strict=True):
            axes.barh(places, [value or 0.0 for value in values], height=0.68, color=colour(series))
            axes.set_title(title)
            axes.grid(False, axis="y")
            axes.tick_params(axis="y", length=0)
        every[0].set_yticks(places, [_short(name) for name in names])
        every[0].invert_yaxis()

    return draw


def lines(panels: Sequence[tuple[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]]]) -> Draw:
    """Figures over time, one panel above the other.

    Args:
        panels: title, and by name the seconds and the values.
    """

    def draw(figure: Figure) -> None:
        every = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (title, series) in zip(every, panels, strict=True):
            for index, (name, (seconds, values)) in enumerate(series.items()):
                axes.plot(
                    seconds, values, ".-", markersize=4, linewidth=1.4, color=colour(SERIES[index % len(SERIES)]),
                    label=name,
                )  # fmt: skip
            axes.set_title(title)
            low, high = axes.get_ylim()
            axes.set_ylim(min(0, low) if title.startswith("CPU") else low, high)
            axes.ticklabel_format(axis="y", useOffset=False)
            if len(series) > 1:
                axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        every[-1].set_xlabel("seconds")

    return draw


def trials(points: Sequence[tuple[float, float, bool, bool]], budget: float) -> Draw:
    """What was tried: latency against what it lost.

    Args:
        points: milliseconds, points lost, whether it keeps the budget, whether it was built.
    """

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.axhline(budget, color=colour("quiet"), linewidth=1.2, linestyle="--")
        axes.annotate(
            "allowed", (1, budget), xycoords=("axes fraction", "data"), ha="right", va="bottom", color=colour("quiet")
        )
        for latency, lost, keeps, built in points:
            shade = colour("good" if keeps else "bad")
            axes.plot([latency], [lost], "o" if keeps else "X", markersize=11 if built else 7, color=shade)
            if built:
                axes.annotate("built", (latency, lost), xytext=(8, -4), textcoords="offset points")
        axes.margins(0.15)
        axes.set_xlabel("milliseconds a run")
        axes.set_ylabel("points lost")

    return draw


def _plain_ticks(axis: Any) -> None:
    """Few plain numbers on a logarithmic axis."""
    ticker = needs("matplotlib.ticker")
    axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5), numticks=12))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(ticker.NullFormatter())


_LONGEST = 34


def _short(name: str) -> str:
    """The end of a long name, where layers differ."""
    # PyTorch's exporter calls an output by its module, operator and number; the module tells layers apart.
    name = re.sub(r"(?<=.)/\w+_output_\d+$", "", name).lstrip("/") or name
    return name if len(name) <= _LONGEST else f"…{name[1 - _LONGEST :]}"
