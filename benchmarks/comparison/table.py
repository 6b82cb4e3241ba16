"""Results as rich tables: one a model, and one of the verdicts."""

from __future__ import annotations

from typing import Any

from rich.console import Group
from rich.table import Table


def models(results: list[dict[str, Any]]) -> Group:
    tables = [_model(result) for result in results]
    return Group(*tables, verdicts(results)) if any(result["verdicts"] for result in results) else Group(*tables)


def _model(result: dict[str, Any]) -> Table:
    split = result["split"]
    table = Table(
        title=f"{result['name']} ({result['family'] or 'no family given'}): {result['metric']}",
        caption=f"{split['calibration']} samples calibrate, {split['search']} may be searched on, "
        f"{split['report']} others report. " + "; ".join(result["notes"]),
        title_justify="left",
        caption_justify="left",
    )
    threads = sorted({int(count) for row in result["rows"] for count in row["latency"]})
    for name in ("method", "runtime", "metric", "change, 95 %", "same", "SQNR", "size"):
        table.add_column(name, justify="left" if name in ("method", "runtime") else "right")
    for count in threads:
        table.add_column(f"ms, {count} thr", justify="right")
        table.add_column("× float", justify="right")
    table.add_column("s", justify="right")
    table.add_column("peak MB", justify="right")
    for row in result["rows"]:
        table.add_row(*_cells(row, threads))
    return table


def _cells(row: dict[str, Any], threads: list[int]) -> list[str]:
    head = [row["method"], row["target"]]
    if "value" not in row:
        reason = row.get("skipped") or row.get("error") or "no figures"
        return [*head, "–", ("skipped: " if "skipped" in row else "failed: ") + _short(reason)]
    change = row["change"]
    cells = [
        *head,
        f"{row['value']:.2f}",
        f"{change['points']:+.2f} ({change['low']:+.2f} to {change['high']:+.2f})",
        f"{row['agreement']:.2f} %" if row.get("agreement") is not None else "",
        f"{row['sqnr_db']:.1f} dB" if row["sqnr_db"] is not None else "exact",
        f"{row['bytes'] / 1e6:.2f} MB",
    ]
    for count in threads:
        timed = row["latency"].get(count) or row["latency"].get(str(count))
        cells.append(f"{timed['p50_ms']:.3f}" if timed else "")
        cells.append(f"{timed['speedup']['median']:.2f}" if timed and "speedup" in timed else "")
    cells.append(f"{row['seconds']:.1f}" if "seconds" in row else "")
    cells.append(f"{row['peak_mb']:.0f}" if "peak_mb" in row else "")
    return cells


def _short(reason: str, most: int = 32) -> str:
    """The JSON has all of it."""
    return reason if len(reason) <= most else reason[: most - 1] + "…"


def verdicts(results: list[dict[str, Any]]) -> Table:
    table = Table(title="edgepack beside the peers, paired over the reporting samples", title_justify="left")
    for name in (
        "model",
        "method",
        "runtime",
        "beside",
        "points, 95 %",
        "p (of all)",
        "dB nearer",
        "verdict",
        "its time",
    ):
        table.add_column(name)
    for result in results:
        for found in result["verdicts"]:
            head = [result["name"], found["method"], found["target"]]
            said = found["promise"]
            promise = f"{'kept' if said['kept'] else 'missed'} {said['allowed']:g}, said {said['said']}" if said else ""
            table.add_row(*head, "float", "", "", "", promise, _speeds(found["float"]))
            for entry in found["beside"]:
                near = entry["sqnr"]
                table.add_row(
                    *head,
                    entry["peer"],
                    f"{entry['points']:+.2f} ({entry['low']:+.2f} to {entry['high']:+.2f})",
                    f"{entry['p']:.3f} ({entry['p_adjusted']:.3f})",
                    f"{near['db']:+.1f} ({near['low']:+.1f} to {near['high']:+.1f})" if near else "",
                    entry["verdict"],
                    _speeds({threads: s for threads, s in found["speed"].items() if s["peer"] == entry["peer"]}),
                )
    return table


def _speeds(found: dict[int, dict[str, Any]]) -> str:
    """Our time over the other's, a line for each number of threads."""
    return "\n".join(
        f"{threads} thr: {speed['times']['median']:.2f} × ({speed['times']['low']:.2f} to {speed['times']['high']:.2f})"
        + (f" {speed['flag']}" if speed["flag"] else "")
        + (", and said so" if speed["flag"] and speed.get("said") else "")
        for threads, speed in found.items()
    )
