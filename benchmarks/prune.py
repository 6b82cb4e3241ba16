"""edgepack's structured pruning beside others', without training: accuracy over multiply-accumulates, and latency.

    python benchmarks/prune.py --model NAME=FOLDER [--model …] [--shares 0.9,0.8,0.7,0.5] [--json FILE]

A folder holds model.onnx, calib.npz (training data, unlabelled) and eval.npz with `y`; where answers are pitches,
cents.npy instead of `y`. Every share is of the original's multiply-accumulates. Methods:

- `edgepack`: second-order, repaired: what `edgepack build --prune macs=SHARE` does; int8 too.
- `edgepack l2`, `edgepack l1`: by norms, repaired. `… bare`: without repair.
- `torch-pruning …`: rebuilt in PyTorch, global, in 100 steps, channels in multiples of 8; `taylor` on its own answers.
- `onnxsim …`: its structured pruning, by norms and with activations.

Accuracy is of all evaluation samples; differences are paired, with one standard error. Latency is of one sample on
one thread, the original and the pruned model turn by turn in one process, as medians.
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

import numpy as np
import onnx
from comparison.environments import plain

from edgepack import inputs
from edgepack import target as targets
from edgepack.building.cleaning import cleaned, shaped
from edgepack.data.samples import Feed, Samples, read
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
BATCH = 500
PEERS = {
    "torch-pruning": ("prune_with_torch_pruning.py", ["l2", "l1", "taylor"]),
    "onnxsim": ("prune_with_onnxsim.py", ["l2", "wanda"]),
}


class Task:
    """A model, what it is fitted to, and what it is judged by."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        original = inputs.load(folder / "model.onnx")
        self.untidy, _ = shaped(original, {}, int8=True)
        self.samples: Samples = read(folder / "calib.npz", self.untidy)
        self.feed: Feed = self.samples.read(0)
        session = Session(original)
        self.model, _ = cleaned(self.untidy, session, [self.feed], session.run(self.feed))
        with np.load(folder / "eval.npz") as arrays:
            self.input = next(key for key in arrays.files if key != "y")
            self.x = arrays[self.input].astype(np.float32)
            self.y = arrays["y"] if "y" in arrays.files else None
        self.cents = np.load(folder / "cents.npy") if self.y is None else None
        self.before = self.best(Session(original).run)

    def best(self, run: Callable[[Feed], Feed]) -> np.ndarray:
        """The best class of each evaluation sample."""
        parts = [self.x[start : start + BATCH] for start in range(0, len(self.x), BATCH)]
        return np.concatenate([next(iter(run({self.input: part}).values())).argmax(-1) for part in parts])

    def right(self, best: np.ndarray) -> np.ndarray:
        if self.cents is not None:
            return np.abs(20 * best + 1997.379 - self.cents) < 50
        return np.asarray(best == self.y)

    def judged(self, run: Callable[[Feed], Feed]) -> dict[str, float]:
        best = self.best(run)
        change = self.right(best).astype(float) - self.right(self.before)
        return {
            "accuracy": 100 * float(self.right(best).mean()),
            "difference": 100 * float(change.mean()),
            "error": 100 * float(change.std() / len(change) ** 0.5),
            "agreement": 100 * float(np.mean(best == self.before)),
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
) -> tuple[list[dict[str, Any]], dict[str, Model]]:
    rows, models = [], {"original": task.model}
    whole, found = find(task.model, task.feed)
    for importance in importances:
        start = time.perf_counter()
        known = survey(whole, found, task.samples, importance)
        surveyed = time.perf_counter() - start
        for share in shares:
            for repaired in (True, False):
                start = time.perf_counter()
                name = (
                    f"edgepack{'' if importance == 'second-order' else ' ' + importance}{'' if repaired else ' bare'}"
                )
                row: dict[str, Any] = {"model": task.name, "method": name, "share": share}
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


def peer_rows(
    task: Task, shares: list[float], python: str, name: str, say: Callable[[str], None]
) -> list[dict[str, Any]]:
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


def words(row: dict[str, Any]) -> str:
    head = f"{row['model']:24} {row['method']:22} {row['share']:.2f}"
    if "skipped" in row:
        return f"{head}  skipped: {row['skipped']}"
    return (
        f"{head}  {row['accuracy']:6.2f} %  {row['difference']:+7.2f} ± {row['error']:.2f}  "
        f"agrees {row['agreement']:6.2f} %  {row['seconds']:5.0f} s"
    )


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parse.add_argument("--model", action="append", required=True, metavar="NAME=FOLDER")
    parse.add_argument("--shares", default="0.9,0.8,0.7,0.5")
    parse.add_argument("--importances", default="second-order,l2,l1")
    parse.add_argument("--targets", default="onnxruntime,openvino,tflite", help="runtimes that are timed")
    parse.add_argument("--seconds", type=float, default=3.0, help="how long all forms are timed in each runtime")
    parse.add_argument("--torch-python", default="", help="an interpreter with peers/torch-pruning.txt installed")
    parse.add_argument("--onnxsim-python", default="", help="an interpreter with peers/onnxsim.txt installed")
    parse.add_argument("--no-int8", action="store_true")
    parse.add_argument("--json", type=Path)
    asked = parse.parse_args()
    shares = [float(text) for text in asked.shares.split(",")]
    rows: list[dict[str, Any]] = []
    times: dict[str, Any] = {}

    def say(line: str) -> None:
        print(line, flush=True)

    for text in asked.model:
        name, _, folder = text.partition("=")
        task = Task(name, Path(folder))
        say(f"{name}: original {100 * task.right(task.before).mean():.2f} %, {len(task.x)} samples")
        found, models = edgepack_rows(task, shares, asked.importances.split(","), say)
        rows += found
        for peer, python in (("torch-pruning", asked.torch_python), ("onnxsim", asked.onnxsim_python)):
            rows += peer_rows(task, shares, python, peer, say) if python else []
        forms = dict(models)
        for share, model in models.items() if not asked.no_int8 else ():
            forms[f"{share} int8"] = small = int8(model, task.samples, "onnxruntime")
            row = {"model": name, "method": "edgepack int8", "share": float(share) if share != "original" else 1.0}
            rows.append({**row, "seconds": 0.0, **task.judged(Session(small).run)})
            say(words(rows[-1]))
        times[name] = latencies(task, forms, asked.seconds, asked.targets.split(","))
        for target, ms in times[name].items():
            for form, value in ms.items():
                base = ms["original int8" if form.endswith("int8") else "original"]
                say(f"{name:24} {target:12} {form:15} {value:.3f} ms, {base / value:.2f} times as fast")
        if asked.json:
            asked.json.write_text(json.dumps({"format": 1, "rows": rows, "latency_ms": times}, indent=1))


if __name__ == "__main__":
    main()
