"""edgepack's structured pruning beside others', without training: accuracy over multiply-accumulates, and latency.

    python benchmarks/prune.py --model NAME=FOLDER [--model …] [--shares 0.9,0.8,0.7,0.5] [--folds N] [--json FILE]

A folder is a task of quantize.py (comparison/tasks.py): model.onnx, calib.npz (training data), eval.npz with `y`, and a
metric of task.json that counts right samples. Every share is of the original's multiply-accumulates. Methods:

- `edgepack`: second-order, repaired: what `edgepack build --prune macs=SHARE` does; int8 too.
- `edgepack taylor` (needs torch), `edgepack l2`, `edgepack l1`: by gradients and by norms, repaired. `… bare`: without
  repair.
- `torch-pruning …`: rebuilt in PyTorch, global, in 100 steps, channels in multiples of 8; `taylor` on its own answers.
- `onnxsim …`: its structured pruning, by norms and with activations.

Accuracy is of all evaluation samples; differences are paired, with one standard error. Latency is of one sample on
one thread, the original and the pruned model turn by turn in one process, as medians.

With `--folds N`, for tasks of few samples, both sets together are cut into N parts; models are fitted to one part and
asked on the others, in turn. A sample's change is then its mean over the models that ask it. calib.npz needs a `y` too.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
from comparison.environments import plain
from pruning_task import Row, Task, folded, pooled

from edgepack import target as targets
from edgepack.data.samples import Samples
from edgepack.errors import EdgepackError
from edgepack.model import Model
from edgepack.passes.quantize import quantize
from edgepack.promise.trials import interleaved
from edgepack.pruning.budget import Budget
from edgepack.pruning.prune import find, pruned_to
from edgepack.pruning.survey import survey
from edgepack.quantization.preparation import prepare
from edgepack.quantization.settle import hold_back, settle
from edgepack.reference import Session

HERE = Path(__file__).parent
PEERS = {
    "torch-pruning": ("prune_with_torch_pruning.py", ["l2", "l1", "taylor"]),
    "onnxsim": ("prune_with_onnxsim.py", ["l2", "wanda"]),
}


def int8(model: Model, samples: Samples, target: str) -> Model:
    """As `build` makes it for this machine."""
    scheme = targets.load(target).SCHEME
    seen, held = hold_back(samples)
    ready = prepare(model, scheme, seen, held=held if seen is not samples else None)
    form = settle(ready, scheme, seen, held, None)
    layers = form.layers(form.ready.unseen, None)
    return quantize(form.ready.model, scheme, form.ready.ranges, layers, form.ready.unseen).model


def latencies(task: Task, forms: dict[str, Model], seconds: float, names: list[str]) -> dict[str, dict[str, float]]:
    """Milliseconds by runtime and form."""
    found: dict[str, dict[str, float]] = {}
    for target in names:
        module = targets.load(target)
        with tempfile.TemporaryDirectory() as scratch:
            loaded, timed = [], {k: v for k, v in forms.items() if target == "onnxruntime" or "int8" not in k}
            for number, model in enumerate(timed.values()):
                folder = Path(scratch) / str(number)
                folder.mkdir()
                loaded.append(targets.runner(target).load(str(folder / module.lower(model, folder)), 1))
            found[target] = dict(zip(timed, interleaved(loaded, task.feed, seconds), strict=True))
            del loaded
    return found


def edgepack_rows(
    task: Task, shares: list[float], importances: list[str], say: Callable[[str], None]
) -> tuple[list[Row], dict[str, Model]]:
    rows, models = [], {"original": task.model}
    whole, found = find(task.model, task.feed)
    for importance in importances:
        start = time.perf_counter()
        try:
            known = survey(whole, found, task.samples, importance)
        except EdgepackError as refusal:
            skipped = {"model": task.name, "method": f"edgepack {importance}", "skipped": str(refusal)}
            rows += [{**skipped, "share": share} for share in shares]
            say(words(rows[-1]))
            continue
        surveyed = time.perf_counter() - start
        for share in shares:
            for repaired in (True, False):
                start = time.perf_counter()
                name = (
                    f"edgepack{'' if importance == 'second-order' else ' ' + importance}{'' if repaired else ' bare'}"
                )
                row: Row = {"model": task.name, "method": name, "share": share}
                try:
                    result = pruned_to(
                        known, Budget(kind="macs", share=share), importance=importance, repaired=repaired
                    )
                except EdgepackError as refusal:
                    rows.append({**row, "skipped": str(refusal)})
                    continue
                row["seconds"] = surveyed + time.perf_counter() - start
                row |= task.judged(Session(result.model).run)
                row["macs"] = result.report.macs_after / result.report.macs_before
                row["parameters"] = result.report.parameters_after / result.report.parameters_before
                if name == "edgepack":
                    models[str(share)] = result.model
                rows.append(row)
                say(words(row))
    return rows, models


def peer_rows(task: Task, shares: list[float], python: str, name: str, say: Callable[[str], None]) -> list[Row]:
    script, importances = PEERS[name]
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        asked = {
            "model": str(task.folder / "model.onnx"), "calibration": str(task.folder / "calib.npz"), "output": scratch,
            "importances": importances, "shares": shares, "answer": f"{scratch}/answer.json",
        }  # fmt: skip
        request = Path(scratch) / "request.json"
        request.write_text(json.dumps(asked))
        done = subprocess.run(
            [python, str(HERE / "peers" / script), str(request)], capture_output=True, text=True, env=plain()
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no word"])[-1]
            return [{"model": task.name, "method": name, "share": share, "skipped": last[:200]} for share in shares]
        for answer in json.loads(Path(asked["answer"]).read_text()):
            row = {"model": task.name, **answer}
            if "file" in answer:
                proto = onnx.load(row.pop("file"))
                session = Session(Model.from_proto(proto))
                key = proto.graph.input[0].name
                row |= task.judged(lambda feed, s=session, k=key: s.run({k: feed[task.input]}))
            rows.append(row)
            say(words(row))
    return rows


def words(row: Row) -> str:
    head = f"{row['model']:24} {row['method']:22} {row['share']:.2f}"
    if "skipped" in row:
        return f"{head}  skipped: {row['skipped']}"
    return (
        f"{head}  {row['accuracy']:6.2f} %  {row['difference']:+7.2f} ± {row['error']:.2f}  "
        f"agrees {row['agreement']:6.2f} %  {row['seconds']:5.0f} s"
    )


def rows_of(task: Task, asked: argparse.Namespace, say: Callable[[str], None]) -> tuple[list[Row], dict[str, Model]]:
    """Everything but latency; and the models that are timed, by share."""
    shares = [float(text) for text in asked.shares.split(",")]
    say(f"{task.name}: original {100 * task.right.mean():.2f} %, {len(task.x)} samples")
    rows, forms = edgepack_rows(task, shares, asked.importances.split(","), say)
    for peer, python in (("torch-pruning", asked.torch_python), ("onnxsim", asked.onnxsim_python)):
        rows += peer_rows(task, shares, python, peer, say) if python else []
    for share, model in list(forms.items()) if not asked.no_int8 else ():
        forms[f"{share} int8"] = small = int8(model, task.samples, "onnxruntime")
        row = {"model": task.name, "method": "edgepack int8", "share": float(share) if share != "original" else 1.0}
        rows.append({**row, "seconds": 0.0, **task.judged(Session(small).run)})
        say(words(rows[-1]))
    return rows, forms


def in_turn(name: str, folder: Path, asked: argparse.Namespace, say: Callable[[str], None]) -> list[Row]:
    with tempfile.TemporaryDirectory() as scratch:
        folds = folded(folder, asked.folds, Path(scratch))
        rows = [rows_of(Task(name, own), asked, say)[0] for own, _ in folds]
    found = pooled(rows, [places for _, places in folds])
    say(f"{name}: over {asked.folds} parts")
    for row in found:
        say(words(row))
    return found


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parse.add_argument("--model", action="append", required=True, metavar="NAME=FOLDER")
    parse.add_argument("--shares", default="0.9,0.8,0.7,0.5")
    parse.add_argument("--importances", default="second-order,taylor,l2,l1")
    parse.add_argument("--folds", type=int, default=1, help="fit to one of N parts, ask on the others, in turn")
    parse.add_argument("--targets", default="onnxruntime,openvino,tflite", help="runtimes that are timed")
    parse.add_argument("--seconds", type=float, default=3.0, help="how long all forms are timed in each runtime")
    parse.add_argument("--torch-python", default="", help="an interpreter with peers/torch-pruning.txt installed")
    parse.add_argument("--onnxsim-python", default="", help="an interpreter with peers/onnxsim.txt installed")
    parse.add_argument("--no-int8", action="store_true")
    parse.add_argument("--json", type=Path)
    asked = parse.parse_args()
    rows: list[Row] = []
    times: dict[str, Any] = {}

    def say(line: str) -> None:
        print(line, flush=True)

    for text in asked.model:
        name, _, folder = text.partition("=")
        if asked.folds > 1:
            rows += in_turn(name, Path(folder), asked, say)
        else:
            task = Task(name, Path(folder))
            found, forms = rows_of(task, asked, say)
            rows += found
            times[name] = latencies(task, forms, asked.seconds, asked.targets.split(","))
        for target, ms in times.get(name, {}).items():
            for form, value in ms.items():
                base = ms["original int8" if form.endswith("int8") else "original"]
                say(f"{name:24} {target:12} {form:15} {value:.3f} ms, {base / value:.2f} times as fast")
        if asked.json:
            told = [{key: value for key, value in row.items() if key != "changes"} for row in rows]
            asked.json.write_text(json.dumps({"format": 1, "rows": told, "latency_ms": times}, indent=1))


if __name__ == "__main__":
    main()
