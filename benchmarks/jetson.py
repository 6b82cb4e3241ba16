"""edgepack's graphs for TensorRT beside modelopt's and ONNX Runtime's: accuracy, pairs placed, rules broken.

    python benchmarks/jetson.py --model NAME=FOLDER [--model …] [--quantizers edgepack-int8,modelopt] [--json FILE]

See benchmarks/README.md for the models, the quantizers, and what each figure means.
"""

from __future__ import annotations

import argparse
import shutil
from typing import Any

import quantize
from comparison.jetson import QUANTIZERS


def parser() -> argparse.ArgumentParser:
    parse = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    quantize.shared_flags(parse, "quantizers", QUANTIZERS)
    parse.add_argument("--markdown", action="store_true", help="print Markdown")
    return parse


def main() -> None:
    arguments = parser().parse_args()
    from comparison import qdq, qdq_table
    from comparison.tasks import Task

    settings = quantize.settings_of(
        arguments, targets=("tensorrt",), threads=(), seconds=0.0, hint=None, again=frozenset()
    )
    methods = [QUANTIZERS[name] for name in quantize.chosen(arguments.quantizers, QUANTIZERS)]
    again = quantize.chosen(arguments.again, QUANTIZERS) if arguments.again else []

    def compared(task: Task) -> Any:
        for done in again:
            shutil.rmtree(task.work / "jetson" / done, ignore_errors=True)
        return qdq.compare(task, methods, settings)

    results = quantize.over_models(arguments, 0.0, compared)
    if arguments.markdown:
        print(qdq_table.markdown(results))
        return
    quantize.show(qdq_table.tables(results))


if __name__ == "__main__":
    main()
