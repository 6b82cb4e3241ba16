"""One task: every quantizer's graph for TensorRT made, judged in ONNX Runtime, counted and linted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from comparison import run, verdicts
from comparison.children import ask, worker
from comparison.jetson import ASYMMETRIC, BOARD
from comparison.methods import Method
from comparison.run import Row, Settings
from comparison.runtimes import UNOPTIMIZED
from comparison.tasks import Task


def compare(task: Task, methods: Iterable[Method], settings: Settings) -> dict[str, Any]:
    """Rows, one a graph: accuracy and SQNR beside float, accuracy beside asymmetric int8, pairs and findings.

    Raises:
        ChildFailed: the float model itself does not run.
    """
    reference = run.reference_of(task, settings)
    rows = [_row(task, method, settings) for method in methods]
    asymmetric = next((row for row in rows if row["method"] == ASYMMETRIC and "records" in row), None)
    for row in rows:
        if "records" in row:
            row |= run.beside_float(task, row, reference)
            if asymmetric is not None and row is not asymmetric:
                row["beside_asymmetric"] = _beside(task, row, asymmetric)
    return {
        "name": task.name,
        "family": task.family,
        "metric": task.metric,
        "board": BOARD,
        "split": task.split,
        "notes": task.notes,
        "rows": [{key: value for key, value in row.items() if key != "records"} for row in rows],
    }


def _row(task: Task, method: Method, settings: Settings) -> Row:
    row: Row = {"method": method.name}
    (target,) = method.forms
    key = method.key({"edgepack": task.edgepack} if method.is_ours else {})
    made = run.cached(
        task.work / "jetson" / method.name / "made",
        key,
        lambda folder: run.make(task, method, target, folder, settings),
    )
    # Without the bundle's runner: one way of running for all graphs.
    row |= {name: value for name, value in made.items() if name not in ("key", "runner")}
    if "file" not in row:
        return row
    file = Path(row["file"])

    def judge(folder: Path) -> dict[str, Any]:
        settings.say(f"{task.name}: {method.name} on {task.split['report']} samples")
        asked = run.evaluation(task, folder, UNOPTIMIZED, str(file))
        found = ask(worker("evaluate"), asked, folder, True, settings.limit)
        return {**found, "records": str(folder / "records.npz")}

    judged = run.cached(task.work / "jetson" / method.name / "judged", run.print_of(file), judge)
    row |= {name: value for name, value in judged.items() if name not in ("key", "wall_seconds")}
    return row | {"layout": layout(file), "findings": offences(file)}


def _beside(task: Task, row: Row, other: Row) -> dict[str, float]:
    ours, theirs = (verdicts.read(Path(str(one["records"]))) for one in (row, other))
    return verdicts.difference(run.metric_of(task), ours["records"], theirs["records"])


def layout(file: Path) -> dict[str, int]:
    """What a Q/DQ graph rounds: activations with a pair, layers with pairs on all they multiply, of how many layers."""
    from edgepack import inputs
    from edgepack.lint.qdq import is_constant, is_quantize, is_rounded, operand, pairs, weighted

    model = inputs.load(file)
    layers = list(weighted(model))
    return {
        "activation_pairs": sum(is_quantize(node) and not is_constant(operand(node, 0)) for node in pairs(model)),
        "int8_layers": sum(all(map(is_rounded, node.inputs[:2])) for node in layers),
        "layers": len(layers),
        "nodes": sum(model.operators.values()),
    }


def offences(file: Path) -> dict[str, Any]:
    """How many findings of each severity the rules of TensorRT have, and of which rules."""
    from edgepack import device, inputs, target

    module = target.rules("tensorrt")
    assert module is not None
    found = module.lint(inputs.load(file), device.find(BOARD))
    return {
        "severities": dict(Counter(finding.severity for finding in found)),
        "rules": dict(Counter(finding.rule for finding in found)),
    }
