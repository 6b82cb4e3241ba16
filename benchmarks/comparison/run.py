"""One task: every method made, evaluated and timed; what is in the cache is not done again."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comparison import beside, environments, latency, metrics, runtimes, verdicts
from comparison.children import ChildFailed, ask, worker
from comparison.methods import HERE, Method
from comparison.tasks import Task

Row = dict[str, Any]
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`seconds` each file is timed a thread count (0: not at all), `limit` those a child may take.

    `hint` is what runtimes.load takes; `again` are methods whose cached rows are not used.
    """

    targets: tuple[str, ...]
    threads: tuple[int, ...]
    seconds: float
    limit: float
    envs: Path
    hint: str | None
    again: frozenset[str]
    say: Say


def compare(task: Task, methods: Iterable[Method], settings: Settings) -> dict[str, Any]:
    """Rows, one a method and runtime, and the verdicts between edgepack and the others.

    Raises:
        ChildFailed: the float model itself does not run.
    """
    for name in settings.again:
        shutil.rmtree(task.work / "methods" / name, ignore_errors=True)
    reference = reference_of(task, settings)
    rows = [_row(task, method, target, settings) for method in methods for target in settings.targets]
    for row in rows:
        if "records" in row:
            row |= beside_float(task, row, reference)
    for target in settings.targets if settings.seconds else ():
        time_files(task, [row for row in rows if row["target"] == target and "records" in row], target, settings)
    return {
        "name": task.name,
        "family": task.family,
        "source": task.source,
        "metric": task.metric,
        "split": task.split,
        "notes": task.notes,
        "rows": [{key: value for key, value in row.items() if key not in ("records", "rounds")} for row in rows],
        "verdicts": [found for target in settings.targets for found in beside.judge(metric_of(task), rows, target)],
    }


# --- making and evaluating ------------------------------------------------------------------------------


def reference_of(task: Task, settings: Settings) -> Path:
    """The records of the float model in ONNX Runtime, which everything is compared with."""
    folder = task.work / "reference"
    if not (folder / "done.json").is_file():
        settings.say(f"{task.name}: the float model's answers")
        request = evaluation(task, folder, "onnxruntime", str(task.model), is_reference=True)
        found = ask(worker("evaluate"), request, folder, True, settings.limit)
        (folder / "done.json").write_text(json.dumps(found))
    return folder / "records.npz"


def evaluation(
    task: Task,
    folder: Path,
    target: str,
    file: str,
    *,
    runner: str | None = None,
    hint: str | None = None,
    is_reference: bool = False,
) -> dict[str, Any]:
    """What evaluate.run takes."""
    return {
        "target": target,
        "file": file,
        "runner": runner,
        "hint": hint,
        "model": str(task.folder / "model.onnx"),
        "report": str(task.report),
        "metric": task.metric,
        "threads": 1,  # answers do not depend on it, and on shared cores one is faster
        "reference": str(task.work / "reference" / "outputs.npy"),
        "is_reference": is_reference,
        "records": str(folder / "records.npz"),
    }


def _row(task: Task, method: Method, target: str, settings: Settings) -> Row:
    """A method's file for a runtime and its figures; `skipped` or `error` says why there are none."""
    row: Row = {"method": method.name, "target": target, "latency": {}}
    key = method.key({"edgepack": task.edgepack} if method.is_ours else {"transformer": task.transformer})
    made = cached(
        task.work / "methods" / method.name / method.forms[target],
        key,
        lambda folder: make(task, method, target, folder, settings),
    )
    row |= {key: made[key] for key in made if key != "key"}
    if "file" not in made:
        return row
    judged = cached(
        task.work / "methods" / method.name / f"judged-{target}",
        f"{key} {settings.hint if target == 'openvino' else None}",
        lambda folder: _judge(task, method, target, made, folder, settings),
    )
    return row | {key: judged[key] for key in judged if key != "key"}


