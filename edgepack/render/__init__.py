"""Results become rich tables; nothing here computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from edgepack.building.result import Build
from edgepack.device import Device
from edgepack.inspection import BundleInspection, Inspection
from edgepack.metrics.merit import Quality
from edgepack.quantization.diagnosis import Diagnosis
from edgepack.render.lint import findings
from edgepack.render.pruning import pruning_lines


def build_report(built: Build) -> RenderableType:
    """The closing table of a build: what, before, after, change."""
    title = f"{built.name} for {built.device}: {built.target}, {built.precision}"
    table = Table()
    table.add_column("")
    table.add_column("original", justify="right")
    table.add_column("built", justify="right")
    table.add_column("change")
    original, model = built.sizes["original"], built.sizes["model"]
    table.add_row("size", size(original), size(model), f"{100 * model / original:.1f} % of the original")
    _quality_rows(table, built.quality)
    if built.latency:
        _latency_rows(table, built.latency)
    lines: list[RenderableType] = [_heading(title), table, Text(_footnote(built), style="dim")]
    lines.append(Text(f"precision: {built.precision}; {built.reason}"))
    if built.promise is not None:
        lines += promise_lines(built.promise)
    if built.pruning is not None:
        lines += pruning_lines(built.pruning)
    lines += [Text(note, style="dim") for note in built.notes]
    lines += [Text(f"! {warning}", style="yellow") for warning in built.warnings]
    lines.append(Text(f"checked in a fresh process: {check_words(built.check)}"))
    archive = f"{built.archive} ({size(built.sizes['archive'])})"
    lines.append(Text.assemble("bundle: ", (str(built.bundle), "bold"), ", packed: ", (archive, "bold")))
    return Group(*lines)


def promise_lines(promise: Mapping[str, Any]) -> list[RenderableType]:
    """Whether the promise is kept, what was tried for it, and which layers stayed float."""
    state = Text("promise kept", "green") if promise["kept"] else Text("promise missed", "bold red")
    limits = "" if promise["drop_low"] is None else f" ({promise['drop_low']:.2f} to {promise['drop_high']:.2f})"
    state.append(
        f": {promise['drop']:.2f}{limits} points of {promise['metric']} lost, {promise['max_drop']:g} allowed; "
        f"{promise['report_samples']:,} samples reported, {promise['search_samples']:,} others were searched on",
        style="default",
    )
    lines: list[RenderableType] = [state]
    if len(promise["trials"]) > 1:
        table = Table("tried", "lost", "SQNR", "latency", box=None, padding=(0, 2, 0, 0))
        for trial in promise["trials"]:
            floats = len(trial["keep_float"])
            words = "all int8" if not floats else f"{floats} layer{'s' if floats > 1 else ''} float"
            table.add_row(
                words,
                f"[{'green' if trial['keeps'] else 'red'}]{trial['drop']:.2f} ± {trial['margin']:.2f}[/]",
                "" if trial["sqnr_db"] is None else decibels(trial["sqnr_db"]),
                "" if trial["ms"] is None else ms(trial["ms"]),
            )
        lines.append(table)
    for layer in promise["float_layers"]:
        alone = "" if layer["sqnr_alone_db"] is None else f": {layer['sqnr_alone_db']:.1f} dB if it alone were int8"
        lines.append(Text(f"  float: {layer['layer']} ({layer['operator']}){alone}"))
    return lines


def _heading(text: str) -> Text:
    return Text(text, style="bold")


def _quality_rows(table: Table, quality: Quality | None) -> None:
    if quality is None:
        return
    if quality.metric is not None:
        name = quality.metric if quality.higher_is_better else f"{quality.metric} (lower is better)"
        before, after = f"{quality.original:.2f} %", f"{quality.built:.2f} %"
        table.add_row(escape(name), before, after, drop_words(quality))
    if quality.agreement is not None:
        table.add_row("same answer", "", f"{quality.agreement:.2f} %", "as the original")
    if quality.sqnr_db is not None:
        table.add_row("SQNR", "", decibels(quality.sqnr_db), "to the original")


def drop_words(quality: Quality) -> str:
    """The change of the metric's figure itself, up or down, with its 95 % interval."""
    assert quality.drop is not None
    sign = -1 if quality.higher_is_better else 1
    words = f"{sign * quality.drop + 0.0:+.2f} {quality.unit}"
    if quality.drop_low is not None and quality.drop_high is not None:
        low, high = sorted((sign * quality.drop_low + 0.0, sign * quality.drop_high + 0.0))
        words += f" ({low:+.2f} to {high:+.2f})"
    return words


