"""Check, time and run a bundle on the device: python3 harness.py check | bench | run INPUT...

Copied into every bundle beside manifest.json and runner.py. Python 3.8 or newer, the standard library, numpy
and the bundle's runtime, nothing else. Results go to stdout (as JSON with --json), everything else to stderr.

Exit codes: 0 done, 2 usage, 22 an input cannot be read, 50 the bundle is incomplete or altered, 51 the model
answers wrongly, 52 the runtime is missing or fails.
"""

import argparse
import hashlib
import importlib.util
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time

FORMAT = 1
# Pairs of processes that a measurement is spread over.
PROCESSES = 3
HERE = os.path.dirname(os.path.abspath(__file__))
SUMS = "SHA256SUMS"
# What may lie beside the listed files: the float original for comparison, wheels unpacked for the device.
UNLISTED = {SUMS, "baseline", "lib", "__pycache__"}
# Two equal arrays have no error; a decibel figure needs a number all the same.
EXACT_DB = 200.0
# Above this, the rounding of float arithmetic moves the figure by more than a decibel from CPU to CPU.
FLOAT_NOISE_DB = 60.0


class HarnessError(Exception):
    def __init__(self, code, message, hint=""):
        super(HarnessError, self).__init__(message)
        self.code = code
        self.message = message
        self.hint = hint


# --- the bundle ------------------------------------------------------------------------------------------


def read_manifest(folder):
    try:
        with open(os.path.join(folder, "manifest.json"), encoding="utf-8") as file:
            manifest = json.load(file)
    except FileNotFoundError:
        raise HarnessError(50, "%s is no bundle: manifest.json is missing" % folder)
    except (ValueError, OSError) as error:
        raise HarnessError(50, "manifest.json cannot be read: %s" % error, "copy the bundle again")
    if not isinstance(manifest, dict) or not isinstance(manifest.get("format"), int):
        raise HarnessError(50, "manifest.json is not a bundle's manifest")
    if manifest["format"] > FORMAT:
        raise HarnessError(
            50,
            "the bundle has format %d, this harness reads up to %d" % (manifest["format"], FORMAT),
            "use the harness.py that came with the bundle",
        )
    return manifest


def verify_files(folder):
    """Compare every file with SHA256SUMS; an unlisted file is refused too, since Python would import it."""
    try:
        with open(os.path.join(folder, SUMS), encoding="utf-8") as file:
            lines = [line.rstrip("\n").split("  ", 1) for line in file if line.strip()]
        listed = {name: digest for digest, name in lines}
    except FileNotFoundError:
        raise HarnessError(50, "the bundle is incomplete: %s is missing" % SUMS, "copy the bundle again")
    except (ValueError, OSError):
        raise HarnessError(50, "%s cannot be read" % SUMS, "copy the bundle again")
    for name in sorted(listed):
        path = os.path.join(folder, *name.split("/"))
        if not os.path.isfile(path):
            raise HarnessError(50, "the bundle is incomplete: %s is missing" % name, "copy the bundle again")
        if sha256(path) != listed[name]:
            raise HarnessError(50, "%s has been altered or damaged" % name, "copy the bundle again")
    tops = {name.split("/", 1)[0] for name in listed} | UNLISTED
    for name in sorted(os.listdir(folder)):
        if name not in tops:
            raise HarnessError(50, "%s does not belong to the bundle" % name, "move it elsewhere")


