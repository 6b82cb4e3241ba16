"""edgepack's rows beside the others of the same model and runtime: as accurate, as fast, and what it promised?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from comparison import latency, verdicts
from comparison.methods import METHODS
from comparison.metrics import Metric

Row = dict[str, Any]
Judgement = dict[str, Any]


def judge(metric: Metric, rows: list[Row], target: str) -> list[Judgement]:
    """A judgement for each row of edgepack that has figures: `beside` each peer, `speed`, `float`, `promise`."""
    here = [row for row in rows if row["target"] == target and "records" in row]
    ours = [row for row in here if METHODS[row["method"]].is_ours]
    peers = [row for row in here if row not in ours and row["method"] != "float"]
    base = next((row for row in here if row["method"] == "float"), None)
    found = []
    for row in ours:
        accuracy = _accuracy(metric, row, peers)
        found.append(
            {
                "method": row["method"],
                "target": target,
                "beside": accuracy,
                "speed": _speed(row, peers, accuracy),
                "float": _than_float(row, base) if base is not None else {},
                "promise": _promise(row),
            }
        )
    return found


def _accuracy(metric: Metric, ours: Row, peers: list[Row]) -> list[Judgement]:
    found = verdicts.beside(metric, Path(ours["records"]), [Path(peer["records"]) for peer in peers])
    return [{"peer": peer["method"], **one} for peer, one in zip(peers, found, strict=True)]


def _speed(ours: Row, peers: list[Row], accuracy: list[Judgement]) -> dict[int, Judgement]:
    """By number of threads: the fastest peer that is no less accurate than ours, and our time over its time."""
    fair = {entry["peer"] for entry in accuracy if entry["verdict"] != "better"}
    found = {}
    for threads, mine in ours.get("rounds", {}).items():
        timed = [row for row in peers if row["method"] in fair and threads in row.get("rounds", {})]
        if timed:
            fastest = min(timed, key=lambda row: row["latency"][threads]["p50_ms"])
            found[threads] = {"peer": fastest["method"], **_times(mine, fastest["rounds"][threads])}
    return found


def _than_float(ours: Row, base: Row) -> dict[int, Judgement]:
    """By number of threads: our time over float's; `said` is whether the build warned of being slower."""
    warnings = " ".join(ours.get("build", {}).get("warnings", []))
    return {
        threads: {**_times(mine, base["rounds"][threads]), "said": "slower" in warnings}
        for threads, mine in ours.get("rounds", {}).items()
        if threads in base.get("rounds", {})
    }


def _times(mine: latency.Rounds, other: latency.Rounds) -> Judgement:
    times = latency.ratio(mine, other)  # how many times our time the other is as fast
    flag = "slower" if times["low"] > verdicts.SLOWER else "perhaps slower" if times["median"] > verdicts.SLOWER else ""
    return {"times": times, "flag": flag}


def _promise(row: Row) -> Judgement | None:
    """Whether the drop that was allowed was kept on the reporting samples, and what the build said of it."""
    allowed = METHODS[row["method"]].options.get("max_drop")
    if allowed is None:
        return None
    lost = -row["change"]["points"]
    said = (row.get("build", {}).get("promise") or {}).get("state")
    return {"allowed": allowed, "lost": lost, "kept": lost <= allowed, "said": said}
