"""Tasks: a float model with calibration, search and reporting samples that never overlap.

A task is a folder with `model.onnx`, `calib.npz` and `eval.npz` (one array per input, first axis the samples; `y` in
eval.npz is the truth), and a `task.json` with any of

    metric       a name of metrics.py (default top1)
    family       what kind of network it is, in a word or two
    transformer  true where a quantizer that asks should be told so
    source       where model and data are from
    edgepack     flags for `edgepack build --max-drop`, such as {"metric": "cer"}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

SEED = 7
TIMING_SAMPLES = 16
# Quantizing per channel needs the axis of DequantizeLinear, which opset 13 brought.
PEER_OPSET = 13


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task unpacked for the runs: every row of an .npz is a whole feed, batch axis included.

    `folder` is the user's, `work` the cache. `model` is the float model with its inputs fixed to one sample,
    `peer_model` the same as peers get it. `split` counts the samples of each part.
    """

    name: str
    folder: Path
    work: Path
    metric: str
    split: dict[str, int]
    notes: list[str] = field(default_factory=list)
    family: str = ""
    source: str = ""
    transformer: bool = False
    edgepack: dict[str, Any] = field(default_factory=dict)

    @property
    def model(self) -> Path:
        return self.work / "fixed.onnx"

    @property
    def peer_model(self) -> Path:
        return self.work / "peer.onnx"

    @property
    def calibration(self) -> Path:
        return self.work / "calib.npz"

    @property
    def search(self) -> Path:
        return self.work / "search.npz"

    @property
    def report(self) -> Path:
        return self.work / "report.npz"

    @property
    def timing(self) -> Path:
        return self.work / "timing.npz"


def facts(folder: Path) -> dict[str, Any]:
    """What a folder's task.json says; nothing where there is none."""
    path = folder / "task.json"
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def open_task(name: str, folder: Path, cache: Path, samples: int, search_share: float) -> Task:
    """Unpack a task into the cache, or find it there; at most `samples` report.

    Args:
        search_share: the part of the labelled samples that edgepack may search on; of the rest some report.

    Raises:
        ValueError: arrays do not fit the model, or samples calibrate and judge at once.
    """
    known = facts(folder)
    digest = hashlib.sha256(json.dumps([samples, search_share, SEED]).encode())
    for file in ("model.onnx", "calib.npz", "eval.npz"):
        digest.update((folder / file).read_bytes())
    work = cache / f"{name}-{digest.hexdigest()[:10]}"
    done = work / "split.json"
    if not done.is_file():
        work.mkdir(parents=True, exist_ok=True)
        done.write_text(json.dumps(_unpack(folder, work, samples, search_share)))
    found = json.loads(done.read_text())
    return Task(
        name=name,
        folder=folder,
        work=work,
        metric=known.get("metric", "top1"),
        split=found["split"],
        notes=found["notes"],
        **{key: known[key] for key in ("family", "source", "transformer", "edgepack") if key in known},
    )


def _unpack(folder: Path, work: Path, samples: int, search_share: float) -> dict[str, Any]:
    model = onnx.load(folder / "model.onnx")
    weights = {tensor.name for tensor in model.graph.initializer}
    ranks = {i.name: len(i.type.tensor_type.shape.dim) for i in model.graph.input if i.name not in weights}
    calibration = _feeds(folder / "calib.npz", ranks)
    calibration.pop("y", None)
    evaluation = _feeds(folder / "eval.npz", ranks)
    if "y" not in evaluation:
        raise ValueError(f"{folder}/eval.npz has no labels (y)")
    _refuse_overlap(folder, calibration, evaluation)
    count = len(evaluation["y"])
    order = np.random.default_rng(SEED).permutation(count)
    at = round(search_share * count)
    parts = {"search": order[:at], "report": np.sort(order[at : at + samples])}
    np.savez(work / "report.npz", **{key: array[parts["report"]] for key, array in evaluation.items()})
    with np.load(folder / "eval.npz", allow_pickle=False) as archive:  # as the user wrote it, for a search of its own
        np.savez(work / "search.npz", **{key: archive[key][parts["search"]] for key in archive.files})
    np.savez(work / "calib.npz", **calibration)
    first = {key: array[parts["report"][:TIMING_SAMPLES]] for key, array in evaluation.items() if key != "y"}
    np.savez(work / "timing.npz", **first)
    fixed = fix_inputs(model, {key: array.shape[1:] for key, array in first.items()})
    onnx.save(fixed, work / "fixed.onnx")
    peer, notes = _for_peers(fixed, {key: array[0] for key, array in first.items()})
    onnx.save(peer, work / "peer.onnx")
    sizes = {"calibration": len(next(iter(calibration.values()))), **{part: len(rows) for part, rows in parts.items()}}
    return {"split": sizes, "notes": notes}