def damage(folder):
    """What verify_files finds wrong, in words; empty if nothing."""
    try:
        verify_files(folder)
    except HarnessError as error:
        return error.message
    return ""


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def load_module(folder, name):
    spec = importlib.util.spec_from_file_location("edgepack_" + name, os.path.join(folder, name + ".py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_model(folder, manifest, part, threads):
    """Load the bundle's model ("model") or the float original beside it ("baseline") in the runtime."""
    try:
        runner = load_module(folder, "runner")
        path = os.path.join(folder, *manifest[part]["file"].split("/"))
        return runner, runner.load(path, threads)
    except ImportError as error:
        raise HarnessError(52, "%s" % error, "python3 -m pip install -r requirements.txt")
    except Exception as error:
        raise HarnessError(52, "%s cannot load the model: %s" % (manifest["target"], first_line(error)))


def golden(folder, which):
    """The golden arrays, one dict a sample; the file holds them as <sample>/<name>."""
    import numpy as np

    samples = {}
    with np.load(os.path.join(folder, "golden", which + ".npz"), allow_pickle=False) as arrays:
        for key in arrays.files:
            index, name = key.split("/", 1)
            samples.setdefault(int(index), {})[name] = arrays[key]
    return [samples[index] for index in sorted(samples)]


def default_threads(manifest):
    """Threads as asked for at build time, but no more than the cores that are here."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(manifest.get("threads") or cores, cores))


# --- figures ---------------------------------------------------------------------------------------------


def sqnr_db(reference, actual):
    """Signal to quantization noise ratio in dB over all elements; EXACT_DB where nothing differs."""
    import numpy as np

    reference = np.asarray(reference, np.float64)
    noise = float(np.sum((reference - np.asarray(actual, np.float64)) ** 2))
    signal = float(np.sum(reference**2))
    return decibels(signal, noise)


def decibels(signal, noise):
    """Ratio of two sums of squares in dB, within ±EXACT_DB."""
    if noise == 0:
        return EXACT_DB
    if signal == 0 or not math.isfinite(noise) or not math.isfinite(signal):
        return -EXACT_DB
    return max(-EXACT_DB, min(EXACT_DB, 10 * math.log10(signal / noise)))


def agreement(reference, actual):
    """Share of rows along the last axis whose largest element is the same one."""
    import numpy as np

    return float(np.mean(np.argmax(reference, axis=-1) == np.argmax(actual, axis=-1)))


def relative_error(reference, actual):
    """Largest difference over the largest magnitude of the reference."""
    import numpy as np

    reference = np.asarray(reference, np.float64)
    if reference.size == 0:
        return 0.0
    difference = float(np.max(np.abs(reference - np.asarray(actual, np.float64))))
    largest = float(np.max(np.abs(reference)))
    return difference / largest if largest > 0 else difference


def summary(milliseconds):
    """Percentiles of latencies in milliseconds."""
    import numpy as np

    p50, p90, p99 = np.percentile(milliseconds, [50, 90, 99])
    return {
        "count": len(milliseconds),
        "mean_ms": float(np.mean(milliseconds)),
        "p50_ms": float(p50),
        "p90_ms": float(p90),
        "p99_ms": float(p99),
        "min_ms": float(np.min(milliseconds)),
        "max_ms": float(np.max(milliseconds)),
        "throughput_per_s": 1000.0 / float(np.mean(milliseconds)),
    }


def ratio(baseline, model, seed=0):
    """How many times faster the model is, with a 95 % interval.

    Both ran in each round, one right after the other, so that what slows the machine slows both; the figure is the
    median over rounds of the ratio of medians. A process has its own luck with memory and caches, so the interval
    is a percentile bootstrap over pairs of processes, then over their rounds (Efron and Tibshirani, An Introduction
    to the Bootstrap, 1993; Kalibera and Jones, Rigorous Benchmarking in Reasonable Time, 2013).

    Args:
        baseline, model: [process][round][run] in milliseconds.
    """
    import numpy as np

    pairs = [
        np.array([statistics.median(b) / statistics.median(m) for b, m in zip(before, after)])
        for before, after in zip(baseline, model)
    ]
    random = np.random.default_rng(seed)
    medians = []
    for _ in range(1000):
        picked = [pairs[index] for index in random.integers(0, len(pairs), len(pairs))]
        medians.append(np.median(np.concatenate([random.choice(rounds, len(rounds)) for rounds in picked])))
    low, high = np.percentile(medians, [2.5, 97.5])
    return {
        "median": float(np.median(np.concatenate(pairs))),
        "low": float(low),
        "high": float(high),
        "rounds": sum(len(rounds) for rounds in pairs),
        "processes": len(pairs),
    }


# --- check -----------------------------------------------------------------------------------------------


def check(folder, threads=None):
    """Run the golden inputs and compare with what the build recorded.

    Two comparisons: with the bundle's own outputs as verified on the build machine (is this the same model?),
    and with the float original (is it as good as the build said?).

    Raises:
        HarnessError: 50 files, 51 outputs, 52 runtime.
    """
    manifest = read_manifest(folder)
    verify_files(folder)
    inputs = golden(folder, "inputs")
    check_preprocessing(folder, manifest, inputs)
    runner, model = load_model(folder, manifest, "model", threads or default_threads(manifest))
    try:
        answers = [model(feed) for feed in inputs]
    except Exception as error:
        raise HarnessError(52, "%s cannot run the model: %s" % (manifest["target"], first_line(error)))
    report = {"ok": True, "samples": len(answers), "versions": runner.versions(), "outputs": {}}
    expected, reference = golden(folder, "expected"), golden(folder, "reference")
    for output in manifest["golden"]["outputs"]:
        name = output["name"]
        actual = [answer[name] for answer in answers]
        wanted = [sample[name] for sample in expected]
        if [array.shape for array in actual] != [array.shape for array in wanted]:
            raise HarnessError(51, "output %s has another shape than on the build machine" % name)
        report["outputs"][name] = compare(output, flat(wanted), flat([s[name] for s in reference]), flat(actual))
    return report


def flat(arrays):
    import numpy as np

    return np.concatenate([np.asarray(array).reshape(-1) for array in arrays])


def compare(output, expected, reference, actual):
    """Hold one output, all samples in a row, against the manifest's tolerance for it."""
    import numpy as np

    name, tolerance = output["name"], output["tolerance"]
    figures = {"kind": tolerance["kind"]}
    if tolerance["kind"] == "exact":
        if not np.array_equal(expected, actual):
            raise HarnessError(
                51,
                "output %s differs from the build machine's in %d of %d values, and should not in any"
                % (name, int(np.sum(expected != actual)), actual.size),
            )
    elif tolerance["kind"] == "relative":
        figures["relative_error"] = relative_error(expected, actual)
        if not figures["relative_error"] <= tolerance["at_most"]:
            raise HarnessError(
                51,
                "output %s is off by %.1e of its range, at most %.0e is allowed"
                % (name, figures["relative_error"], tolerance["at_most"]),
            )
    else:
        figures["expected_sqnr_db"] = sqnr_db(expected, actual)
        if figures["expected_sqnr_db"] < tolerance["at_least_db"]:
            raise HarnessError(
                51,
                "output %s is %.1f dB from the build machine's, at least %.0f dB is needed"
                % (name, figures["expected_sqnr_db"], tolerance["at_least_db"]),
            )
    if output["reference_sqnr_db"] is not None:
        figures["reference_sqnr_db"] = sqnr_db(reference, actual)
        floor = min(output["reference_sqnr_db"], FLOAT_NOISE_DB) - 1.0
        if figures["reference_sqnr_db"] < floor:
            raise HarnessError(
                51,
                "output %s is %.1f dB from the float original, the build recorded %.1f dB"
                % (name, figures["reference_sqnr_db"], output["reference_sqnr_db"]),
            )
    return figures


def check_preprocessing(folder, manifest, inputs):
    """The first golden sample's own pixels must become exactly the first golden input."""
    import numpy as np

    spec = manifest.get("preprocess")
    if not spec or not spec.get("golden"):
        return
    with np.load(os.path.join(folder, "golden", "pixels.npz"), allow_pickle=False) as arrays:
        pixels = arrays["pixels"]
    made = load_module(folder, "preprocess").apply(pixels, spec)
    wanted = inputs[0][spec["input"]].reshape(made.shape)
    if relative_error(wanted, made) > 1e-5:
        raise HarnessError(51, "preprocessing gives other values here than on the build machine")


# --- bench -----------------------------------------------------------------------------------------------


def bench(folder, threads=None, seconds=2.0, parts=("model", "baseline")):
    """Time the model, and the float original where it is here, turn by turn, in several processes each."""
    manifest = read_manifest(folder)
    threads = threads or default_threads(manifest)
    parts = [part for part in parts if part_is_here(folder, manifest, part)]
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
            raise HarnessError(52, "the process that times %s died (exit code %s)" % (self.part, self.process.wait()))
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


def peak_memory_mb():
    """Peak resident memory of this process; VmHWM, since getrusage may report the parent's."""
    try:
        with open("/proc/self/status") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) / 1024.0
    except OSError:
        pass
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024.0 if sys.platform != "darwin" else 2.0**20)


