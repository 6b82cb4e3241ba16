"""Timing: the model and the float original turn by turn, each in processes of its own. Python 3.8."""

import json
import os
import statistics
import subprocess
import sys
import time

from edgepack_device.border import by_name, restored
from edgepack_device.figures import ratio, summary
from edgepack_device.files import (
    FORMAT,
    HarnessError,
    default_threads,
    first_line,
    golden,
    load_model,
    read_manifest,
    sha256,
)
from edgepack_device.machine import environment, peak_memory_mb

# Pairs of processes that a measurement is spread over.
PROCESSES = 3


def bench(folder, threads=None, seconds=2.0, parts=("model", "baseline")):
    """Time the model, and the float original where it is here, turn by turn, in several processes each."""
    manifest = read_manifest(folder)
    threads = threads or default_threads(manifest)
    parts = [part for part in parts if part_is_here(folder, manifest, part)]
    if "baseline" in parts:
        verify_baseline(folder, manifest["baseline"])
    load_before = os.getloadavg() if hasattr(os, "getloadavg") else None
    processes = {part: [] for part in parts}
    for _ in range(PROCESSES):
        for part, facts in time_pair(folder, parts, threads, seconds / PROCESSES).items():
            processes[part].append(facts)
    result = {
        "format": FORMAT,
        "kind": "measurement",
        "bundle": {key: manifest[key] for key in ("name", "version", "target", "precision", "device")},
        "threads": threads,
        "environment": dict(environment(), load_average_before=load_before),
        "models": {part: dict(summary_of(processes[part]), processes=processes[part]) for part in parts},
    }
    if "baseline" in parts:
        rounds = {part: [facts["rounds_ms"] for facts in processes[part]] for part in parts}
        result["ratio"] = ratio(rounds["baseline"], rounds["model"])
    return result


def verify_baseline(folder, entry):
    """The original does not go to the device, so SHA256SUMS does not list it; here a figure hangs on it."""
    if sha256(os.path.join(folder, *entry["file"].split("/"))) != entry.get("sha256"):
        raise HarnessError(50, "%s has been altered or damaged" % entry["file"], "copy or build the bundle again")


def time_pair(folder, parts, threads, seconds):
    """One process a part, taking turns; facts of each with its rounds."""
    workers = {}
    try:
        for part in parts:
            workers[part] = Worker(folder, part, threads)
        for worker in workers.values():
            worker.warm_up(min(0.5, seconds))
        rounds = take_turns(workers, seconds)
    finally:
        for worker in workers.values():
            worker.stop()
    return {part: dict(worker.facts, rounds_ms=rounds[part]) for part, worker in workers.items()}


def summary_of(processes):
    """Percentiles over all runs of all processes, and the median process's load, first run and memory."""
    runs = [run for facts in processes for turn in facts["rounds_ms"] for run in turn]
    figures = summary(runs)
    for key in ("load_ms", "first_inference_ms", "peak_memory_mb"):
        figures[key] = statistics.median(facts[key] for facts in processes)
    return figures


def part_is_here(folder, manifest, part):
    entry = manifest.get(part)
    return bool(entry and entry.get("file") and os.path.isfile(os.path.join(folder, *entry["file"].split("/"))))


def take_turns(workers, seconds):
    """Rounds in which every worker runs for a moment, in alternating order, until each had `seconds`."""
    slowest = max(worker.typical_ms for worker in workers.values()) / 1000
    turn = max(0.02, seconds / 20, 2 * slowest)
    rounds = {part: [] for part in workers}
    for index in range(max(4, int(round(seconds / turn)))):
        order = list(workers) if index % 2 == 0 else list(reversed(list(workers)))
        for part in order:
            rounds[part].append(workers[part].run(turn))
    return rounds


class Worker(object):
    """A process that holds one loaded model and times it on command."""

    def __init__(self, folder, part, threads):
        command = [sys.executable]
        # Without site-packages of its own choosing: the worker sees exactly what this process sees.
        if sys.flags.no_site:
            command += ["-S", "-s"]
        command += [os.path.join(folder, "harness.py"), "_worker", part, str(threads)]
        self.part = part
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.facts = self.answer()
        self.typical_ms = self.facts["first_inference_ms"]

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise HarnessError(
                52,
                "the process that times %s died (exit code %s)" % (self.part, self.process.wait()),
                "is there memory enough? `harness.py check` runs it once",
            )
        answer = json.loads(line.decode())
        if "error" in answer:
            raise HarnessError(answer["code"], answer["error"], answer.get("hint", ""))
        return answer

    def ask(self, **command):
        self.process.stdin.write(json.dumps(command).encode() + b"\n")
        self.process.stdin.flush()
        return self.answer()

    def run(self, seconds):
        return self.ask(seconds=seconds)["ms"]

    def warm_up(self, at_most):
        """Run until two windows in a row agree within 5 %, or the time is up."""
        last, spent = None, 0.0
        while spent < at_most:
            window = self.run(max(0.05, at_most / 10))
            spent += sum(window) / 1000
            self.typical_ms = statistics.median(window)
            if last and abs(self.typical_ms - last) < 0.05 * last:
                return
            last = self.typical_ms

    def stop(self):
        try:
            answer = self.ask(stop=True)
            self.facts["peak_memory_mb"] = answer["peak_memory_mb"]
        except (OSError, HarnessError, ValueError, KeyError):
            self.process.kill()
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def worker_main(folder, part, threads):
    # The runtime may print to stdout from native code; the protocol keeps a copy of its own.
    channel = os.fdopen(os.dup(1), "wb", 0)
    os.dup2(2, 1)

    def say(**message):
        channel.write(json.dumps(message).encode() + b"\n")

    try:
        manifest = read_manifest(folder)
        samples = golden(folder, "inputs")
        if part == "baseline":  # which takes real numbers
            entries = by_name(manifest["inputs"])
            samples = [{name: restored(entries[name], array) for name, array in feed.items()} for feed in samples]
        start = time.perf_counter()
        _, model = load_model(folder, manifest, part, threads)
        loaded = time.perf_counter()
        model(samples[0])
        first = time.perf_counter()
        say(load_ms=(loaded - start) * 1000, first_inference_ms=(first - loaded) * 1000)
        turn = 0
        for line in sys.stdin:
            command = json.loads(line)
            if command.get("stop"):
                say(peak_memory_mb=peak_memory_mb())
                return 0
            end = time.perf_counter() + command["seconds"]
            times = []
            now = time.perf_counter()
            while now < end or not times:
                feed = samples[turn % len(samples)]
                if manifest.get("state") and turn % len(samples) == 0:
                    model.reset()
                turn += 1
                before = time.perf_counter()
                model(feed)
                now = time.perf_counter()
                times.append((now - before) * 1000)
            say(ms=times)
    except HarnessError as error:
        say(code=error.code, error=error.message, hint=error.hint)
    except Exception as error:
        say(code=52, error="%s: %s" % (type(error).__name__, first_line(error)))
    return 0
