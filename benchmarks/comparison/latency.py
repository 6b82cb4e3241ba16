"""Latency: all files of one model turn by turn, in fresh processes, several times over.

What slows the machine slows all of them; each has its own luck with memory, so processes are repeated (Kalibera and
Jones, Rigorous Benchmarking in Reasonable Time, 2013).
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from comparison import runtimes
from comparison.children import worker
from comparison.environments import ours

PROCESSES = 3
WARM_UP = 0.3
SHORTEST_TURN = 0.02

Rounds = list[list[list[float]]]


def measure(jobs: dict[str, dict[str, Any]], folder: Path, seconds: float) -> dict[str, Rounds]:
    """[process][round][run] in milliseconds of every job that could be loaded.

    Args:
        jobs: by name, what `serve` takes.
        seconds: how long each job runs, over all processes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    taken: dict[str, Rounds] = {name: [] for name in jobs}
    for _ in range(PROCESSES):
        timers: dict[str, _Timer] = {}
        try:
            for name, job in jobs.items():
                timers[name] = _Timer(name, job, folder)
            for timer in timers.values():
                timer.warm_up()
            turn = max(SHORTEST_TURN, 2 * max(timer.typical for timer in timers.values()))
            count = max(4, round(seconds / PROCESSES / turn))
            rounds: dict[str, list[list[float]]] = {name: [] for name in jobs}
            for index in range(count):
                for name in list(timers) if index % 2 == 0 else list(timers)[::-1]:
                    rounds[name].append(timers[name].run(turn))
        finally:
            for timer in timers.values():
                timer.stop()
        for name in jobs:
            taken[name].append(rounds[name])
    return taken


class _Timer:
    """A process that holds one loaded model and runs it for so many seconds when told."""

    def __init__(self, name: str, job: dict[str, Any], folder: Path) -> None:
        path = folder / f"{name}.json"
        path.write_text(json.dumps(job))
        self.name = name
        self.process = subprocess.Popen(
            [*worker("time"), str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ours()
        )
        self.typical = self._answer()[0] / 1000

    def _answer(self) -> list[float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process that times {self.name} died with exit code {self.process.wait()}")
        return list(json.loads(line))

    def run(self, seconds: float) -> list[float]:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        return self._answer()

    def warm_up(self) -> None:
        self.typical = statistics.median(self.run(WARM_UP)) / 1000

    def stop(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def serve(path: str) -> None:
    """Worker: load the job's file, then run it for as many seconds as each line of stdin says."""
    job = json.loads(Path(path).read_text())
    channel = sys.stdout
    model = runtimes.load(job["target"], job["file"], job["threads"], job["outputs"], job["runner"], job["hint"])
    with np.load(job["timing"], allow_pickle=False) as archive:
        arrays = {key: archive[key] for key in archive.files}
    count = len(next(iter(arrays.values())))
    feeds: list[Any] = [{key: array[index] for key, array in arrays.items()} for index in range(count)]
    if isinstance(model, runtimes.LiteRT):
        feeds, model = [model.arranged(feed) for feed in feeds], model.infer
    turn = 0

    def once() -> float:
        nonlocal turn
        feed = feeds[turn % count]
        turn += 1
        before = time.perf_counter()
        model(feed)
        return (time.perf_counter() - before) * 1000

    print(json.dumps([once()]), file=channel, flush=True)
    for line in sys.stdin:
        end = time.perf_counter() + float(line)
        times = [once()]
        while time.perf_counter() < end:
            times.append(once())
        print(json.dumps(times), file=channel, flush=True)


def percentiles(rounds: Rounds) -> dict[str, float]:
    runs = [run for process in rounds for turn in process for run in turn]
    p50, p90, p99 = np.percentile(runs, [50, 90, 99])
    return {"p50_ms": float(p50), "p90_ms": float(p90), "p99_ms": float(p99), "runs": len(runs)}


def ratio(before: Rounds, after: Rounds, draws: int = 1000) -> dict[str, float]:
    """How many times as fast `after` is: the median of the rounds' ratios of medians, with its 95 % interval.

    A percentile bootstrap over processes, then over their rounds.
    """
    pairs = [
        np.array([statistics.median(b) / statistics.median(a) for b, a in zip(old, new, strict=True)])
        for old, new in zip(before, after, strict=True)
    ]
    rng = np.random.default_rng(0)
    drawn = [
        np.median(
            np.concatenate([rng.choice(pairs[i], len(pairs[i])) for i in rng.integers(0, len(pairs), len(pairs))])
        )
        for _ in range(draws)
    ]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {"median": float(np.median(np.concatenate(pairs))), "low": float(low), "high": float(high)}