def environment():
    """The machine, as far as it says."""
    import numpy as np

    model = ""
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.lower().startswith(("model name", "hardware")):
                    model = line.split(":", 1)[1].strip()
                    break
    except OSError:
        pass
    return {
        "machine": platform.machine(),
        "cpu": model,
        "cores": default_threads({}),
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


# --- run -------------------------------------------------------------------------------------------------


def read_inputs(folder, manifest, paths):
    """Feeds from .npz (arrays by input name), .npy (the only input) or images (preprocessed as in calibration)."""
    import numpy as np

    names = [entry["name"] for entry in manifest["inputs"]]
    for path in paths:
        try:
            if path.endswith(".npz"):
                with np.load(path, allow_pickle=False) as arrays:
                    feed = {name: arrays[name] for name in arrays.files if name in names}
            elif path.endswith(".npy"):
                feed = {names[0]: np.load(path, allow_pickle=False)}
            elif manifest.get("preprocess"):
                preprocess = load_module(folder, "preprocess")
                image = preprocess.apply(preprocess.decode(path), manifest["preprocess"])
                feed = {manifest["preprocess"]["input"]: image[None]}
            else:
                raise HarnessError(2, "%s: this bundle takes .npz or .npy files" % path)
        except (OSError, ValueError) as error:
            raise HarnessError(22, "%s cannot be read: %s" % (path, first_line(error)))
        missing = [name for name in names if name not in feed]
        if missing:
            raise HarnessError(22, "%s lacks the input %s" % (path, ", ".join(missing)))
        for entry in manifest["inputs"]:
            feed[entry["name"]] = np.asarray(feed[entry["name"]], entry["dtype"])
        yield path, feed


def run(folder, paths, out, threads):
    import numpy as np

    manifest = read_manifest(folder)
    _, model = load_model(folder, manifest, "model", threads or default_threads(manifest))
    labels = manifest.get("labels")
    results, saved = [], {}
    for index, (path, feed) in enumerate(read_inputs(folder, manifest, paths)):
        start = time.perf_counter()
        try:
            answer = model(feed)
        except Exception as error:
            raise HarnessError(22, "%s does not fit the model: %s" % (path, first_line(error)))
        entry = {"input": path, "ms": (time.perf_counter() - start) * 1000, "outputs": {}}
        for name, array in answer.items():
            entry["outputs"][name] = {"shape": list(array.shape), "dtype": str(array.dtype)}
            if array.ndim == 2 and array.shape[0] == 1 and array.shape[1] > 1:
                best = np.argsort(-array[0], kind="stable")[:5]
                entry["outputs"][name]["top"] = [
                    {"class": int(i), "score": float(array[0][i]), "label": labels[i] if labels else None} for i in best
                ]
            elif array.size <= 16:
                entry["outputs"][name]["values"] = array.tolist()
            saved["%d/%s" % (index, name)] = array
        results.append(entry)
    if out:
        np.savez(out, **saved)
    return results


# --- the command line ------------------------------------------------------------------------------------


def first_line(error):
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]