def cached(folder: Path, key: str, do: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    done = folder / "done.json"
    if done.is_file():
        found = json.loads(done.read_text())
        if found["key"] == key:
            return dict(found)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        found = do(folder)
    except (ChildFailed, RuntimeError) as error:
        return {"error": str(error), "key": key}  # tried again next time
    done.write_text(json.dumps({**found, "key": key}, default=str))
    return {**found, "key": key}


def make(
    task: Task, method: Method, target: str, folder: Path, settings: Settings, given: Path | None = None
) -> dict[str, Any]:
    """A method's file; from the float model, or from the file `given`."""
    if not method.script:
        return {"file": str(task.model)}
    settings.say(f"{task.name}: {method.name} for {target}")
    request = {
        "original": str(task.folder / "model.onnx"),
        "calibration": str(task.calibration),
        "raw_calibration": str(task.folder / "calib.npz"),
        "search": str(task.search),
        "output": str(folder),
        "target": target,
        "transformer": task.transformer,
        "edgepack": task.edgepack,
        "seconds": 0.3,
        "options": method.options,
    }
    command = [environments.python(method.needs, settings.envs, method.python), str(HERE / "peers" / method.script)]
    model = str(given or task.peer_model)
    try:
        return ask(command, {**request, "model": model}, folder, not method.needs, settings.limit)
    except ChildFailed as failure:
        if method.is_ours or given is not None:
            raise
        try:  # perhaps the clean-up is to blame
            made = ask(command, {**request, "model": str(task.model)}, folder, not method.needs, settings.limit)
        except ChildFailed:
            raise failure from None
        return {**made, "notes": [*made["notes"], f"without the clean-up, with which it failed: {failure}"]}


def _judge(
    task: Task, method: Method, target: str, made: dict[str, Any], folder: Path, settings: Settings
) -> dict[str, Any]:
    settings.say(f"{task.name}: {method.name} in {target} on {task.split['report']} samples")
    request = evaluation(task, folder, target, made["file"], runner=made.get("runner"), hint=settings.hint)
    found = ask(worker("evaluate"), request, folder, True, settings.limit)
    found.pop("wall_seconds")
    return {**found, "records": str(folder / "records.npz")}


def metric_of(task: Task) -> metrics.Metric:
    return metrics.find(task.metric, metrics.metadata(str(task.folder / "model.onnx")))


def beside_float(task: Task, row: Row, reference: Path) -> Row:
    metric = metric_of(task)
    ours, base = verdicts.read(Path(row["records"])), verdicts.read(reference)
    return {
        "change": verdicts.difference(metric, ours["records"], base["records"]),
        "agreement": verdicts.agreement(ours["answers"], base["answers"]),
    }


# --- latency --------------------------------------------------------------------------------------------


def time_files(task: Task, rows: list[Row], what: str, settings: Settings) -> None:
    """Fill in `latency` by number of threads; rounds stay in the row for the verdicts."""
    names = runtimes.output_names(str(task.model))
    for threads in settings.threads:
        jobs = {
            row["method"]: {
                "target": row.get("layout", row["target"]),
                "file": row["file"],
                "runner": row.get("runner"),
                "hint": settings.hint,
                "threads": threads,
                "outputs": names,
                "timing": str(task.timing),
            }
            for row in rows
        }
        prints = {name: print_of(Path(str(job["file"]))) for name, job in jobs.items()}
        key = hashlib.sha256(json.dumps([prints, jobs, settings.seconds], sort_keys=True).encode()).hexdigest()
        folder = task.work / f"latency-{what}-{threads}"

        def measured(folder: Path, jobs: dict[str, Any] = jobs, threads: int = threads) -> dict[str, Any]:
            settings.say(f"{task.name}: timing {len(jobs)} files in {what}, {threads} threads")
            return {"rounds": latency.measure(jobs, folder, settings.seconds)}

        found = cached(folder, key, measured)
        for row in rows if "rounds" in found else []:
            rounds = found["rounds"][row["method"]]
            row.setdefault("rounds", {})[threads] = rounds
            row["latency"][threads] = latency.percentiles(rounds)
            if "float" in found["rounds"]:
                row["latency"][threads]["speedup"] = latency.ratio(found["rounds"]["float"], rounds)


def print_of(file: Path) -> str:
    """A fingerprint of a model's files."""
    digest = hashlib.sha256()
    for part in sorted({file, file.with_suffix(".bin")}):
        if part.is_file():
            digest.update(part.read_bytes())
    return digest.hexdigest()