def _feeds(path: Path, ranks: dict[str, int]) -> dict[str, np.ndarray]:
    """The arrays of a file, each row with the batch axis that the input has."""
    with np.load(path, allow_pickle=False) as archive:
        arrays = {key: archive[key] for key in archive.files}
    for name, rank in ranks.items():
        if name not in arrays or arrays[name].ndim not in (rank, rank + 1):
            raise ValueError(f"{path} has no array that fits the input {name} of rank {rank}")
        if arrays[name].ndim == rank:
            arrays[name] = arrays[name][:, None]
    return {key: arrays[key] for key in (*ranks, "y") if key in arrays}


def _refuse_overlap(folder: Path, calibration: dict[str, np.ndarray], evaluation: dict[str, np.ndarray]) -> None:
    def digests(part: dict[str, np.ndarray]) -> set[bytes]:
        inputs = [part[key] for key in sorted(calibration)]
        return {hashlib.sha256(b"".join(row.tobytes() for row in rows)).digest() for rows in zip(*inputs, strict=True)}

    both = digests(calibration) & digests(evaluation)
    if both:
        raise ValueError(f"{folder}: {len(both)} samples both calibrate and judge")


def fix_inputs(model: onnx.ModelProto, shapes: dict[str, tuple[int, ...]]) -> onnx.ModelProto:
    """The model with these input shapes; shapes inside follow by inference, since old ones may contradict them."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    del fixed.graph.value_info[:]
    for tensor in fixed.graph.input:
        if tensor.name in shapes:
            del tensor.type.tensor_type.shape.dim[:]
            for size in shapes[tensor.name]:
                tensor.type.tensor_type.shape.dim.add().dim_value = size
    for tensor in fixed.graph.output:
        for number, dim in enumerate(tensor.type.tensor_type.shape.dim):
            dim.Clear()
            dim.dim_param = f"{tensor.name}_{number}"
    return onnx.shape_inference.infer_shapes(fixed)


def _for_peers(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> tuple[onnx.ModelProto, list[str]]:
    """What a careful user of a peer would give it: opset 13, constants and BatchNormalization folded; and notes.

    Each step stands only if the answers stay the same.
    """
    import onnx.version_converter
    import onnxslim

    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    steps: list[tuple[str, Callable[[onnx.ModelProto], onnx.ModelProto]]] = [("cleaned up by onnxslim", onnxslim.slim)]
    if opset < PEER_OPSET:
        words = f"opset {opset} raised to {PEER_OPSET} by onnx.version_converter"
        steps.insert(0, (words, lambda proto: onnx.version_converter.convert_version(proto, PEER_OPSET)))
    try:
        expected = _answers(model, feed)
    except Exception as error:  # ONNX Runtime's exceptions have no common class of their own
        raise ValueError(f"the float model does not run: {str(error).splitlines()[0]}") from error
    current, notes = model, []
    for words, step in steps:
        try:
            found = step(current)
            pairs = zip(expected, _answers(found, feed), strict=True)
            same = all(np.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in pairs)
        except Exception as error:  # both tools have many ways to fail
            notes.append(f"not {words} for the peers: {type(error).__name__}")
            continue
        if same:
            current = found
        notes.append(f"{words} for the peers" if same else f"not {words} for the peers: it changes the answers")
    return current, notes


def _answers(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> list[Any]:
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, feed))
