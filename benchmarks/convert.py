"""edgepack's .tflite files beside other converters': answers, accuracy, size, latency, reproducibly.

    python benchmarks/convert.py --model NAME=FOLDER [--model …] [--converters edgepack-float,onnx2tf] [--json FILE]

See benchmarks/README.md for the models, the converters, and what each figure means.
"""

from __future__ import annotations

import argparse
import shutil
from typing import Any

import quantize
from comparison.converters import CONVERTERS


def parser() -> argparse.ArgumentParser:
    parse = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    quantize.shared_flags(parse, "converters", CONVERTERS)
    parse.add_argument(
        "--seconds", type=float, default=6.0, help="how long each file is timed; 0 leaves it out (default 6)"
    )
    return parse


def main() -> None:
    arguments = parser().parse_args()
    from comparison import conversion, conversion_table
    from comparison.tasks import Task

    settings = quantize.settings_of(
        arguments, targets=("tflite",), threads=(1,), seconds=arguments.seconds, hint="f32", again=frozenset()
    )
    methods = [CONVERTERS[name] for name in quantize.chosen(arguments.converters, CONVERTERS)]
    again = quantize.chosen(arguments.again, CONVERTERS) if arguments.again else []

    def compared(task: Task) -> Any:
        for done in again:
            shutil.rmtree(task.work / "conversion" / done, ignore_errors=True)
        return conversion.compare(task, methods, settings)

    results = quantize.over_models(arguments, 0.0, compared, "ai-edge-litert")
    quantize.show(conversion_table.tables(results))


if __name__ == "__main__":
    main()
