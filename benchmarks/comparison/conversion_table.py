"""Conversion results as rich tables: the files of each model, and the demands on edgepack's."""

from __future__ import annotations

from typing import Any

from rich.console import Group
from rich.table import Table

FILES = ("file", "largest error", "SQNR", "metric", "change, 95 %", "to Q/DQ", "same", "change, 95 %", "size", "ms",
         "× edgepack float")  # fmt: skip


def tables(results: list[dict[str, Any]]) -> Group:
    return Group(*(_files(result) for result in results), _demands(results))


def _files(result: dict[str, Any]) -> Table:
    split = result["split"]
    boards = "; ".join(f"{name}: {words}" for name, words in result["demands"].get("boards", {}).items())
    table = Table(
        title=f"{result['name']} ({result['family'] or 'no family given'}): {result['metric']}",
        caption=f"{split['calibration']} samples calibrate, {split['report']} report. {boards}",
        title_justify="left",
        caption_justify="left",
    )
    for name in FILES:
        table.add_column(name, justify="left" if name == "file" else "right")
    base = next((_timed(row) for row in result["rows"] if row["method"] == "edgepack-float"), None)
    for row in result["rows"]:
        if "same_file" not in row:
            table.add_row(*_cells(row, base))
    return table


def _timed(row: dict[str, Any]) -> dict[str, float] | None:
    return row["latency"].get(1) or row["latency"].get("1")


def _cells(row: dict[str, Any], base: dict[str, float] | None) -> list[str]:
    if "value" not in row:
        reason = row.get("skipped") or row.get("error") or "no figures"
        return [row["method"], "–", ("skipped: " if "skipped" in row else "failed: ") + reason[:60]]
    timed = _timed(row)
    return [
        row["method"],
        f"{row['largest_error']:.1e}",
        _db(row["sqnr_db"]),
        f"{row['value']:.2f}",
        points(row["change"]),
        _db(row["beside_db"]) if "qdq_change" in row else "",
        _percent(row.get("qdq_agreement")),
        points(row["qdq_change"]) if "qdq_change" in row else "",
        f"{row['bytes'] / 1e6:.2f} MB",
        f"{timed['p50_ms']:.3f}" if timed else "",
        f"{base['p50_ms'] / timed['p50_ms']:.2f}" if timed and base else "",
    ]


def points(change: dict[str, float]) -> str:
    return f"{change['points']:+.2f} ({change['low']:+.2f} to {change['high']:+.2f})"


def _db(value: float | None) -> str:
    return "exact" if value is None else f"{value:.1f} dB"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} %"


def _times(times: dict[str, float] | None) -> str:
    return f"{times['median']:.2f} × ({times['low']:.2f} to {times['high']:.2f})" if times else ""


def _demands(results: list[dict[str, Any]]) -> Table:
    table = Table(title="edgepack's files: what is asked of them, and what was seen", title_justify="left")
    for name in ("model", "demand", "seen", "verdict"):
        table.add_column(name)
    for result in results:
        for demand, seen, verdict in lines(result["demands"]):
            table.add_row(result["name"], demand, seen, verdict)
    return table


def lines(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Demand, what was seen, verdict."""
    said = []
    if "float_error" in found:
        kept = "kept" if found["float_error"]["kept"] else "missed"
        said.append(("float within 1e-4 of ONNX Runtime", f"{found['float_error']['largest']:.1e}", kept))
    speed = found.get("float_speed")
    if speed:
        said.append((f"float within 5 % of {speed['peer']}", f"its time {_times(speed['times'])}", speed["verdict"]))
    if "int8_speed" in found:
        faster = "kept" if found["int8_speed"]["low"] > 1 else "missed"
        said.append(("int8 faster than float", _times(found["int8_speed"]), faster))
    return said + _of_qdq(found.get("qdq", {})) + [_of_quantizer(entry) for entry in found.get("quantizers", [])]


def _of_qdq(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    said = []
    if "openvino" in found:
        other = found["openvino"]
        near = other["nearer"]
        gap = f"; {near['db']:+.1f} dB ({near['low']:+.1f} to {near['high']:+.1f})" if near else ""
        seen = f"{_db(found['beside_db'])} {_percent(found.get('qdq_agreement'))}, "
        seen += f"OpenVINO {_db(other['db'])} {_percent(other['same'])}{gap}"
        said.append(("int8 as near to Q/DQ as OpenVINO", seen, other["verdict"]))
    if "qdq_change" in found:
        change = found["qdq_change"]
        word = "kept" if change["low"] >= -0.3 else "missed" if change["points"] < -0.3 else "perhaps"
        said.append(("int8 within 0.3 points of Q/DQ", points(change), word))
    return said


def _of_quantizer(entry: dict[str, Any]) -> tuple[str, str, str]:
    near = entry["sqnr"]
    seen = f"{points(entry)}, p {entry['p_adjusted']:.3f}"
    seen += f"; {near['db']:+.1f} dB ({near['low']:+.1f} to {near['high']:+.1f})" if near else ""
    seen += f"; its time {_times(entry['times'])}" if entry["times"] else ""
    return f"int8 beside {entry['peer']}", seen, entry["verdict"]
