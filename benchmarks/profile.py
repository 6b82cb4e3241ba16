"""How far profiles are to be believed: operators' times beside a run's, and how much belongs to layers of the original.

    python benchmarks/profile.py BUNDLE…

prints a line a bundle, as shares of a run without the profiler: the operators' sum, the same with what the call takes
outside the runtime, and the sum as the profiler itself gave it, before anything was taken off, added or scaled; by how
much it was scaled; how much of the sum belongs to layers of the original, and how many operators there are. What is
off by more than 10 % with the call is measured again, twice at most, and the last one shown.
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
    print(
        "bundle, a run, sum, with the call, raw sum, scaled by, of layers, operators, Q/DQ, layout conversions, tries"
    )
    for bundle in arguments.bundles:
        tries = 0
        while True:
            tries += 1
            found = profile(bundle, seconds=arguments.seconds, threads=arguments.threads)
            if abs(found["accounted"] - 1) <= 0.1 or tries == ATTEMPTS:
                break
        total = found["operators_us"] or 1.0
        by_role = found["by_role_us"]
        print(
            f"{bundle.rstrip('/').rpartition('/')[2]:44} {found['end_to_end_us']:8.0f} µs {found['sum_ratio']:7.1%} "
            f"{found['accounted']:7.1%} {found['raw_us'] / found['end_to_end_us']:8.1%} {found['scaled'] or 1:5.2f} "
            f"{found['coverage'] or 0:7.1%} "
            f"{len(found['operators']):4d} "
            f"{by_role['quantize'] / total:6.1%} {by_role['layout'] / total:6.1%}  {tries}",
            flush=True,
        )


if __name__ == "__main__":
    main()
