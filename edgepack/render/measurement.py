"""Measurements as rich tables; nothing here computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from edgepack.measuring.measurement import SWEEP, Measurement, each, setting
from edgepack.render import check_words, mb, ms

Figures = Mapping[str, Any]

_COLOURS = {"faster": "green", "slower": "red", "same": "bold", "unclear": "yellow"}
_ROWS: list[tuple[str, Callable[[Figures], str]]] = [
    ("median", lambda m: ms(m["median_ms"])),
    ("  95 % interval", lambda m: f"{_digits(m['median_low_ms'])} – {ms(m['median_high_ms'])}"),
    ("p90", lambda m: ms(m["p90_ms"])),
    ("p95", lambda m: ms(m["p95_ms"])),
    ("p99", lambda m: ms(m["p99_ms"])),
    ("max", lambda m: ms(m["max_ms"])),
    ("mean ± deviation", lambda m: f"{_digits(m['mean_ms'])} ± {ms(m['deviation_ms'])}"),
    ("throughput", lambda m: f"{m['throughput_per_s']:,.4g}/s"),
    ("load", lambda m: "" if m["load_ms"] is None else ms(m["load_ms"])),
    ("first inference", lambda m: "" if m["first_inference_ms"] is None else ms(m["first_inference_ms"])),
    ("peak memory", lambda m: "" if m["peak_memory_mb"] is None else mb(m["peak_memory_mb"])),
    ("energy", lambda m: "" if m["joules"] is None else _joules(m["joules"])),
    ("runs", lambda m: f"{m['count']:,}"),
]


def measurement(result: Measurement) -> RenderableType:
    """A measurement or a sweep: the verdict, the figures, the doubts, the machine."""
    return _sweep(result) if result["kind"] == SWEEP else _single(result)


def _single(result: Measurement) -> RenderableType:
    models = result["models"]
    table = Table()
    table.add_column("")
    for part in _parts(result):
        table.add_column(escape(_name(part, models)), justify="right")
    for label, words in _ROWS:
        cells = [words(models[part]) for part in _parts(result)]
        if any(cells):
            table.add_row(label, *cells)
    return Group(
        Text(f"{_title(result)}, {setting(result)}", style="bold"),
        table,
        *_verdict(result),
        *_doubts(result),
        *_checks(result),
        Text(_machine(result), style="dim"),
    )


def _sweep(result: Measurement) -> RenderableType:
    measured = each(result)
    first = measured[0]
    other = next((part for part in _parts(first) if part != "model"), None)
    headings = ["threads", "batch", "median", "samples/s"]
    headings += (
        ["p99", "peak memory"] if other is None else [escape(_name(other, first["models"])), "times as fast", ""]
    )
    table = Table(*headings, box=box.SIMPLE_HEAD)
    for column in table.columns:
        column.justify, column.no_wrap = "right", column.header == "times as fast"
    for one in measured:
        model, settings = one["models"]["model"], one["settings"]
        cells = [str(settings["threads"]), str(settings["batch"]), ms(model["median_ms"])]
        cells.append(f"{model['throughput_per_s']:,.4g}")
        if other is None:
            cells += [ms(model["p99_ms"]), "" if model["peak_memory_mb"] is None else mb(model["peak_memory_mb"])]
        else:
            ratio = one["ratio"]
            cells += [ms(one["models"][other]["median_ms"]), _interval(ratio), _coloured(ratio["verdict"])]
        table.add_row(*cells)
    doubts = [
        line
        for one in measured
        for line in _doubts(one, f"{one['settings']['threads']} threads, batch {one['settings']['batch']}: ")
    ]
    return Group(Text(_title(first), style="bold"), table, *doubts, *_checks(first), Text(_machine(first), style="dim"))


def _parts(result: Measurement) -> list[str]:
    return [part for part in ("baseline", "against", "model") if part in result["models"]]


def _name(part: str, models: Mapping[str, Figures]) -> str:
    if part == "baseline":
        return "float original"
    if "against" not in models:
        return "this bundle"
    about, other = models[part]["bundle"], models["model" if part == "against" else "against"]["bundle"]
    if about == other:
        return "this bundle" if part == "model" else "the other"
    # What tells them apart.
    keys = [key for key in ("name", "version", "target", "precision") if about[key] != other[key]]
    return " ".join(about[key] for key in keys or ("name",))


def _title(result: Measurement) -> str:
    about = result["bundle"]
    where = "this machine" if result["host"] == "local" else result["host"]
    return f"{about['name']}: {about['target']}, {about['precision']}, on {where}"


def _verdict(result: Measurement) -> list[RenderableType]:
    ratio = result.get("ratio")
    if ratio is None:
        return []
    words = {
        "faster": "faster than",
        "slower": "slower than",
        "same": f"the same as (within {100 * ratio['equivalence']:g} %)",
        "unclear": "not clearly faster or slower than",
    }[ratio["verdict"]]
    line = Text.assemble(
        (words, _COLOURS[ratio["verdict"]]),
        f" {_name(ratio['to'], result['models'])}: {_interval(ratio)} times as fast; "
        f"{ratio['processes']} pairs of processes, {ratio['rounds']} rounds in turn",
    )
    if ratio["verdict"] == "unclear":
        line.append("; more --processes or --seconds would tell")
    return [line]


def _coloured(verdict: str) -> str:
    return f"[{_COLOURS[verdict]}]{verdict}[/]"


def _interval(ratio: Figures) -> str:
    digits = 3 if ratio["high"] < 2 else 2
    return f"{ratio['median']:.{digits}f} ({ratio['low']:.{digits}f} – {ratio['high']:.{digits}f})"


def _doubts(result: Measurement, where: str = "") -> list[RenderableType]:
    lines: list[RenderableType] = []
    for doubt in result["doubts"]:
        style = "bold red" if doubt["severity"] == "invalid" else "yellow"
        mark = "NOT VALID: " if doubt["severity"] == "invalid" else "! "
        lines.append(Text.assemble((f"{mark}{where}{doubt['words']}", style), (f" — {doubt['advice']}", "dim")))
    return lines


def _checks(result: Measurement) -> list[RenderableType]:
    check = result.get("check")
    return [Text(check_words(check))] if check and check.get("ok") else []


def _machine(result: Measurement) -> str:
    about = result["environment"]
    words = [about["board"], about["cpu"] or about["machine"], f"{about['cores']} cores"]
    governors = sorted(set(about["after"]["governors"].values()))
    words += [f"governor {', '.join(governors)}"] if governors else []
    words += [f"power mode {about['power_mode']}"] if about["power_mode"] else []
    held = about.get("jetson_clocks")
    words += [] if held is None else [f"jetson_clocks {'on' if held else 'off'}"]
    temperatures = [
        max(sample["celsius"].values()) for sample in (about["before"], about["after"]) if sample["celsius"]
    ]
    if len(temperatures) == 2:
        words.append(f"{temperatures[0]:.0f} to {temperatures[1]:.0f} °C")
    versions = result["models"]["model"]["versions"].items()
    words += [f"{name} {version}" for name, version in versions]
    return ", ".join(str(word) for word in [*words, about["system"]] if word)


def _digits(value: float) -> str:
    return ms(value).removesuffix(" ms")


def _joules(value: float) -> str:
    return f"{1000 * value:.3g} mJ an inference" if value < 1 else f"{value:.3g} J an inference"
