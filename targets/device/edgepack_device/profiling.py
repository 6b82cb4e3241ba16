"""What each operator of a bundle's model takes, by its runtime's own profiler. Python 3.8.

The runtime's part is profiler.py, which lies beside this edgepack's runner.py in the folder `runtime`, and the models
that this machine's peak is measured with lie in `peak`.
"""

import os
import tempfile
import time

from edgepack_device.feeds import feeds
from edgepack_device.files import HarnessError, first_line, golden, load_module, read_manifest
from edgepack_device.state import Stateful
from edgepack_device.surroundings import Surroundings
from edgepack_device.timing import about_bundle, part_is_here, verify_baseline

TURN_S = 0.02
FEWEST_TURNS, MOST_TURNS = 10, 2000
# Cold runs before anything is kept.
WARM_UP = 5
PEAK_S = 0.4
# How long a runtime that does not say what a call takes outside it is asked.
OUTSIDE_S = 0.5
# A sum this far above a run without the profiler is the profiler's doing.
BEYOND = 1.1
# Scaled by less than this, what the profiler adds is more than what it measures.
ROUGH = 0.5


def profile(folder, part, settings, kit, root="/"):
    """Times by operator as the runtime names them, the same model's without a profiler, and the machine's peak.

    Args:
        part: "model" or "baseline".
        settings: `threads`, `seconds`, and `peaks`: file, macs and precision of the models to measure the peak with.
        kit: where harness.py lies.

    Raises:
        HarnessError: 52, the runtime has no profiler here or fails.
    """
    manifest = read_manifest(folder)
    if part != "model":
        if not part_is_here(folder, manifest, part):
            raise HarnessError(2, "the bundle holds no float original", "give the folder, not the archive")
        verify_baseline(folder, manifest[part])
    place = os.path.join(kit, "runtime")
    path = os.path.join(folder, *manifest[part]["file"].split("/"))
    feed = feeds(golden(folder, "inputs"), manifest["inputs"])[0]
    if manifest.get("state"):
        feed = Stateful(None, manifest["state"], manifest["inputs"]).fed(feed)  # the first call of a sequence
    started, machine = time.gmtime(), Surroundings(root)
    about = machine.about()
    about["before"] = machine.sample()
    try:
        runner, profiler = load_module(place, "runner"), load_module(place, "profiler")
        with tempfile.TemporaryDirectory() as scratch:
            found = turns(runner, profiler, path, feed, settings, scratch)
        found["peaks"] = [
            peak(runner, os.path.join(kit, "peak"), one, settings["threads"]) for one in settings["peaks"]
        ]
    except ImportError as error:
        raise HarnessError(52, "%s" % error, "python3 -m pip install -r requirements.txt")
    except Exception as error:
        words = "%s cannot profile the model: %s" % (manifest["target"], first_line(error))
        raise HarnessError(52, words, "bench times it without --profile")
    about["after"] = machine.sample()
    found.update(
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", started),
        bundle=dict(about_bundle(manifest), **({} if part == "model" else {"precision": "original"})),
        shapes={name: list(array.shape) for name, array in feed.items()},
        versions=runner.versions(),
        environment=about,
    )
    return found


def turns(runner, profiler, path, feed, settings, scratch):
    """Runs with and without the profiler in turns, and of both what the quietest quarter of them took."""
    plain = runner.load(path, settings["threads"])
    watched = profiler.Profile(runner, path, settings["threads"], scratch)
    for _ in range(WARM_UP):
        plain(feed)
        watched.turn(feed, 0.0)
    probed, outside = getattr(watched, "probe", None), getattr(watched, "outside", None)
    times, count, clock = [], 0, time.perf_counter
    end = clock() + settings["seconds"]
    while (clock() < end or count < FEWEST_TURNS) and count < MOST_TURNS:
        until = clock() + TURN_S
        while clock() < until or not times:
            start = clock()
            plain(feed)
            times.append(clock() - start)
        until = clock() + TURN_S
        while True:
            watched.turn(feed, TURN_S)
            count += 1
            if clock() >= until:
                break
    if probed is not None:
        probed()
    found = watched.result()
    counted = found.pop("turns")[WARM_UP:]
    kept = quiet(counted)
    runs = float(sum(turn["runs"] for turn in kept))
    for index, operator in enumerate(found["operators"]):
        micros = sum(turn["us"][index] * turn["runs"] for turn in kept) / runs
        # What the profiler itself adds to an operator's time, where it does; as often as the operator ran.
        ran = sum(turn["runs"] for turn in kept if turn["us"][index]) / runs
        operator["us"] = max(0.0, micros - ran * operator.get("added_us", 0.0))
    times = sorted(times)[: max(1, len(times) // 4)]
    end_to_end = 1e6 * sum(times) / len(times)
    measured = sum(operator["us"] for operator in found["operators"])
    if outside is not None:
        call = outside(feed, OUTSIDE_S)
    else:
        least = sorted(turn["outside_us"] for turn in counted)[: len(kept)]
        call = sum(least) / len(least)
    call = min(max(0.0, call), end_to_end)
    raw = sum(turn["raw_us"] * turn["runs"] for turn in kept) / runs
    found.update(runs=int(runs), end_to_end_us=end_to_end, call_us=call, raw_us=raw, measured_us=measured)
    found.setdefault("notes", [])
    inside = end_to_end - call
    if found.pop("slows", False) or measured > BEYOND * inside:
        scale(found, inside)
    return found


def scale(found, inside):
    """Scale what a profiler measured that slows what it measures, to what a run takes without it; marked as such."""
    measured = found["measured_us"]
    if measured <= inside or inside <= 0:
        return
    for operator in found["operators"]:
        operator["us"] *= inside / measured
    found["scaled"] = inside / measured
    words = (
        "estimated: operators came to %.0f µs under the profiler, which slows them, in a run of %.0f µs without it; "
    )
    words = (words + "their times are scaled by %.2f to what that spends in the runtime") % (
        measured,
        found["end_to_end_us"],
        found["scaled"],
    )
    if found["scaled"] < ROUGH:
        words += "; so far apart that shares are rough, and too large for short operators"
    found["notes"].append(words)


def quiet(all_turns):
    """The quarter that took least: what else runs on the machine only adds."""
    ordered = sorted(all_turns, key=lambda turn: sum(turn["us"]))
    return ordered[: max(1, len(ordered) // 4)]


def peak(runner, place, one, threads):
    """The most operations a second of a large product or convolution in this runtime, in GOPS; None if it fails."""
    import numpy as np

    try:
        model = runner.load(os.path.join(place, one["file"]), threads)
        data = np.random.RandomState(0).uniform(-1, 1, one["shape"]).astype(np.float32)
        best, end = None, time.perf_counter() + PEAK_S
        model({"x": data})
        while best is None or time.perf_counter() < end:
            start = time.perf_counter()
            model({"x": data})
            took = time.perf_counter() - start
            best = took if best is None else min(best, took)
    except Exception:  # a precision that this runtime does not have here
        return dict(one, gops=None)
    return dict(one, gops=2e-9 * one["macs"] / best)
