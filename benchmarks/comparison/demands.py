"""What edgepack's .tflite files are asked to be: right, as fast as the fastest, and near the graph they come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from comparison import latency, verdicts
from comparison.converters import FLOATS, QUANTIZERS
from comparison.metrics import Metric
from comparison.run import Row

# As shares of an answer's largest number: how far float may lie from ONNX Runtime, and what is another answer.
EXACT, WRONG = 1e-4, 1e-2
# dB from where on two answers differ by the rounding of float sums alone.
SAME_DB = 60.0
Found = dict[str, Any]


def judge(metric: Metric, rows: dict[str, Row]) -> Found:
    """By demand, its figures; a demand is left out where a file it speaks of is missing.

    Args:
        rows: by method, those with figures.
    """
    found: Found = {}
    ours, quantized = rows.get("edgepack-float"), rows.get("edgepack-int8")
    if ours is not None:
        found["float_error"] = {"largest": ours["largest_error"], "kept": ours["largest_error"] <= EXACT}
        found["float_speed"] = _beside_fastest(ours, [rows[name] for name in FLOATS[1:] if name in rows])
    if quantized is not None:
        found["qdq"] = _near_qdq(quantized, rows.get("openvino-qdq"))
        if ours is not None and "rounds" in ours:
            found["int8_speed"] = _times(ours, quantized)
        found["quantizers"] = _beside_quantizers(metric, quantized, [rows[name] for name in QUANTIZERS if name in rows])
    return found


def _times(before: Row, after: Row) -> dict[str, float]:
    """How many times as fast `after` is on one thread."""
    return latency.ratio(before["rounds"][1], after["rounds"][1])


def _beside_fastest(ours: Row, peers: list[Row]) -> Found | None:
    """Our time over that of the fastest peer whose answers are right."""
    right = [row for row in peers if row["largest_error"] < WRONG and "rounds" in row]
    if not right or "rounds" not in ours:
        return None
    fastest = min(right, key=lambda row: row["latency"][1]["p50_ms"])
    times = _times(ours, fastest)
    word = "slower" if times["low"] > verdicts.SLOWER else "perhaps" if times["median"] > verdicts.SLOWER else "kept"
    return {"peer": fastest["method"], "times": times, "verdict": word}


def _near_qdq(ours: Row, openvino: Row | None) -> Found:
    """Ours beside the Q/DQ graph in ONNX Runtime, and by how many dB nearer to it than OpenVINO's run of it."""
    found: Found = {name: ours[name] for name in ("beside_db", "qdq_agreement", "qdq_change") if name in ours}
    if openvino is not None:
        both = [verdicts.read(Path(row["records"]))["beside"] for row in (ours, openvino)]
        nearer = verdicts.sqnr_difference(both[0], both[1])
        exact = ours["beside_db"] is None or ours["beside_db"] >= SAME_DB
        word = "kept" if exact or (nearer is not None and nearer["low"] >= 0) else "further"
        if word == "further" and nearer is not None and nearer["high"] > 0:
            word = "equal"
        found["openvino"] = {"db": openvino["beside_db"], "same": openvino.get("qdq_agreement"), "nearer": nearer}
        found["openvino"]["verdict"] = word
    return found


def _beside_quantizers(metric: Metric, ours: Row, peers: list[Row]) -> list[Found]:
    """Accuracy and SQNR, paired, p by Holm; and our time over theirs."""
    found = verdicts.beside(metric, Path(ours["records"]), [Path(row["records"]) for row in peers])
    return [
        {
            "peer": peer["method"],
            **one,
            "times": _times(ours, peer) if "rounds" in ours and "rounds" in peer else None,
        }
        for peer, one in zip(peers, found, strict=True)
    ]
