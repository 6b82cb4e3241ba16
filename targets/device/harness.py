"""Check, time and run a bundle on the device: python3 harness.py install | prepare | check | bench | run INPUT...

Copied into every bundle beside manifest.json and runner.py. Python 3.8 or newer, the standard library, numpy
and the bundle's runtime, nothing else. Results go to stdout (as JSON with --json), everything else to stderr.

Exit codes: 0 done, 2 usage, 22 an input cannot be read, 50 the bundle is incomplete or altered, 51 the model
answers wrongly, 52 the runtime is missing or fails, 55 this machine is not what the bundle was built for, 56 a
measurement that is not valid, 61 no space, 130 interrupted.
"""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
# Python puts this folder first: last, nothing that lies here by accident stands in for a real module.
sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry) != os.path.realpath(HERE)] + [HERE]

import argparse  # noqa: E402
import json  # noqa: E402
import time  # noqa: E402

try:
    from edgepack_device.bench import add_bench_flags, measure, print_bench, refuse_invalid
    from edgepack_device.border import by_name, encoded, restored
    from edgepack_device.clocks import keeper_main
    from edgepack_device.estimates import ratio  # noqa: F401
    from edgepack_device.figures import decibels, flat, relative_error, sqnr_db  # noqa: F401
    from edgepack_device.files import (  # noqa: F401
        FORMAT,
        SUMS,
        HarnessError,
        damage,
        default_threads,
        first_line,
        load_model,
        load_module,
        read_manifest,
        remarks_of,
        sha256,
        told,
    )
    from edgepack_device.golden_check import check
    from edgepack_device.machine import install, refuse_wrong_machine
    from edgepack_device.preparation import FALLBACK_HELP, prepare
    from edgepack_device.profiling import profile
    from edgepack_device.state import Stateful  # noqa: F401
    from edgepack_device.surroundings import sampler_main
    from edgepack_device.timing import interruptible
    from edgepack_device.words import print_check, print_install, print_prepare, print_run
    from edgepack_device.worker import worker_main
except ImportError as error:
    if __name__ != "__main__" or not (error.name or "").startswith("edgepack_device"):
        raise
    missing = error.name.replace(".", "/") + (".py" if "." in error.name else "")
    sys.stderr.write(
        "error: the bundle is incomplete: %s is missing or altered\nhint: copy the whole bundle\n" % missing
    )
    sys.exit(50)


def load(threads=None, allow_fallback=None):
    """The bundle's model, for a program of one's own: a callable from a dict of arrays to a dict of arrays.

    It takes and gives what `inputs` and `outputs` in the manifest say. A model with states keeps them between calls;
    its `reset()` begins a new sequence. `allow_fallback` names another runtime for where the bundle's own is missing.

    Raises:
        HarnessError: the bundle is incomplete, or its runtime is missing.
    """
    use_library()
    manifest = read_manifest(HERE)
    return load_model(HERE, manifest, "model", threads or default_threads(manifest), fallback=allow_fallback)[1]


def use_library(folder=HERE):
    """What `install` unpacked into a bundle comes first."""
    library = os.path.join(folder, "lib")
    if os.path.isdir(library) and library not in sys.path:
        sys.path.insert(0, library)


def read_inputs(folder, manifest, paths):
    """Feeds from .npz (arrays by input name), .npy (the only input) or images (preprocessed as in calibration).

    Real numbers for an input of integers become such; integers are taken as they are.
    """
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
                raise HarnessError(
                    2, "%s: this bundle takes .npz or .npy files" % path, "its inputs are in manifest.json"
                )
        except (HarnessError, ImportError):
            raise
        except Exception as error:  # zipfile, zlib, numpy and Pillow have many
            raise HarnessError(22, "%s cannot be read: %s" % (path, first_line(error)), "replace or remove it")
        missing = [name for name in names if name not in feed]
        if missing:
            raise HarnessError(22, "%s lacks the input %s" % (path, ", ".join(missing)), "name arrays like the inputs")
        for entry in manifest["inputs"]:
            array = np.asarray(feed[entry["name"]])
            if entry.get("quantization") and array.dtype.kind == "f":
                feed[entry["name"]] = encoded(entry, array)
                continue
            rule = "no" if entry.get("quantization") else "same_kind"
            if not np.can_cast(array.dtype, entry["dtype"], rule):
                words = "%s: %s is %s, not %s" % (path, entry["name"], array.dtype, entry["dtype"])
                raise HarnessError(22, words, "convert it first")
            feed[entry["name"]] = array.astype(entry["dtype"])
        yield path, feed


