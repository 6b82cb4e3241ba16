"""Timing: a bundle turn by turn with what it is compared to, each in processes of its own. Python 3.8."""

import json
import os
import signal
import statistics
import subprocess
import tempfile
import time
from contextlib import contextmanager

from edgepack_device.clocks import FixedClocks
from edgepack_device.doubts import INVALID, find
from edgepack_device.energy import Energy
from edgepack_device.estimates import ratio, summary, typical
from edgepack_device.files import HarnessError, read_manifest, sha256
from edgepack_device.surroundings import Surroundings
from edgepack_device.worker import Worker, command

KIND, FORMAT = "measurement", 2
# What a turn takes at least: a few runs of a small model, and short beside what else happens on the machine.
TURN_S = 0.02
# A process warms up no longer than half of what it measures, between these.
WARM_UP_S = (0.2, 2.0)


def bench(folder, settings, against=None, alone=False, root="/", fix_clocks=False, check=None, against_check=None):
    """Time a bundle: a measurement (docs/measurement.md).

    Args:
        settings: all of docs/measurement.md's `settings`.
        against: another bundle's folder to compare with; the float original, where it is here, if not given.
        alone: compare with nothing.
        root: where /sys, /proc and the board's programs are read.
        check, against_check: what the golden checks found.
    """
    started, began = time.gmtime(), time.monotonic()
    parts = subjects(folder, against, alone)
    machine = Surroundings(root)
    about = machine.about()
    # A plain kill should stop the workers, and put back what was set, as Ctrl-C does.
    with interruptible(), clocks_fixed(fix_clocks, root) as clocks:
        if clocks is not None:
            about["clocks"] = clocks
        about["before"] = machine.sample()
        with sampled(root) as during:
            processes, versions = in_turns(parts, settings, Energy(machine))
        about["during"] = during
        about["after"] = machine.sample()
    result = {
        "kind": KIND,
        "format": FORMAT,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", started),
        "took_s": time.monotonic() - began,
        "bundle": parts["model"]["bundle"],
        "threads": settings["threads"],
        "settings": settings,
        "models": {
            part: dict(
                figures_of(processes[part], settings),
                bundle=parts[part]["bundle"],
                versions=versions[part],
                processes=processes[part],
            )
            for part in parts
        },
        "environment": about,
        "check": check,
    }
    if against_check is not None:
        result["against_check"] = against_check
    for other in parts:
        if other != "model":
            rounds = [[facts["rounds_ms"] for facts in processes[part]] for part in (other, "model")]
            result["ratio"] = dict(ratio(rounds[0], rounds[1], settings["equivalence"]), to=other)
    result["doubts"] = find(result)
    result["valid"] = all(doubt["severity"] != INVALID for doubt in result["doubts"])
    return result


def subjects(folder, against, alone):
    """What is timed, by part: its folder, the manifest's entry, and the bundle it is of."""
    manifest = read_manifest(folder)
    parts = {"model": {"folder": folder, "entry": "model", "bundle": about_bundle(manifest)}}
    if against:
        parts["against"] = {"folder": against, "entry": "model", "bundle": about_bundle(read_manifest(against))}
    elif not alone and part_is_here(folder, manifest, "baseline"):
        verify_baseline(folder, manifest["baseline"])
        bundle = dict(about_bundle(manifest), precision="original")
        parts["baseline"] = {"folder": folder, "entry": "baseline", "bundle": bundle}
    return parts


def about_bundle(manifest):
    return {key: manifest[key] for key in ("name", "version", "target", "precision", "device")}


def part_is_here(folder, manifest, part):
    entry = manifest.get(part)
    return bool(entry and entry.get("file") and os.path.isfile(os.path.join(folder, *entry["file"].split("/"))))


def verify_baseline(folder, entry):
    """The original does not go to the device, so SHA256SUMS does not list it; here a figure hangs on it."""
    if sha256(os.path.join(folder, *entry["file"].split("/"))) != entry.get("sha256"):
        raise HarnessError(50, "%s has been altered or damaged" % entry["file"], "copy or build the bundle again")


