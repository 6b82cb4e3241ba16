"""`harness.py bench`: its flags, the golden checks before it, and what it prints. Python 3.8."""

import argparse
import json
import subprocess

from edgepack_device.doubts import INVALID
from edgepack_device.files import HarnessError, default_threads, read_manifest
from edgepack_device.golden_check import check
from edgepack_device.timing import bench
from edgepack_device.worker import command


def add_bench_flags(parser, here):
    add = parser.add_argument
    add("--against", metavar="FOLDER", help="compare with another bundle instead of the float original")
    add("--alone", action="store_true", help="compare with nothing")
    add("--seconds", type=float, default=5.0, help="time for each model (default 5)")
    add("--processes", type=int, default=10, help="processes of each model (default 10)")
    add("--min-runs", type=int, default=50, help="runs of each model at least (default 50)")
    add("--batch", type=int, default=1, help="samples a run (default 1)")
    add("--concurrency", type=int, default=1, help="callers at the same time, each with a model (default 1)")
    add("--equivalence", type=float, default=0.02, help="what counts as the same (default 0.02)")
    add("--input-shapes", type=json.loads, default={}, metavar="JSON", help='as in {"x": [1, 3, 320, 320]}')
    add("--accept-doubts", action="store_true", help="keep a measurement that is not valid")
    add("--fix-clocks", action="store_true", help="governor performance while it runs, then as it was")
    # Another tree than / for /sys, /proc and the board's programs; a bundle elsewhere than where this file lies.
    for hidden in ("--root", "--bundle"):
        add(hidden, default="/" if hidden == "--root" else here, help=argparse.SUPPRESS)
    add("--unchecked", action="store_true", help=argparse.SUPPRESS)


def measure(arguments):
    """Check, then time; with --accept-doubts even what answers wrongly."""
    manifest = read_manifest(arguments.bundle)
    settings = {
        "threads": arguments.threads or default_threads(manifest),
        "batch": arguments.batch,
        "concurrency": arguments.concurrency,
        "input_shapes": arguments.input_shapes,
        "seconds": arguments.seconds,
        "min_runs": arguments.min_runs,
        "processes": arguments.processes,
        "equivalence": arguments.equivalence,
    }
    if arguments.allow_fallback:
        settings["allow_fallback"] = arguments.allow_fallback
    for name in ("threads", "batch", "concurrency", "processes"):
        if not settings[name] > 0:
            raise HarnessError(2, "--%s should be positive" % name, "leave it out for what is usual")
    if not settings["seconds"] >= 0:
        raise HarnessError(2, "--seconds should not be negative", "leave it out for what is usual")
    checks = [None, None]
    if not arguments.unchecked:
        checks = [
            checked(arguments, lambda: check_here(arguments)),
            checked(arguments, lambda: check_elsewhere(arguments)) if arguments.against else None,
        ]
    return bench(
        arguments.bundle,
        settings,
        against=arguments.against,
        alone=arguments.alone,
        root=arguments.root,
        fix_clocks=arguments.fix_clocks,
        check=checks[0],
        against_check=checks[1],
    )


def check_here(arguments):
    return check(arguments.bundle, arguments.threads, arguments.build_machine, arguments.allow_fallback)


def checked(arguments, look):
    try:
        return look()
    except HarnessError as error:
        if error.code != 51 or not arguments.accept_doubts:
            raise
        return {"ok": False, "error": error.message}


def check_elsewhere(arguments):
    """The other bundle's check, in a process of its own: its runtime may be another, or another version."""
    flags = ["--bundle", arguments.against, "--json"] + (["--build-machine"] if arguments.build_machine else [])
    flags += ["--threads", str(arguments.threads)] if arguments.threads else []
    flags += ["--allow-fallback", arguments.allow_fallback] if arguments.allow_fallback else []
    done = subprocess.run(
        command("check", *flags), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        report = json.loads(done.stdout.decode())
    except ValueError:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["it says nothing"]
        raise HarnessError(52, "the other bundle cannot be checked: %s" % lines[-1], "check it alone")
    if not report["ok"]:
        raise HarnessError(report["code"], "%s: %s" % (arguments.against, report["error"]), report["hint"])
    return report


def refuse_invalid(result):
    """
    Raises:
        HarnessError: 56, the measurement is not valid; it names what makes it so.
    """
    # A fallback was allowed by name: its measurement is marked, and kept.
    worst = [doubt for doubt in result["doubts"] if doubt["severity"] == INVALID and doubt["name"] != "fallback"]
    if worst:
        words, advice = "; ".join(doubt["words"] for doubt in worst), worst[0]["advice"]
        raise HarnessError(56, "not valid: %s" % words, "%s; --accept-doubts keeps it, marked" % advice)


def print_bench(result):
    about = result["bundle"]
    print("%s %s %s, %d threads" % (about["name"], about["target"], about["precision"], result["threads"]))
    for part, title in (("model", "this bundle"), ("baseline", "float original"), ("against", "the other bundle")):
        if part in result["models"]:
            m = result["models"][part]
            print(
                "  %-16s median %.3f ms (%.3f to %.3f)  p90 %.3f  p99 %.3f  max %.3f  %.0f/s  load %s, %d runs"
                % (
                    title,
                    m["median_ms"],
                    m["median_low_ms"],
                    m["median_high_ms"],
                    m["p90_ms"],
                    m["p99_ms"],
                    m["max_ms"],
                    m["throughput_per_s"],
                    "unknown" if m["load_ms"] is None else "%.0f ms" % m["load_ms"],
                    m["count"],
                )
            )
    if "ratio" in result:
        r = result["ratio"]
        words = "  %s: %.3f times as fast (95 %% interval %.3f to %.3f)"
        print(words % (r["verdict"], r["median"], r["low"], r["high"]))
    for doubt in result["doubts"]:
        print("  ! %s\n    %s" % (doubt["words"], doubt["advice"]))
