"""Typed graphs for TensorRT as rich tables, one a model; or as Markdown."""

from __future__ import annotations

from typing import Any

from rich.console import Group
from rich.table import Table

from comparison.conversion_table import points

COLUMNS = ("graph", "metric", "to float, 95 %", "to asymmetric, 95 %", "same", "SQNR", "pairs", "layers", "findings",
           "size", "s")  # fmt: skip
_IN_DOCUMENTS = ("graph", "to float, 95 %", "to asymmetric, 95 %", "SQNR", "pairs", "layers", "findings")


def tables(results: list[dict[str, Any]]) -> Group:
    return Group(*(_table(result) for result in results))


def _table(result: dict[str, Any]) -> Table:
    table = Table(title=heading(result), caption=caption(result), title_justify="left", caption_justify="left")
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in ("graph", "findings") else "right")
    for row in result["rows"]:
        table.add_row(*_cells(row))
    return table


def markdown(results: list[dict[str, Any]]) -> str:
    """One table of all models for a document, with what matters most."""
    kept = [COLUMNS.index(name) for name in _IN_DOCUMENTS]
    lines = ["| model | " + " | ".join(_IN_DOCUMENTS) + " |", "|---|---|" + "---:|" * 5 + "---|"]
    for result in results:
        name = f"{result['name']}, {result['split']['report']:,} samples"
        for row in result["rows"]:
            cells = _cells(row)
            lines.append("| " + " | ".join([name, *(cells[index] for index in kept)]) + " |")
            name = ""
    return "\n".join(lines) + "\n"


def heading(result: dict[str, Any]) -> str:
    return f"{result['name']} ({result['family'] or 'no family given'}): {result['metric']}"


def caption(result: dict[str, Any]) -> str:
    split = result["split"]
    return f"{split['calibration']} samples calibrate, {split['report']} report"


def _cells(row: dict[str, Any]) -> list[str]:
    if "value" not in row:
        reason = row.get("skipped") or row.get("error") or "no figures"
        words = ("skipped: " if "skipped" in row else "failed: ") + reason[:80]
        return [row["method"], "–", words, *[""] * (len(COLUMNS) - 3)]
    layout = row["layout"]
    return [
        row["method"],
        f"{row['value']:.2f}",
        points(row["change"]),
        points(row["beside_asymmetric"]) if "beside_asymmetric" in row else "",
        f"{row['agreement']:.2f} %" if row.get("agreement") is not None else "",
        f"{row['sqnr_db']:.1f} dB" if row["sqnr_db"] is not None else "exact",
        str(layout["activation_pairs"]),
        f"{layout['int8_layers']} of {layout['layers']}",
        findings(row["findings"]["severities"]),
        f"{row['bytes'] / 1e6:.2f} MB",
        f"{row['seconds']:.1f}" if "seconds" in row else "",
    ]


def findings(severities: dict[str, int]) -> str:
    return (
        ", ".join(f"{severities[name]} {name}" for name in ("error", "slow", "advice") if severities.get(name))
        or "none"
    )
