"""edgepack's graphs for TensorRT beside modelopt's and ONNX Runtime's: accuracy, pairs placed, rules broken.

    python benchmarks/jetson.py --model NAME=FOLDER [--model …] [--quantizers edgepack-int8,modelopt] [--json FILE]

See benchmarks/README.md for the models, the quantizers, and what each figure means.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shutil
import sys
from pathlib import Path

import quantize
from comparison.jetson import QUANTIZERS

FORMAT = 1


def parser() -> argparse.ArgumentParser:
    parse = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add = parse.add_argument
    add("--model", action="append", default=[], metavar="NAME=FOLDER", help="a folder of your own, besides --models")
    add("--models", metavar="NAMES", help="which of the prepared models; all if neither this nor --model is given")
    add("--models-folder", type=Path, default=quantize.CACHE / "benchmark-models", help="where prepare.py put them")
    add("--quantizers", default=",".join(QUANTIZERS), metavar="NAMES", help="of " + ", ".join(QUANTIZERS))
    add("--samples", type=int, default=5000, help="reporting samples at most (default 5000)")
    add("--limit", type=float, default=3600.0, help="seconds after which a child is ended (default 3600)")
    add("--again", default="", metavar="NAMES", help="quantizers to do again though they are in the cache")
    add("--cache", type=Path, default=quantize.CACHE / "benchmark", help="what was done is not done again")
    add("--envs", type=Path, default=quantize.CACHE / "peers", help="where the peers' environments are made")
    add("--json", type=Path, metavar="FILE", help="write everything measured")
    add("--markdown", action="store_true", help="print Markdown")
    return parse


def main() -> None:
    arguments = parser().parse_args()
    from comparison import qdq, qdq_table, run
    from comparison.children import ChildFailed
    from comparison.tasks import open_task
    from rich.console import Console

    progress = Console(stderr=True, highlight=False)
    settings = run.Settings(
        targets=("tensorrt",),
        threads=(),
        seconds=0.0,
        limit=arguments.limit,
        envs=arguments.envs.expanduser().resolve(),
        hint=None,
        again=frozenset(),
        say=lambda words: progress.print(f"{datetime.datetime.now():%H:%M:%S} {words}"),
    )
    methods = [QUANTIZERS[name] for name in quantize.chosen(arguments.quantizers, QUANTIZERS)]
    again = quantize.chosen(arguments.again, QUANTIZERS) if arguments.again else []
    cache = arguments.cache.expanduser().resolve()
    results = []
    for name, folder in quantize.folders(arguments).items():
        try:
            task = open_task(name, folder, cache, arguments.samples, search_share=0.0)
            for done in again:
                shutil.rmtree(task.work / "jetson" / done, ignore_errors=True)
            results.append(qdq.compare(task, methods, settings))
        except (ChildFailed, ValueError, OSError) as error:
            sys.exit(f"{name}: {error}")
        if arguments.json:  # after each model, so that an interrupted run leaves what it has
            report = {"format": FORMAT, "environment": quantize.environment(), "models": results}
            arguments.json.write_text(json.dumps(report, indent=1, ensure_ascii=False, default=str))
    if arguments.markdown:
        print(qdq_table.markdown(results))
        return
    Console(highlight=False, width=None if sys.stdout.isatty() else 220).print(qdq_table.tables(results))


if __name__ == "__main__":
    main()