def print_check(report):
    print("ok: %d golden samples" % report["samples"])
    for name, figures in sorted(report["outputs"].items()):
        if figures["kind"] == "exact":
            words = "equal to the build machine's, bit by bit"
        elif figures["kind"] == "relative":
            words = "off by %.1e of its range" % figures["relative_error"]
        else:
            words = "%.1f dB from the build machine's" % figures["expected_sqnr_db"]
        if "reference_sqnr_db" in figures:
            words += ", %.1f dB from the float original" % figures["reference_sqnr_db"]
        print("  %s: %s" % (name, words))


def print_bench(result):
    print("%s %s, %d threads" % (result["bundle"]["target"], result["bundle"]["precision"], result["threads"]))
    for part, title in (("model", "this bundle"), ("baseline", "float original")):
        if part in result["models"]:
            m = result["models"][part]
            print(
                "  %-14s p50 %.3f  p90 %.3f  p99 %.3f  mean %.3f ms, %.0f/s, load %.0f ms, peak %.0f MB, %d runs"
                % (
                    title,
                    m["p50_ms"],
                    m["p90_ms"],
                    m["p99_ms"],
                    m["mean_ms"],
                    m["throughput_per_s"],
                    m["load_ms"],
                    m["peak_memory_mb"],
                    m["count"],
                )
            )
    if "ratio" in result:
        r = result["ratio"]
        print("  %.2f times as fast (95 %% interval %.2f to %.2f)" % (r["median"], r["low"], r["high"]))


