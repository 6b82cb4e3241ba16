"""How far profiles are to be believed: operators' times beside a run's, and how much belongs to layers of the original.

    python benchmarks/profile.py BUNDLE…

prints a line a bundle: the operators' sum as a share of a run without the profiler, how much of that sum belongs to
layers of the original, and how many operators there are. The sum is also given as the profiler measured it, before
ONNX Runtime's is scaled. A sum that is off by more than 10 % is measured again, twice at most, and the last one shown.
"""

from __future__ import annotations

import argparse

from edgepack.measuring.profiling import profile

ATTEMPTS = 3


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parse.add_argument("bundles", nargs="+", metavar="BUNDLE")
    parse.add_argument("--seconds", type=float, default=3.0)
    parse.add_argument("--threads", type=int, default=1)
    arguments = parse.parse_args()
    print("bundle, a run, sum, sum before scaling, of layers, operators, Q/DQ, layout conversions, tries")
    for bundle in arguments.bundles:
        tries = 0
        while True:
            tries += 1
            found = profile(bundle, seconds=arguments.seconds, threads=arguments.threads)
            if abs(found["sum_ratio"] - 1) <= 0.1 or tries == ATTEMPTS:
                break
        total = found["operators_us"] or 1.0
        by_role = found["by_role_us"]
        print(
            f"{bundle.rstrip('/').rpartition('/')[2]:44} {found['end_to_end_us']:8.0f} µs {found['sum_ratio']:7.1%} "
            f"{found['measured_us'] / found['end_to_end_us']:8.1%} {found['coverage'] or 0:7.1%} "
            f"{len(found['operators']):4d} "
            f"{by_role['quantize'] / total:6.1%} {by_role['layout'] / total:6.1%}  {tries}",
            flush=True,
        )


if __name__ == "__main__":
    main()
