"""One task: every converter's file made, judged and timed in LiteRT, beside the ONNX graphs it should answer like."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from comparison import demands, run, verdicts
from comparison.children import ask, worker
from comparison.converters import FROM, SAME
from comparison.methods import Method
from comparison.run import Row, Settings
from comparison.tasks import Task
from comparison.unsigned import write_unsigned

# The ONNX graphs themselves, float and Q/DQ, in the runtimes that read them.
FLOAT, QDQ, QDQ_OPENVINO = "onnxruntime-float", "onnxruntime-qdq", "openvino-qdq"


def compare(task: Task, methods: Iterable[Method], settings: Settings) -> dict[str, Any]:
    """Rows, one a file, and what the demands on edgepack come to.

    Raises:
        ChildFailed: the float model itself does not run.
    """
    reference = run.reference_of(task, settings)
    made: dict[str, Row] = {}
    for method in methods:
        made[method.name] = _made(task, method, made, settings)
    graphs = _graphs(task, made.get("edgepack-int8", {}))
    beside = _keep_answers(task, graphs[QDQ], settings) if QDQ in graphs else None
    rows = [*graphs.values(), *made.values()]
    for row in rows:
        if "file" in row and "same_file" not in row:
            row |= _judged(task, row, beside, settings)
        if "records" in row:
            row |= run.beside_float(task, row, reference)
            row |= _beside_qdq(task, row, beside)
    judged = [row for row in rows if "records" in row]
    if settings.seconds:
        run.time_files(task, judged, "conversion", settings)
    found = demands.judge(run.metric_of(task), {row["method"]: row for row in judged})
    found["boards"] = _boards(made)
    dropped = ("records", "rounds")
    return {
        "name": task.name,
        "family": task.family,
        "metric": task.metric,
        "split": task.split,
        "notes": task.notes,
        "rows": [{key: value for key, value in row.items() if key not in dropped} for row in rows],
        "demands": found,
    }


def _made(task: Task, method: Method, made: dict[str, Row], settings: Settings) -> Row:
    row: Row = {"method": method.name, "target": "tflite", "latency": {}}
    facts, source, layout = {}, None, "tflite"
    if method.name in FROM:
        before = made.get(FROM[method.name], {})
        if "file" not in before:
            return {**row, "skipped": f"there is no file of {FROM[method.name]}"}
        source, layout = Path(before["file"]), before["layout"]
        facts = {"from": run.print_of(source)}
    key = method.key(facts | {"edgepack": task.edgepack} if method.is_ours else facts)

    def do(folder: Path) -> dict[str, Any]:
        return run.make(task, method, "tflite", folder, settings, source)

    found = run.cached(task.work / "conversion" / method.name / "made", key, do)
    # Without the bundle's runner, whose signature costs 2 µs a call: one way of running for all files.
    row |= {"layout": layout} | {name: value for name, value in found.items() if name not in ("key", "runner")}
    other = made.get(SAME.get(method.name, ""), {})
    if "file" in row and "file" in other and run.print_of(Path(row["file"])) == run.print_of(Path(other["file"])):
        row["same_file"] = SAME[method.name]
    return row


def _graphs(task: Task, built: Row) -> dict[str, Row]:
    """Rows of the ONNX graphs: the float model and, if there is an int8 file, the Q/DQ graph it was written from."""
    found: dict[str, Row] = {FLOAT: {"method": FLOAT, "target": "onnxruntime", "file": str(task.model), "latency": {}}}
    if "graph" in built:
        unsigned = task.work / "conversion" / "unsigned.onnx"
        write_unsigned(Path(built["graph"]), unsigned)
        for name, target, file in ((QDQ, "onnxruntime", built["graph"]), (QDQ_OPENVINO, "openvino", str(unsigned))):
            found[name] = {"method": name, "target": target, "file": file, "latency": {}}
    return found


def _judged(task: Task, row: Row, beside: Path | None, settings: Settings, keep: Path | None = None) -> Row:
    """Figures over the reporting samples; `beside` are the Q/DQ graph's answers, `keep` where a file's own are put."""
    target = row.get("layout", row["target"])
    whole = {"file": run.print_of(Path(row["file"])), "target": target, "hint": settings.hint, "keep": str(keep)}
    whole["beside"] = run.print_of(beside) if beside is not None else ""

    def do(folder: Path) -> dict[str, Any]:
        settings.say(f"{task.name}: {row['method']} on {task.split['report']} samples")
        asked = run.evaluation(task, folder, target, row["file"], hint=settings.hint)
        asked |= {"beside": str(beside) if beside is not None else None, "keep": str(keep) if keep else None}
        found = ask(worker("evaluate"), asked, folder, True, settings.limit)
        return {**found, "records": str(folder / "records.npz")}

    folder = task.work / "conversion" / row["method"] / ("answers" if keep is not None else "judged")
    found = run.cached(folder, hashlib.sha256(json.dumps(whole).encode()).hexdigest(), do)
    return {key: value for key, value in found.items() if key not in ("key", "wall_seconds")}


def _keep_answers(task: Task, row: Row, settings: Settings) -> Path:
    """The Q/DQ graph's answers in ONNX Runtime, as a file."""
    answers = task.work / "conversion" / "qdq.npy"
    _judged(task, row, None, settings, keep=answers)
    return answers


def _beside_qdq(task: Task, row: Row, beside: Path | None) -> Row:
    if beside is None or row["method"] == FLOAT:
        return {}
    qdq = verdicts.read(task.work / "conversion" / QDQ / "answers" / "records.npz")
    ours = verdicts.read(Path(row["records"]))
    return {
        "qdq_change": verdicts.difference(run.metric_of(task), ours["records"], qdq["records"]),
        "qdq_agreement": verdicts.agreement(ours["answers"], qdq["answers"]),
    }


def _boards(made: dict[str, Row]) -> dict[str, str]:
    """What building for the second board came to."""
    found = {}
    for name, first in SAME.items():
        if name in made:
            row = made[name]
            failed = row.get("error") or row.get("skipped")
            found[name] = failed or (f"the file of {first}" if "same_file" in row else "a file of its own")
    return found