def _latency_rows(table: Table, latency: Mapping[str, Any]) -> None:
    after, before = latency["models"]["model"], latency["models"].get("baseline")
    change = speed_words(latency["ratio"]) if before else ""
    table.add_row("latency, p50", ms(before["p50_ms"]) if before else "", ms(after["p50_ms"]), change)
    table.add_row("latency, p90", ms(before["p90_ms"]) if before else "", ms(after["p90_ms"]), "")
    table.add_row("peak memory", mb(before["peak_memory_mb"]) if before else "", mb(after["peak_memory_mb"]), "")


def _footnote(built: Build) -> str:
    if built.latency:
        threads = built.latency["threads"]
        words = f"latency on this machine, {threads} thread{'s' if threads > 1 else ''}"
        if built.device != "host":
            words += f", which is not {built.device}"
    else:
        words = f"latency not measured: {built.target} is on the device alone"
    if built.quality is not None:
        words = f"answers on {built.quality.count:,} samples of {built.quality.source}; {words}"
    return words


def speed_words(ratio: Mapping[str, float]) -> str:
    words = f"{ratio['median']:.2f}× as fast ({ratio['low']:.2f} to {ratio['high']:.2f})"
    return f"[green]{words}[/]" if ratio["low"] > 1 else f"[red]{words}[/]" if ratio["high"] < 1 else words


def check_words(report: Mapping[str, Any]) -> str:
    kinds = {figures["kind"] for figures in report["outputs"].values()}
    how = "bit by bit" if kinds == {"exact"} else "within tolerance"
    remarks = "".join(f"\n! {remark['words']}\n  {remark['advice']}" for remark in report.get("remarks", []))
    return f"{report['samples']} golden samples answered as expected, {how}{remarks}"


def inspection(found: Inspection) -> RenderableType:
    table = Table(show_header=False)
    table.add_column(style="bold")
    table.add_column()
    for title, tensors in (("inputs", found.inputs), ("outputs", found.outputs)):
        table.add_row(title, "\n".join(_tensor(tensor) for tensor in tensors))
    table.add_row("opset, IR", f"{found.opset}, {found.ir_version}")
    table.add_row("parameters", f"{found.parameters:,} ({size(found.weight_bytes)})")
    if found.cost is not None:
        shapes = ", ".join(f"{name} {'×'.join(map(str, s))}" for name, s in found.cost.input_shapes.items())
        more = f", and {found.cost.uncounted} operators inside control flow" if found.cost.uncounted else ""
        table.add_row(
            "cost",
            f"{found.cost.macs / 1e6:,.3g} M multiply-accumulates{more}, "
            f"{size(found.cost.activation_bytes)} of activations, at {shapes}",
        )
    else:
        table.add_row("cost", "unknown while dimensions are open: give --input-shape")
    operators = ", ".join(f"{name} {count}" for name, count in found.operators.items())
    table.add_row("operators", escape(operators))
    if found.int8_share is not None:
        table.add_row("int8", f"{100 * found.int8_share:.0f} % of the operators with weights")
    lines: list[RenderableType] = [_heading(found.path), table]
    for what, advice in found.obstacles:
        lines.append(Text.assemble(("! ", "yellow"), what, (f" — {advice}" if advice else "", "dim")))
    if not found.obstacles:
        lines.append(Text("nothing in the way", style="green"))
    if found.linted:
        lines += findings(found.findings, found.linted, found.device or "")
    return Group(*lines)


def bundle_inspection(found: BundleInspection) -> RenderableType:
    manifest = found.manifest
    table = Table(show_header=False)
    table.add_column(style="bold")
    table.add_column()
    table.add_row(
        "bundle",
        escape(
            f"{manifest['name']} {manifest['version']}, made {manifest['created']} by edgepack {manifest['edgepack']}"
        ),
    )
    runtime = ", ".join(f"{name} {version}" for name, version in manifest["runtime"].items())
    table.add_row("for", f"{manifest['device']} ({manifest['requires']['arch']}), {runtime}")
    table.add_row("precision", manifest["precision"])
    for title in ("inputs", "outputs"):
        table.add_row(title, "\n".join(_tensor(tensor) for tensor in manifest[title]))
    table.add_row("size", f"model {size(found.model_bytes)}, all that is shipped {size(found.shipped_bytes)}")
    golden = manifest["golden"]
    table.add_row("golden", f"{golden['samples']} {'synthetic' if golden['synthetic'] else 'real'} samples")
    table.add_row("files", "as built" if found.whole else f"[red]{escape(found.damage)}[/]")
    return Group(_heading(found.path), table)


