"""A process that holds one loaded model and times it on command, seen from both sides. Python 3.8."""

import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from contextlib import suppress

from edgepack_device.border import by_name, restored
from edgepack_device.feeds import feeds
from edgepack_device.files import HarnessError, first_line, golden, load_model, read_manifest, remarks_of, told
from edgepack_device.machine import peak_memory_mb

# Where harness.py and this package lie; not always in the bundle that is timed.
KIT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# Two windows in a row whose medians are this close have settled.
SETTLED = 0.02
WINDOW_S = 0.03


def command(name, *arguments):
    """The command that runs this harness anew, seeing exactly what this process sees."""
    # Python writes half a .pyc where the disk is full, and stumbles over it afterwards.
    flags = ["-B"] + (["-S", "-s"] if sys.flags.no_site else [])
    return [sys.executable] + flags + [os.path.join(KIT, "harness.py"), name] + list(arguments)


class Worker(object):
    """The side that commands. The process starts at once, and loads the model when told to.

    Args:
        part: what it times, for messages.
        job: `folder` and `entry` ("model" or "baseline"), `threads`, `batch`, `shapes`, `concurrency`, `fallback`.
    """

    def __init__(self, part, job):
        self.part = part
        self.process = subprocess.Popen(
            command("_worker", json.dumps(job)), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.facts = {}
        self.versions = {}

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

    def ask(self, **words):
        with suppress(OSError):  # if it died, what it said before that is still to be read
            self.process.stdin.write(json.dumps(words).encode() + b"\n")
            self.process.stdin.flush()
        return self.answer()

    def load(self):
        self.answer()
        answer = self.ask(load=True)
        self.versions = answer.pop("versions")
        self.facts = answer

    def run(self, seconds):
        """The milliseconds of each run, and the seconds that all of them took."""
        answer = self.ask(seconds=seconds)
        return answer["ms"], answer["s"]

    def warm_up(self, at_most):
        """Run until two windows in a row agree, or the seconds are up."""
        last, spent, runs, settled = None, 0.0, 0, False
        while spent < at_most and not settled:
            window, took = self.run(WINDOW_S)
            spent, runs, middle = spent + took, runs + len(window), statistics.median(window)
            settled = last is not None and abs(middle - last) < SETTLED * last
            last = middle
        self.facts["warm_up"] = {"runs": runs, "seconds": spent, "settled": settled}

    def stop(self):
        try:
            self.facts["peak_memory_mb"] = self.ask(stop=True)["peak_memory_mb"]
        except (OSError, HarnessError, ValueError, KeyError):
            self.process.kill()
        with suppress(OSError):
            self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def worker_main(job):
    """The side that obeys: a line of JSON in, a line of JSON out, until stdin ends."""
    # Ctrl-C reaches all processes of a terminal; what commands this one ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The runtime may print to stdout from native code; the protocol keeps a copy of its own.
    channel = os.fdopen(os.dup(1), "wb", 0)
    os.dup2(2, 1)

    def say(**message):
        with suppress(OSError):  # nobody listens any more; stdin has ended too
            channel.write(json.dumps(message).encode() + b"\n")

    try:
        manifest = read_manifest(job["folder"])
        fed = feeds(golden(job["folder"], "inputs"), manifest["inputs"], job["batch"], job["shapes"])
        if job["entry"] == "baseline":  # which takes real numbers
            entries = by_name(manifest["inputs"])
            fed = [{name: restored(entries[name], array) for name, array in feed.items()} for feed in fed]
        say(ready=True)
        callers = []
        for line in sys.stdin:
            words = json.loads(line)
            if words.get("stop"):
                elsewhere = callers and hasattr(callers[0].model, "timed")
                say(peak_memory_mb=None if elsewhere else peak_memory_mb())
                return 0
            if words.get("load"):
                facts, callers = load(job, manifest, fed)
                say(**facts)
                continue
            times, took = take_turn(callers, words["seconds"])
            # A tenth of a microsecond is finer than any clock here, and short to write.
            say(ms=[round(1000 * seconds, 4) for seconds in times], s=took)
    except HarnessError as error:
        say(code=error.code, error=error.message, hint=error.hint)
    except Exception as error:
        known = told(error, 52, "%s: %s" % (type(error).__name__, first_line(error)), "")
        say(code=known.code, error=known.message, hint=known.hint)
    return 0


def load(job, manifest, fed):
    """What loading and the first run took, and the callers: a model each, since few runtimes let two threads share."""
    start = time.perf_counter()
    runner, model = load_model(job["folder"], manifest, job["entry"], job["threads"], fallback=job["fallback"])
    loaded = time.perf_counter()
    try:
        model(fed[0])
    except Exception as error:
        if job["batch"] == 1 and not job["shapes"]:
            raise
        asked = "--batch %d" % job["batch"] if not job["shapes"] else "--input-shape"
        raise HarnessError(2, "the model does not take %s: %s" % (asked, first_line(error)), "its shapes are fixed")
    first = time.perf_counter()
    stateful = bool(manifest.get("state"))
    callers = [Caller(model, fed, 0, stateful)]
    for index in range(1, job["concurrency"]):
        _, another = load_model(job["folder"], manifest, job["entry"], job["threads"], fallback=job["fallback"])
        callers.append(Caller(another, fed, index, stateful))
    facts = {"load_ms": (loaded - start) * 1000, "first_inference_ms": (first - loaded) * 1000}
    if hasattr(model, "timed"):  # each turn starts a program that loads the model, and does not say how long that takes
        facts = {"load_ms": None, "first_inference_ms": None}
    if remarks_of(runner):
        facts["remarks"] = remarks_of(runner)
    return dict(facts, versions=runner.versions()), callers


class Caller(object):
    """A loaded model that runs one feed after the other; if it has states, a sequence begins with the first feed."""

    def __init__(self, model, fed, first, stateful=False):
        self.model, self.fed, self.turn, self.stateful = model, fed, first, stateful

    def run(self, seconds):
        """The seconds of each run, in a turn of so many seconds; one at least."""
        if hasattr(self.model, "timed"):  # a runtime that runs elsewhere, and times itself
            self.turn += 1
            return self.model.timed(self.fed[(self.turn - 1) % len(self.fed)], seconds)
        model, fed, turn, times, clock = self.model, self.fed, self.turn, [], time.perf_counter
        now = clock()
        end = now + seconds
        while now < end or not times:
            feed = fed[turn % len(fed)]
            if self.stateful and turn % len(fed) == 0:
                model.reset()
            turn += 1
            before = clock()
            model(feed)
            now = clock()
            times.append(now - before)
        self.turn = turn
        return times


def take_turn(callers, seconds):
    """The seconds of each run of all callers, at the same time, and the seconds that all of it took."""
    start = time.perf_counter()
    times = runs_of(callers, seconds)
    took = time.perf_counter() - start
    if hasattr(callers[0].model, "timed"):
        took = sum(times) / len(callers)
    return times, took


def runs_of(callers, seconds):
    if len(callers) == 1:
        return callers[0].run(seconds)
    times, errors = [], []

    def call(caller):
        try:
            times.extend(caller.run(seconds))
        except Exception as error:  # a thread's own would be printed and lost
            errors.append(error)

    threads = [threading.Thread(target=call, args=(caller,)) for caller in callers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return times