def run(folder, paths, out, threads, build_machine=False, fallback=None):
    import numpy as np

    manifest = read_manifest(folder)
    if not build_machine:
        refuse_wrong_machine(manifest)
    runner, model = load_model(folder, manifest, "model", threads or default_threads(manifest), fallback=fallback)
    labels, outputs = manifest.get("labels"), by_name(manifest["outputs"])
    results, saved = [], {}
    for index, (path, feed) in enumerate(read_inputs(folder, manifest, paths)):
        start = time.perf_counter()
        try:
            answer = model(feed)
        except Exception as error:
            words = "%s does not fit the model: %s" % (path, first_line(error))
            raise told(error, 22, words, "its inputs are in manifest.json")
        entry = {"input": path, "ms": (time.perf_counter() - start) * 1000, "outputs": {}}
        if remarks_of(runner):
            entry["remarks"] = remarks_of(runner)
        for name, given in answer.items():
            entry["outputs"][name] = {"shape": list(given.shape), "dtype": str(given.dtype)}
            array = restored(outputs.get(name, {}), given)
            if array.ndim == 2 and array.shape[0] == 1 and array.shape[1] > 1:
                best = np.argsort(-array[0], kind="stable")[:5]
                entry["outputs"][name]["top"] = [
                    {"class": int(i), "score": float(array[0][i]), "label": labels[i] if labels else None} for i in best
                ]
            elif array.size <= 16:
                entry["outputs"][name]["values"] = array.tolist()
            saved["%d/%s" % (index, name)] = given
        results.append(entry)
    if out:
        try:
            np.savez(out, **saved)
        except OSError as error:
            raise HarnessError(61, "%s cannot be written: %s" % (out, error.strerror), "choose another place for --out")
    return results


def looked_into(arguments):
    """Check, then profile; `edgepack bench --profile` makes sense of it."""
    settings = dict(arguments.settings)
    settings["threads"] = settings.get("threads") or default_threads(read_manifest(arguments.bundle))
    found = check(arguments.bundle, settings["threads"], arguments.build_machine, arguments.allow_fallback)
    return dict(profile(arguments.bundle, arguments.part, settings, HERE), check=found, threads=settings["threads"])


def parser():
    parse = argparse.ArgumentParser(prog="harness.py", description=__doc__.splitlines()[0])
    commands = parse.add_subparsers(dest="command", metavar="COMMAND")
    for name, text in (
        ("install", "unpack the bundle's wheels into its own lib/ folder"),
        ("prepare", "build what this machine needs to run it, once: TensorRT's engine"),
        ("check", "is the bundle whole, and does it answer as on the build machine?"),
        ("bench", "check, then time it"),
        ("run", "run it on .npz, .npy or image files"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("--json", action="store_true", help="print JSON")
        if name == "install":
            continue
        # Where it was built, a bundle runs whatever board it is for.
        command.add_argument("--build-machine", action="store_true", help=argparse.SUPPRESS)
        command.add_argument("--allow-fallback", metavar="RUNTIME", help=FALLBACK_HELP)
        if name == "prepare":
            command.add_argument("--again", action="store_true", help="even if it has been done")
        else:
            command.add_argument("--threads", type=int, help="threads (default: as built)")
        if name in ("prepare", "check"):
            command.add_argument("--bundle", default=HERE, help=argparse.SUPPRESS)
        if name == "bench":
            add_bench_flags(command, HERE)
        if name == "run":
            command.add_argument("inputs", nargs="+", metavar="INPUT")
            command.add_argument("--out", help="write the outputs to this .npz file")
    inner = commands.add_parser("_profile")
    inner.add_argument("--bundle", required=True)
    inner.add_argument("--part", default="model")
    inner.add_argument("--settings", type=json.loads, required=True)
    inner.add_argument("--allow-fallback")
    for flag in ("--json", "--build-machine"):
        inner.add_argument(flag, action="store_true")
    for name, names in (("_worker", ["job"]), ("_sample", ["root", "own"]), ("_clocks", ["root"])):
        inner = commands.add_parser(name)
        for argument in names:
            inner.add_argument(argument)
    return parse


def execute(arguments):
    if arguments.command == "install":
        report = install(HERE)
        printer = print_install
    elif arguments.command == "prepare":
        with interruptible():
            report = prepare(arguments.bundle, arguments.again, arguments.build_machine, arguments.allow_fallback)
        printer = print_prepare
    elif arguments.command == "check":
        report = check(arguments.bundle, arguments.threads, arguments.build_machine, arguments.allow_fallback)
        printer = print_check
    elif arguments.command == "bench":
        report = measure(arguments)
        printer = print_bench
        if not arguments.accept_doubts:
            refuse_invalid(report)
    elif arguments.command == "_profile":
        report = looked_into(arguments)
        printer = print
    else:
        named = arguments.allow_fallback
        report = run(HERE, arguments.inputs, arguments.out, arguments.threads, arguments.build_machine, named)
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
    job = json.loads(arguments.job) if arguments.command == "_worker" else {}
    use_library(job.get("folder") or getattr(arguments, "bundle", HERE))
    if arguments.command == "_worker":
        return worker_main(job)
    if arguments.command == "_sample":
        return sampler_main(arguments.root, int(arguments.own))
    if arguments.command == "_clocks":
        return keeper_main(arguments.root)
    try:
        try:
            return execute(arguments)
        except KeyboardInterrupt:
            raise HarnessError(130, "interrupted", "nothing was written")
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