def print_run(results):
    for entry in results:
        print("%s (%.1f ms)" % (entry["input"], entry["ms"]))
        for name, output in entry["outputs"].items():
            if "top" in output:
                for top in output["top"]:
                    print("  %8.4f  %s" % (top["score"], top["label"] or "class %d" % top["class"]))
            else:
                print("  %s %s %s" % (name, output["dtype"], output.get("values", output["shape"])))


def parser():
    parse = argparse.ArgumentParser(prog="harness.py", description=__doc__.splitlines()[0])
    commands = parse.add_subparsers(dest="command", metavar="COMMAND")
    for name, text in (
        ("check", "is the bundle whole, and does it answer as on the build machine?"),
        ("bench", "check, then time it"),
        ("run", "run it on .npz, .npy or image files"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("--threads", type=int, help="threads (default: as built)")
        command.add_argument("--json", action="store_true", help="print JSON")
        if name == "bench":
            command.add_argument("--seconds", type=float, default=2.0, help="time for each model (default 2)")
            command.add_argument("--alone", action="store_true", help="without the float original")
            command.add_argument("--unchecked", action="store_true", help=argparse.SUPPRESS)
        if name == "run":
            command.add_argument("inputs", nargs="+", metavar="INPUT")
            command.add_argument("--out", help="write the outputs to this .npz file")
    worker = commands.add_parser("_worker")
    worker.add_argument("part")
    worker.add_argument("threads", type=int)
    return parse


def execute(arguments):
    if arguments.command == "check":
        report = check(HERE, arguments.threads)
        printer = print_check
    elif arguments.command == "bench":
        checked = None if arguments.unchecked else check(HERE, arguments.threads)
        parts = ("model",) if arguments.alone else ("model", "baseline")
        report = bench(HERE, arguments.threads, arguments.seconds, parts)
        report["check"] = checked
        printer = print_bench
    else:
        report = run(HERE, arguments.inputs, arguments.out, arguments.threads)
        printer = print_run
    if arguments.json:
        json.dump(report, sys.stdout)
        sys.stdout.write("\n")
    else:
        printer(report)
    return 0


def main():
    arguments = parser().parse_args()
    if not arguments.command:
        parser().print_help()
        return 2
    sys.dont_write_bytecode = True
    library = os.path.join(HERE, "lib")
    if os.path.isdir(library):
        sys.path.insert(0, library)
    if arguments.command == "_worker":
        return worker_main(HERE, arguments.part, arguments.threads)
    try:
        return execute(arguments)
    except HarnessError as error:
        if getattr(arguments, "json", False):
            json.dump({"ok": False, "code": error.code, "error": error.message, "hint": error.hint}, sys.stdout)
            sys.stdout.write("\n")
        sys.stderr.write("error: %s\n" % error.message)
        if error.hint:
            sys.stderr.write("hint: %s\n" % error.hint)
        return error.code
    except ImportError as error:
        sys.stderr.write("error: %s\nhint: python3 -m pip install -r requirements.txt\n" % error)
        return 52


if __name__ == "__main__":
    sys.exit(main())