def device_table(boards: Mapping[str, Device]) -> RenderableType:
    table = Table()
    for column in ("name", "board", "CPU", "systems"):
        table.add_column(column)
    for name, board in boards.items():
        table.add_row(name, board.title, f"{board.cores} × {board.cpu}", ", ".join(board.systems) or board.system.title)
    return table


def device(board: Device, meaning: list[str]) -> RenderableType:
    table = Table(show_header=False)
    table.add_column(style="bold")
    table.add_column()
    table.add_row("CPU", f"{board.cores} × {board.cpu}, {board.arch}")
    table.add_row("features", ", ".join(board.features) or "none that matters")
    table.add_row("memory", f"{board.memory_mb:,} MB")
    known = f"Python {board.system.python}, glibc {board.system.glibc}" if board.system.python else "unknown"
    table.add_row("system", f"{board.system.title}: {known}")
    if len(board.systems) > 1:
        table.add_row("also", ", ".join(f"{board.board}@{name}" for name in board.systems if name != board.system.name))
    if board.gpu is not None:
        abilities = [name for name in ("int8", "fp16", "sparsity") if getattr(board.gpu, name)]
        table.add_row("GPU", f"compute capability {board.gpu.compute}: {', '.join(abilities)}; {board.gpu.dla} DLA")
    table.add_row("pruned layers", f"keep multiples of {board.channels[0]} channels, wide ones of {board.channels[1]}")
    return Group(_heading(f"{board.name}: {board.title}"), table, *(Text(f"- {line}") for line in meaning))


def _tensor(tensor: Mapping[str, Any]) -> str:
    dims = "×".join("?" if dim is None else str(dim) for dim in tensor["shape"]) or "scalar"
    return escape(f"{tensor['name']} {tensor['dtype']} {dims}")


def size(count: float) -> str:
    """Bytes in the unit that leaves three figures."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def ms(value: float) -> str:
    return f"{value:.3f} ms" if value < 10 else f"{value:.1f} ms"


def mb(value: float) -> str:
    return f"{value:.0f} MB"


def decibels(value: float) -> str:
    return "equal" if value >= 200 else f"{value:.1f} dB"


# Layers beyond these are harmless or too many to read; --json has all.
_LAYERS_SHOWN = 20


def diagnosis(found: Diagnosis) -> RenderableType:
    """The layers that int8 hurts most, and what helps."""
    table = Table()
    table.add_column("layer", overflow="fold")
    for name in ("SQNR alone", "weights", "activations", "of the error", "of the MACs", "reads", "outlier"):
        table.add_column(name, justify="right")
    shown = found.layers[:_LAYERS_SHOWN]
    for layer in shown:
        table.add_row(
            f"{escape(layer.layer)} ({layer.operator})",
            decibels(layer.sqnr_db),
            decibels(layer.weights_db),
            decibels(layer.activations_db),
            f"{100 * layer.share:.1f} %",
            f"{100 * layer.macs_share:.1f} %",
            f"{layer.range[0]:.3g} to {layer.range[1]:.3g}",
            f"{layer.outlier:.0f} σ",
        )
    lines: list[RenderableType] = [
        _heading(f"{found.path}: each layer alone in int8, by {found.target}'s rules, {found.samples} samples"),
        table,
    ]
    rest = len(found.layers) - len(shown)
    if rest:
        lines.append(Text(f"{rest} more layers with less error; --json has all", style="dim"))
    for what, count in found.left_float.items():
        lines.append(Text(f"float anyway: {count}× {what}", style="dim"))
    advice = [layer for layer in found.layers if layer.advice]
    lines += [Text(f"! {layer.layer}: {layer.advice}", style="yellow") for layer in advice]
    if not advice:
        lines.append(Text("no layer stands out: int8 takes a little from all of them"))
    return Group(*lines)
