"""2:4 sparsity without training: accuracy by how mask and weights come about.

    python benchmarks/pattern.py --model NAME=FOLDER [--model …] [--json FILE]

Folders and judging are those of prune.py: all evaluation samples, paired differences with one standard error. Methods:

- `obs`: edgepack's (edgepack/pruning/sparse.py).
- `magnitude`: the two largest of every four, nothing else; `magnitude refitted`: the same mask, the kept weights fitted
  as edgepack does.
- `compensated`: one pass of compensation and a corrected bias, much as SparseGPT does.

Every mask is verified by counting zeros in the model that is judged.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from pruning_task import Task

from edgepack.pruning.sparse import METHODS, is_sparse, two_of_four
from edgepack.reference import Session


def rows(task: Task, methods: list[str]) -> list[dict[str, Any]]:
    found = []
    for method in methods:
        start = time.perf_counter()
        made = two_of_four(task.model, task.samples, method=method)
        seconds = time.perf_counter() - start
        nodes = {node.outputs[0].name: node for node in made.model.ir.graph}
        row = {
            "model": task.name, "method": method, "seconds": seconds, **task.judged(Session(made.model).run),
            "layers": len(made.report.layers), "dense": len(made.report.left_dense), "narrow": made.report.narrow,
            "share": made.report.share, "verified": all(is_sparse(nodes[one]) for one in made.report.layers),
        }  # fmt: skip
        found.append(row)
        print(
            f"{task.name:24} {method:20} {row['accuracy']:6.2f} %  {row['difference']:+7.2f} ± {row['error']:.2f}  "
            f"agrees {row['agreement']:6.2f} %  {seconds:5.0f} s  mask {'verified' if row['verified'] else 'WRONG'}",
            flush=True,
        )
    return found


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parse.add_argument("--model", action="append", required=True, metavar="NAME=FOLDER")
    parse.add_argument("--methods", default=",".join(METHODS))
    parse.add_argument("--json", type=Path)
    asked = parse.parse_args()
    found = []
    for text in asked.model:
        name, _, folder = text.partition("=")
        task = Task(name, Path(folder))
        print(f"{name}: original {100 * task.right.mean():.2f} %, {len(task.x)} samples", flush=True)
        found += rows(task, asked.methods.split(","))
    if asked.json:
        told = [{key: value for key, value in row.items() if key != "changes"} for row in found]
        asked.json.write_text(json.dumps({"format": 1, "rows": told}, indent=1))


if __name__ == "__main__":
    main()
