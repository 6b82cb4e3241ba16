"""Distributions of latency, the figures in a table, and sweeps."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from edgepack.page import plots
from edgepack.page.facts import Measured, heading, part_name, parts, place, runs, single, sweeps
from edgepack.page.html import Cell, box, element, figure, number, table
from edgepack.render import ms
from edgepack.results import Result

_ROWS: list[tuple[str, str, Callable[[float], str]]] = [
    ("median, typical process", "median_ms", ms),
    ("p50, all runs", "p50_ms", ms),
    ("p90", "p90_ms", ms),
    ("p95", "p95_ms", ms),
    ("p99", "p99_ms", ms),
    ("max", "max_ms", ms),
    ("mean", "mean_ms", ms),
    ("standard deviation", "deviation_ms", ms),
    ("samples a second", "throughput_per_s", lambda value: f"{value:,.4g}"),
    ("load", "load_ms", ms),
    ("first inference", "first_inference_ms", ms),
    ("peak memory", "peak_memory_mb", lambda value: f"{value:.0f} MB"),
    ("energy an inference", "joules", lambda value: f"{1000 * value:.3g} mJ"),
    ("runs", "count", lambda value: f"{value:,.0f}"),
]


def of(results: Sequence[Result]) -> list[str]:
    found = [html for index, (_, one) in enumerate(single(results)) for html in _single(one, f"latency{index}")]
    for index, (_, measured) in enumerate(sweeps(results)):
        found += _sweep(measured, f"sweep{index}")
    return found


def _single(one: Measured, name: str) -> list[str]:
    models = {part_name(one, part): one["models"][part] for part in parts(one)}
    latencies = {title: runs(part) for title, part in models.items()}
    middles = {
        title: ([statistics.median(times) for times in runs(part)], part["median_low_ms"], part["median_high_ms"])
        for title, part in models.items()
    }
    spread = plots.svg(
        plots.distributions(latencies), f"{name}a", f"Cumulative distribution of latency of {' and '.join(models)}"
    )
    by_process = plots.svg(
        plots.medians(middles), f"{name}b", f"Median latency of each process of {' and '.join(models)}"
    )
    count = len(next(iter(latencies.values())))
    return [
        element("h3", heading(one)),
        box(
            "div",
            [
                figure(
                    spread,
                    f"All runs (strong) and those of each of the {count} processes (pale). Further left is faster.",
                ),
                figure(
                    by_process,
                    "The median of each process, over the 95 % interval of the typical one: how far they are apart "
                    "is how well the median is known.",
                ),
            ],
            "plots",
        ),
        _figures(one),
    ]


def _figures(one: Measured) -> str:
    shown = parts(one)
    rows = []
    for label, key, words in _ROWS:
        values = [one["models"][part].get(key) for part in shown]
        if all(value is None for value in values):
            continue
        texts = ["" if value is None else words(value) for value in values]
        if key == "median_ms":
            limits = [(one["models"][part]["median_low_ms"], one["models"][part]["median_high_ms"]) for part in shown]
            texts = [
                f"{text} ({ms(low).removesuffix(' ms')} – {ms(high).removesuffix(' ms')})"
                for text, (low, high) in zip(texts, limits, strict=True)
            ]
        rows.append([Cell(label), *(number(text, value) for text, value in zip(texts, values, strict=True))])
    return table(
        "Figures; in brackets the 95 % interval", ["", *(part_name(one, p) for p in shown)], rows, sortable=False
    )


def _sweep(measured: Sequence[Measured], name: str) -> list[str]:
    first = measured[0]
    rows = []
    for one in measured:
        model, ratio = one["models"]["model"], one.get("ratio")
        row = [
            number(str(one["settings"]["threads"]), one["settings"]["threads"]),
            number(str(one["settings"]["batch"]), one["settings"]["batch"]),
            number(ms(model["median_ms"]), model["median_ms"]),
            number(ms(model["p99_ms"]), model["p99_ms"]),
            number(f"{model['throughput_per_s']:,.4g}", model["throughput_per_s"]),
        ]
        if "ratio" in first:
            row += [
                number(f"{ratio['median']:.2f} ({ratio['low']:.2f} – {ratio['high']:.2f})", ratio["median"]),
                Cell(ratio["verdict"], style={"faster": "good", "slower": "bad"}.get(ratio["verdict"], "")),
            ] if ratio else [number("", None), Cell("")]  # fmt: skip
        rows.append(row)
    headings = ["threads", "batch", "median", "p99", "samples a second"]
    if "ratio" in first:
        headings += [f"times as fast as the {part_name(first, first['ratio']['to']).removeprefix('the ')}", "verdict"]
    points = [
        (one["settings"]["threads"], one["settings"]["batch"], model["throughput_per_s"], model["median_ms"])
        for one in measured
        for model in [one["models"]["model"]]
    ]
    about = first["bundle"]
    title = f"Sweep of {about['name']} {about['version']}: {about['target']}, {about['precision']}, on {place(first)}"
    drawn = plots.svg(
        plots.sweep(points), name, "Throughput and latency by threads and batch", width=plots.WIDE, height=3
    )
    return [
        element("h3", title),
        figure(drawn, "Throughput and latency by threads, a line a batch.", "wide"),
        table("The sweep", headings, rows),
    ]