@contextmanager
def clocks_fixed(wanted, root):
    if not wanted:
        yield None
        return
    with FixedClocks(command("_clocks", root)) as clocks:
        yield clocks.report


@contextmanager
def sampled(root):
    """A list that holds, when the block is left, what another process saw of the machine about once a second."""
    samples = []
    with tempfile.TemporaryFile() as file:
        process = subprocess.Popen(
            command("_sample", root, str(os.getpid())), stdin=subprocess.PIPE, stdout=file, stderr=subprocess.DEVNULL
        )
        try:
            yield samples
        finally:
            process.stdin.close()
            process.wait()
        file.seek(0)
        samples += [json.loads(line.decode()) for line in file.read().splitlines()]


def in_turns(parts, settings, energy):
    """Pairs of processes, one after the other: facts of each by part, and versions by part."""
    processes, versions = {part: [] for part in parts}, {}
    for _ in range(settings["processes"]):
        for part, worker in time_pair(parts, settings, energy).items():
            processes[part].append(worker.facts)
            versions[part] = worker.versions
    return processes, versions


@contextmanager
def interruptible():
    try:
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def time_pair(parts, settings, energy):
    """One process a part, taking turns; the stopped workers with their facts."""
    share = settings["seconds"] / settings["processes"]
    fewest = -(-settings["min_runs"] // settings["processes"])
    shared = {key: settings[key] for key in ("threads", "batch", "concurrency")}
    shared["fallback"] = settings.get("allow_fallback")
    workers = {}
    try:
        for part, subject in parts.items():
            job = dict(shared, folder=subject["folder"], entry=subject["entry"], shapes=settings["input_shapes"])
            workers[part] = Worker(part, job)
        for worker in workers.values():
            worker.load()
        for worker in workers.values():
            worker.warm_up(min(max(WARM_UP_S[0], share / 2), WARM_UP_S[1]))
        take_turns(workers, share, fewest, energy)
    except BaseException:
        for worker in workers.values():
            worker.process.kill()  # it may be in the middle of a run
        raise
    finally:
        for worker in workers.values():
            worker.stop()
    return workers


def take_turns(workers, seconds, fewest, energy):
    """Rounds in which every worker runs for a moment, in alternating order, until each had its seconds and runs."""
    turn = max(TURN_S, seconds / 20)
    for worker in workers.values():
        worker.facts.update(rounds_ms=[], rounds_s=[])
    index = 0
    while index % 2 or not all(enough(worker.facts, seconds, fewest) for worker in workers.values()):
        for worker in list(workers.values())[:: 1 if index % 2 == 0 else -1]:
            start = energy.read()
            times, took = worker.run(turn)
            joules = energy.since(start)
            worker.facts["rounds_ms"].append(times)
            worker.facts["rounds_s"].append(round(took, 6))
            if joules is not None:
                worker.facts.setdefault("rounds_j", []).append(round(joules, 6))
        index += 1


def enough(facts, seconds, fewest):
    # A turn ends with the run that exceeds it, so the sum may fall short by rounding alone.
    return sum(facts["rounds_s"]) >= 0.999 * seconds and sum(map(len, facts["rounds_ms"])) >= fewest


def figures_of(processes, settings):
    """Percentiles over all runs of all processes, the typical process's median, and what a process costs."""
    runs = [run for facts in processes for turn in facts["rounds_ms"] for run in turn]
    figures = summary(runs)
    middle, low, high = typical([facts["rounds_ms"] for facts in processes])
    figures.update(median_ms=middle, median_low_ms=low, median_high_ms=high)
    took = sum(second for facts in processes for second in facts["rounds_s"])
    figures["throughput_per_s"] = settings["batch"] * len(runs) / took
    for key in ("load_ms", "first_inference_ms", "peak_memory_mb"):
        known = [facts[key] for facts in processes if facts.get(key) is not None]
        figures[key] = statistics.median(known) if known else None
    joules = [joule for facts in processes for joule in facts.get("rounds_j", [])]
    figures["joules"] = sum(joules) / len(runs) / settings["batch"] if joules else None
    return figures
