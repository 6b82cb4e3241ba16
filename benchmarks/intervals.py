"""How often the 95 % intervals of `edgepack bench` hold the truth, on simulated latencies whose truth is known.

    python benchmarks/intervals.py [--trials 2000] [--processes 10,5,3] [--json FILE]

A trial is a measurement: two models, the second 3 % faster, in pairs of processes of 20 rounds of 20 runs. A run takes
(1 + 0.1 exp z) / 1.1 of the process's median, z standard normal: skewed, as latencies are. The cases:

    independent   each z is drawn anew
    correlated    z is AR(1) with 0.95 from run to run: 400 runs are worth ten
    spread        the same, and processes differ: normal, 3 %, each its own
    outliers      the same, and one process in ten takes 25 % longer
    drifting      independent runs, processes differ by 1 %, and all becomes 10 % slower from the first to the last

Intervals: `by process` is edgepack's (order statistics of the processes' medians; Student's t below six). Beside it
what one might take instead: `bootstrap` draws processes, then rounds, and takes percentiles (Efron and Tibshirani
1993); `blocks` draws rounds alone, which respects correlation in time (Kuensch 1989) and forgets that processes differ.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "targets" / "device"))
from edgepack_device.doubts import LARGEST_DRIFT
from edgepack_device.estimates import drift, interval

ROUNDS, RUNS, FASTER = 20, 20, 1.03
CASES = ("independent", "correlated", "spread", "outliers", "drifting")
RESAMPLES = 400
Interval = tuple[float, float]


def noise(random: np.random.Generator, count: int, correlation: float) -> np.ndarray:
    """[count, runs] of skewed noise whose median is 1."""
    z = random.standard_normal((ROUNDS * RUNS, count))
    for step in range(1, len(z)):
        z[step] = correlation * z[step - 1] + math.sqrt(1 - correlation**2) * z[step]
    return (1 + 0.1 * np.exp(z.T)) / 1.1


def measured(random: np.random.Generator, case: str, processes: int) -> tuple[np.ndarray, np.ndarray]:
    """Milliseconds of the slower and the faster model, [process, round, run]; their medians are 1.03 and 1."""
    correlation = 0.0 if case in ("independent", "drifting") else 0.95
    runs = noise(random, 2 * processes, correlation).reshape(2, processes, ROUNDS, RUNS)
    if case in ("spread", "outliers"):
        runs *= np.exp(0.03 * random.standard_normal((2, processes, 1, 1)))
    if case == "outliers":
        runs *= np.where(random.random((2, processes, 1, 1)) < 0.1, 1.25, 1.0)
    if case == "drifting":
        runs *= np.exp(0.01 * random.standard_normal((2, processes, 1, 1)))
        runs *= np.linspace(1, 1.1, processes * ROUNDS).reshape(processes, ROUNDS, 1)
    return FASTER * runs[0], runs[1]


def by_process(figures: np.ndarray) -> Interval:
    """Of [process, round] figures, as `estimates.interval` takes them: a median a process."""
    _, low, high = interval(np.median(figures, 1).tolist())
    return low, high


def bootstrap(figures: np.ndarray, random: np.random.Generator) -> Interval:
    processes, rounds = figures.shape
    who = random.integers(0, processes, (RESAMPLES, processes, 1))
    when = random.integers(0, rounds, (RESAMPLES, processes, rounds))
    low, high = np.percentile(np.median(figures[who, when].reshape(RESAMPLES, -1), 1), [2.5, 97.5])
    return float(low), float(high)


def blocks(figures: np.ndarray, random: np.random.Generator) -> Interval:
    flat = figures.reshape(-1)
    drawn = flat[random.integers(0, len(flat), (RESAMPLES, len(flat)))]
    low, high = np.percentile(np.median(drawn, 1), [2.5, 97.5])
    return float(low), float(high)


def study(case: str, processes: int, trials: int, seed: int = 0) -> Iterator[dict[str, object]]:
    """Coverage of each method for the median and the ratio, in percent, and how often the drift doubt was raised."""
    random = np.random.default_rng([seed, CASES.index(case), processes])
    methods: dict[str, Callable[[np.ndarray], Interval]] = {
        "by process": by_process,
        "bootstrap": lambda figures: bootstrap(figures, random),
        "blocks": lambda figures: blocks(figures, random),
    }
    held = {(name, what): 0 for name in methods for what in ("median", "ratio")}
    widths = dict.fromkeys(held, 0.0)
    alarms = 0
    for _ in range(trials):
        slow, fast = measured(random, case, processes)
        middles = np.log(np.median(fast, 2))
        ratios = np.log(np.median(slow, 2)) - middles
        for name, method in methods.items():
            for what, figures, truth in (("median", middles, 0.0), ("ratio", ratios, math.log(FASTER))):
                # The bundled code takes the median over all runs of a process, the others a round as a block.
                taken = np.log(np.median(fast.reshape(processes, -1), 1, keepdims=True))
                low, high = method(taken if name == "by process" and what == "median" else figures)
                held[name, what] += low <= truth <= high
                widths[name, what] += (high - low) / trials
        alarms += abs(drift(fast.tolist())) > LARGEST_DRIFT
    for (name, what), count in held.items():
        yield {
            "case": case, "processes": processes, "trials": trials, "what": what, "method": name,
            "coverage_percent": 100 * count / trials, "mean_width_percent": 100 * widths[name, what],
            "drift_doubt_percent": 100 * alarms / trials,
        }  # fmt: skip


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--trials", type=int, default=2000)
    parse.add_argument("--processes", default="10,5,3")
    parse.add_argument("--json", type=Path, help="write all figures there")
    arguments = parse.parse_args()
    rows = []
    print(f"{'case':12} processes  {'by process':>22} {'bootstrap':>18} {'blocks':>18}   drift doubt")
    print(f"{'':12}            {'median  ratio (width)':>22} {'median  ratio':>18} {'median  ratio':>18}")
    for processes in map(int, arguments.processes.split(",")):
        for case in CASES:
            found = list(study(case, processes, arguments.trials))
            rows += found
            by = {(row["method"], row["what"]): row for row in found}
            cells = [
                f"{by[name, 'median']['coverage_percent']:6.1f} {by[name, 'ratio']['coverage_percent']:6.1f}"
                for name in ("by process", "bootstrap", "blocks")
            ]
            width = by["by process", "ratio"]["mean_width_percent"]
            alarm = found[0]["drift_doubt_percent"]
            print(
                f"{case:12} {processes:9}  {cells[0]} ({width:4.1f} %) {cells[1]:>18} {cells[2]:>18}   {alarm:6.1f} %"
            )
            sys.stdout.flush()
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
