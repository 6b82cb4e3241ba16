"""Measurements, builds and diagnoses made of numbers, in the form that edgepack writes (docs/measurement.md)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgepack.results.figures import estimates

ESTIMATES: Any = estimates()
ABOUT = {"name": "net", "version": "1", "target": "onnxruntime", "precision": "int8", "device": "rpi5"}


def times(
    middle: float, *, processes: int = 10, rounds: int = 5, runs: int = 20, between: float = 0.01, seed: int = 0
) -> list[list[list[float]]]:
    """[process][round][run] in milliseconds around a middle; processes differ by `between`, on a log scale."""
    rng = np.random.default_rng(seed)
    luck = rng.normal(0, between, (processes, 1, 1))
    drawn: list[list[list[float]]] = (middle * np.exp(luck + rng.normal(0, 0.05, (processes, rounds, runs)))).tolist()
    return drawn


def part(raw: Sequence[Sequence[Sequence[float]]], about: dict[str, str], batch: int = 1) -> dict[str, Any]:
    every = [run for process in raw for turn in process for run in turn]
    middle, low, high = ESTIMATES.typical(raw)
    processes = [
        {
            "load_ms": 100.0 + index, "first_inference_ms": 3.0, "peak_memory_mb": 70.0 + 0.1 * (index % 3),
            "rounds_ms": rounds, "rounds_s": [sum(turn) / 1000 for turn in rounds],
            "warm_up": {"runs": 5, "seconds": 0.1, "settled": True},
        }
        for index, rounds in enumerate(raw)
    ]  # fmt: skip
    return {
        **ESTIMATES.summary(every), "median_ms": middle, "median_low_ms": low, "median_high_ms": high,
        "throughput_per_s": batch * len(every) / (sum(every) / 1000), "load_ms": 100.0, "first_inference_ms": 3.0,
        "peak_memory_mb": 71.0, "joules": None, "bundle": about, "versions": {"onnxruntime": "1.31.1"},
        "processes": processes,
    }  # fmt: skip


def measurement(
    model: Sequence[Sequence[Sequence[float]]],
    other: Sequence[Sequence[Sequence[float]]] | None = None,
    *,
    to: str = "against",
    threads: int = 1,
    batch: int = 1,
    about: dict[str, str] | None = None,
    doubts: Sequence[dict[str, Any]] = (),
    **environment: Any,
) -> dict[str, Any]:
    about = about or ABOUT
    result: dict[str, Any] = {
        "kind": "measurement", "format": 2, "created": "2026-05-01T12:00:00Z", "took_s": 10.0, "bundle": about,
        "threads": threads, "host": "local", "emulated": False, "check": None,
        "settings": {
            "threads": threads, "batch": batch, "concurrency": 1, "input_shapes": {}, "seconds": 5.0, "min_runs": 50,
            "processes": len(model), "equivalence": 0.02,
        },
        "models": {"model": part(model, about, batch)},
        "environment": {**surroundings(), **environment},
        "doubts": list(doubts), "valid": not any(doubt["severity"] == "invalid" for doubt in doubts),
    }  # fmt: skip
    if other is not None:
        result["models"][to] = part(other, {**about, "version": "0"}, batch)
        result["ratio"] = {**ESTIMATES.ratio(other, model), "to": to}
    return result


def surroundings() -> dict[str, Any]:
    """A board whose clock falls while it gets warm."""
    samples = [
        {
            "t": float(second), "mhz": {"0": 2400.0 - 50 * second, "1": 2400.0}, "governors": {"0": "ondemand"},
            "celsius": {"cpu": 50.0 + second, "pmic": 45.0}, "throttled": 0, "throttle_events": {},
            "load": [1.0, 0.5, 0.2], "pressure": {}, "busy": 1.0, "busy_elsewhere": 0.1, "watts": {}, "alarms": [],
        }
        for second in range(10)
    ]  # fmt: skip
    return {
        "machine": "aarch64", "cpu": "Cortex-A76", "cores": 4, "system": "Linux-6.6", "kernel": "6.6", "python": "3.11",
        "numpy": "2.4.6", "board": "Raspberry Pi 5", "emulated": False, "affinity": [0, 1, 2, 3], "power_mode": None,
        "before": samples[0], "during": samples, "after": samples[-1],
    }  # fmt: skip


def doubt(name: str = "busy", severity: str = "note", words: str = "others used 1.6 CPUs") -> dict[str, Any]:
    return {"name": name, "severity": severity, "words": words, "advice": "stop what else runs", "figures": {}}


def quality(built: float = 85.0, drop: float = 1.0, **more: Any) -> dict[str, Any]:
    return {
        "source": "eval.npz", "count": 1000, "sqnr_db": 26.0, "agreement": 98.0, "metric": "top1", "unit": "points",
        "higher_is_better": True, "original": 86.0, "built": built, "drop": drop, "drop_low": drop - 0.3,
        "drop_high": drop + 0.3, **more,
    }  # fmt: skip


def built(judged: dict[str, Any] | None = None, size: int = 3_000_000, **more: Any) -> dict[str, Any]:
    return {
        "kind": "build",
        "format": 1,
        **ABOUT,
        "bundle": "out",
        "archive": "out.tar.gz",
        "reason": "asked for",
        "sizes": {"original": 12_000_000, "model": size, "archive": size - 100_000},
        "quality": quality() if judged is None else judged,
        "latency": measurement(times(1.0, seed=3), times(2.0, seed=4), to="baseline"),
        "check": {"ok": True},
        "notes": ["clean-up: 94 → 90 nodes"],
        "warnings": ["few samples"],
        "promise": None,
        **more,
    }


def promise() -> dict[str, Any]:
    trials = [
        {
            "precision": "int8",
            "keep_float": floats,
            "drop": drop,
            "margin": 0.1,
            "agreement": 98.0,
            "sqnr_db": 26.0,
            "keeps": keeps,
            "ms": ms,
        }
        for floats, drop, keeps, ms in [
            ([], 0.9, False, 1.0),
            (["conv0"], 0.4, True, 1.1),
            (["conv0", "conv1"], 0.2, True, 1.3),
        ]
    ]
    return {
        "max_drop": 0.5,
        "metric": "top1",
        "kept": True,
        "drop": 0.35,
        "drop_low": 0.1,
        "drop_high": 0.6,
        "search_samples": 500,
        "report_samples": 500,
        "reason": "the fastest of 2 that keep 0.5 points",
        "latency_on": "this machine",
        "finished": True,
        "trials": trials,
        "warnings": [],
        "float_layers": [{"layer": "conv0", "operator": "Conv", "sqnr_alone_db": 22.1}],
    }


def diagnosis(names: Sequence[str] = ("conv0", "conv1", "dense")) -> dict[str, Any]:
    shares = [0.6, 0.3, 0.1]
    layers = [
        {
            "layer": name, "operator": "Conv", "sqnr_db": 30.0 + 5 * index, "weights_db": 40.0, "activations_db": 33.0,
            "share": shares[index], "macs_share": [0.1, 0.5, 0.4][index], "range": [-1.0, 1.0], "outlier": 4.0,
            "weight_spread": 2.0, "advice": "leave it float" if index == 0 else "",
        }
        for index, name in enumerate(names)
    ]  # fmt: skip
    return {
        "kind": "layers", "format": 1, "path": "model.onnx", "target": "onnxruntime", "samples": 8, "layers": layers,
        "left_float": {},
    }  # fmt: skip


def saved(folder: Path, name: str, data: object) -> Path:
    path = folder / name
    path.write_text(json.dumps(data), encoding="utf-8")
    return path
