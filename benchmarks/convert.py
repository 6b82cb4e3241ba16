"""edgepack's .tflite files beside other converters': answers, accuracy, size, latency, reproducibly.

    python benchmarks/convert.py --model NAME=FOLDER [--model …] [--converters edgepack-float,onnx2tf] [--json FILE]

See benchmarks/README.md for the models, the converters, and what each figure means.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shutil
import sys
from pathlib import Path

import quantize
from comparison.converters import CONVERTERS

FORMAT = 1


def parser() -> argparse.ArgumentParser:
    parse = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add = parse.add_argument
    add("--model", action="append", default=[], metavar="NAME=FOLDER", help="a folder of your own, besides --models")
    add("--models", metavar="NAMES", help="which of the prepared models; all if neither this nor --model is given")
    add("--models-folder", type=Path, default=quantize.CACHE / "benchmark-models", help="where prepare.py put them")
    add("--converters", default=",".join(CONVERTERS), metavar="NAMES", help="of " + ", ".join(CONVERTERS))
    add("--samples", type=int, default=5000, help="reporting samples at most (default 5000)")
    add("--seconds", type=float, default=6.0, help="how long each file is timed; 0 leaves it out (default 6)")
    add("--limit", type=float, default=3600.0, help="seconds after which a child is ended (default 3600)")
    add("--again", default="", metavar="NAMES", help="converters to do again though they are in the cache")
    add("--cache", type=Path, default=quantize.CACHE / "benchmark", help="what was done is not done again")
    add("--envs", type=Path, default=quantize.CACHE / "peers", help="where the peers' environments are made")
    add("--json", type=Path, metavar="FILE", help="write everything measured")
    return parse


def main() -> None:
    arguments = parser().parse_args()
    from comparison import conversion, conversion_table, run
    from comparison.children import ChildFailed
    from comparison.tasks import open_task
    from rich.console import Console

    progress = Console(stderr=True, highlight=False)
    settings = run.Settings(
        targets=("tflite",),
        threads=(1,),
        seconds=arguments.seconds,
        limit=arguments.limit,
        envs=arguments.envs.expanduser().resolve(),
        hint="f32",
        again=frozenset(),
        say=lambda words: progress.print(f"{datetime.datetime.now():%H:%M:%S} {words}"),
    )
    methods = [CONVERTERS[name] for name in quantize.chosen(arguments.converters, CONVERTERS)]
    again = quantize.chosen(arguments.again, CONVERTERS) if arguments.again else []
    cache = arguments.cache.expanduser().resolve()
    results = []
    for name, folder in quantize.folders(arguments).items():
        try:
            task = open_task(name, folder, cache, arguments.samples, search_share=0.0)
            for done in again:
                shutil.rmtree(task.work / "conversion" / done, ignore_errors=True)
            results.append(conversion.compare(task, methods, settings))
        except (ChildFailed, ValueError, OSError) as error:
            sys.exit(f"{name}: {error}")
        if arguments.json:  # after each model, so that an interrupted run leaves what it has
            report = {"format": FORMAT, "environment": quantize.environment("ai-edge-litert"), "models": results}
            arguments.json.write_text(json.dumps(report, indent=1, ensure_ascii=False, default=str))
    Console(highlight=False, width=None if sys.stdout.isatty() else 220).print(conversion_table.tables(results))


if __name__ == "__main__":
    main()
