"""edgepack's quantization beside other quantizers: accuracy, SQNR, size, latency, time and memory, reproducibly.

    python benchmarks/quantize.py --model NAME=FOLDER [--model …] [--methods float,ort,edgepack] [--json FILE]

See benchmarks/README.md for the models, the methods, and what each figure means.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comparison.methods import METHODS, TARGETS, edgepack_sources

if TYPE_CHECKING:
    from comparison import run
    from comparison.tasks import Task

FORMAT = 1
CACHE = Path("~/.cache/edgepack").expanduser()


def parser() -> argparse.ArgumentParser:
    parse = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    shared_flags(parse, "methods", METHODS)
    add = parse.add_argument
    add("--targets", default=",".join(TARGETS), metavar="NAMES", help="runtimes, of " + ", ".join(TARGETS))
    add(
        "--search-share",
        type=float,
        default=0.5,
        metavar="SHARE",
        help="of the labelled samples, for --max-drop to search on (default 0.5); 0 leaves edgepack-max-drop out",
    )
    add("--seconds", type=float, default=2.0, help="how long each file is timed; 0 leaves it out (default 2)")
    add("--threads", default=f"1,{os.cpu_count()}", help="thread counts to time with (default one and all)")
    add(
        "--openvino-hint",
        default="f32",
        metavar="TYPE",
        help="what OpenVINO calculates peers' float layers in (f32, as edgepack's; default: its own choice)",
    )
    add("--worker", nargs=2, metavar=("NAME", "REQUEST"), help=argparse.SUPPRESS)
    return parse


def shared_flags(parse: argparse.ArgumentParser, what: str, known: Iterable[str]) -> None:
    """Flags of every comparison over models: which of them, which of `known`, and where things lie."""
    add, names = parse.add_argument, list(known)
    add("--model", action="append", default=[], metavar="NAME=FOLDER", help="a folder of your own, besides --models")
    add("--models", metavar="NAMES", help="which of the prepared models; all if neither this nor --model is given")
    add("--models-folder", type=Path, default=CACHE / "benchmark-models", help="where models/prepare.py put them")
    add(f"--{what}", default=",".join(names), metavar="NAMES", help="of " + ", ".join(names))
    add("--samples", type=int, default=5000, help="reporting samples at most (default 5000)")
    add("--limit", type=float, default=3600.0, help="seconds after which a child is ended (default 3600)")
    add("--again", default="", metavar="NAMES", help=f"{what} to do again though they are in the cache")
    add("--cache", type=Path, default=CACHE / "benchmark", help="what was done is not done again")
    add("--envs", type=Path, default=CACHE / "peers", help="where the peers' environments are made")
    add("--json", type=Path, metavar="FILE", help="write everything measured")


def worker(name: str, request: str) -> None:
    """What a child process of this program does; it imports no more than that takes."""
    if name == "time":
        from comparison import latency

        latency.serve(request)
    else:
        from comparison import evaluate

        asked = json.loads(Path(request).read_text())
        Path(asked["answer"]).write_text(json.dumps(evaluate.run(asked)))


def folders(arguments: argparse.Namespace) -> dict[str, Path]:
    """Tasks by name."""
    own = {}
    for text in arguments.model:
        name, _, folder = text.partition("=")
        own[name] = Path(folder).resolve()
    if own and not arguments.models:
        return own
    prepared = {path.parent.name: path.parent for path in sorted(arguments.models_folder.glob("*/model.onnx"))}
    wanted = arguments.models.split(",") if arguments.models else list(prepared)
    missing = [name for name in wanted if name not in prepared]
    if missing or not wanted:
        words = ", ".join(missing) or "nothing"
        sys.exit(f"{words} not in {arguments.models_folder}: run `python benchmarks/models/prepare.py` first")
    return {name: prepared[name] for name in wanted} | own


def chosen(text: str, known: Any) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.exit(f"{unknown[0]} is not one of {', '.join(known)}")
    return names


def environment(*more: str) -> dict[str, Any]:
    """The machine, and the versions of what computes; `more` are further packages."""
    packages = ("edgepack", "numpy", "onnx", "onnxruntime", "openvino", *more)
    cpu = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": platform.machine(),
        "cpu": cpu[0] if cpu else platform.processor(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg(),  # what else ran; ours is about 1
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "edgepack_sources": edgepack_sources().hex()[:16],
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).is_file() else []


def settings_of(arguments: argparse.Namespace, **own: Any) -> run.Settings:
    """What the shared flags say, and what a comparison has of its `own`."""
    from comparison import run
    from rich.console import Console

    progress = Console(stderr=True, highlight=False)
    return run.Settings(
        limit=arguments.limit,
        envs=arguments.envs.expanduser().resolve(),
        say=lambda words: progress.print(f"{datetime.datetime.now():%H:%M:%S} {words}"),
        **own,
    )


def over_models(
    arguments: argparse.Namespace,
    search_share: float,
    compare: Callable[[Task], Any],
    *packages: str,
) -> list[Any]:
    """What `compare` finds of each model, written to --json too, with the versions of `packages` beside the usual."""
    from comparison.children import ChildFailed
    from comparison.tasks import open_task

    cache = arguments.cache.expanduser().resolve()
    results = []
    for name, folder in folders(arguments).items():
        try:
            results.append(compare(open_task(name, folder, cache, arguments.samples, search_share)))
        except (ChildFailed, ValueError, OSError) as error:
            sys.exit(f"{name}: {error}")
        if arguments.json:  # after each model, so that an interrupted run leaves what it has
            report = {"format": FORMAT, "environment": environment(*packages), "models": results}
            arguments.json.write_text(json.dumps(report, indent=1, ensure_ascii=False, default=str))
    return results


def show(tables: Any) -> None:
    """Print them, wide enough for every column where the output is no terminal."""
    from rich.console import Console

    Console(highlight=False, width=None if sys.stdout.isatty() else 220).print(tables)


def main() -> None:
    arguments = parser().parse_args()
    if arguments.worker:
        worker(*arguments.worker)
        return
    from comparison import run, table

    settings = settings_of(
        arguments,
        targets=tuple(chosen(arguments.targets, TARGETS)),
        threads=tuple(dict.fromkeys(int(count) for count in arguments.threads.split(","))),
        seconds=arguments.seconds,
        hint=None if arguments.openvino_hint == "default" else arguments.openvino_hint,
        again=frozenset(chosen(arguments.again, METHODS) if arguments.again else ()),
    )
    names = chosen(arguments.methods, METHODS)
    methods = [METHODS[name] for name in names if arguments.search_share or name != "edgepack-max-drop"]
    results = over_models(arguments, arguments.search_share, lambda task: run.compare(task, methods, settings))
    show(table.models(results))


if __name__ == "__main__":
    main()
