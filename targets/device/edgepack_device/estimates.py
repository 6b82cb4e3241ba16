"""What samples of latency tell: percentiles, intervals, a verdict, drift, modes. Python 3.8.

The process is the unit of every interval. Runs within one process are correlated, and a process has its own luck
with memory, caches and clocks, so a thousand runs of one process are one observation of that luck, not a thousand
(Kalibera and Jones, Rigorous Benchmarking in Reasonable Time, ISMM 2013). Each process gives one figure, and the
interval comes from the spread of these figures; whatever correlation there is within a process is then in it.
A percentile bootstrap over so few processes covers too little (Efron and Tibshirani, An Introduction to the
Bootstrap, 1993, ch. 13), hence order statistics, or Student's t below six; benchmarks/intervals.py holds them all
against simulated samples whose truth is known.
"""

import math
import statistics

LEVEL = 0.95
# Below this many processes no order statistics reach 95 %: both ends of five cover 93.75 %.
FEWEST_FOR_ORDER = 6
FASTER, SAME, SLOWER, UNCLEAR = "faster", "same", "slower", "unclear"


def summary(milliseconds):
    """Percentiles of latencies in milliseconds."""
    import numpy as np

    p50, p90, p95, p99 = np.percentile(milliseconds, [50, 90, 95, 99])
    return {
        "count": len(milliseconds),
        "mean_ms": float(np.mean(milliseconds)),
        "deviation_ms": float(np.std(milliseconds)),
        "p50_ms": float(p50),
        "p90_ms": float(p90),
        "p95_ms": float(p95),
        "p99_ms": float(p99),
        "min_ms": float(np.min(milliseconds)),
        "max_ms": float(np.max(milliseconds)),
    }


def typical(processes):
    """The typical process's median, with its 95 % interval: (middle, low, high).

    Args:
        processes: [process][round][run] in milliseconds.
    """
    medians = [math.log(statistics.median(run for turn in rounds for run in turn)) for rounds in processes]
    return tuple(math.exp(value) for value in interval(medians))


def ratio(other, model, equivalence=0.02):
    """How many times as fast as the other the model is, with a 95 % interval and a verdict.

    Both ran in each round, one right after the other, so that what slows the machine slows both: a pair of processes
    gives the median over its rounds of the ratio of medians.

    Args:
        other, model: [process][round][run] in milliseconds.
        equivalence: what counts as the same, 0.02 is 2 %.
    """
    pairs = [
        statistics.median(math.log(statistics.median(o) / statistics.median(m)) for o, m in zip(theirs, ours))
        for theirs, ours in zip(other, model)
    ]
    middle, low, high = (math.exp(value) for value in interval(pairs))
    return {
        "median": middle,
        "low": low,
        "high": high,
        "verdict": verdict(middle, low, high, equivalence),
        "equivalence": equivalence,
        "rounds": sum(len(rounds) for rounds in model),
        "processes": len(pairs),
    }


def verdict(middle, low, high, equivalence):
    """Faster or slower: the interval excludes 1, and the difference is beyond what counts as the same.
    Same: all of the interval lies within that. Else it is unclear, and more processes would tell."""
    margin = 1 + equivalence
    if low > 1 and middle > margin:
        return FASTER
    if high < 1 and middle < 1 / margin:
        return SLOWER
    if low >= 1 / margin and high <= margin:
        return SAME
    return UNCLEAR


def interval(values, level=LEVEL):
    """The middle of a few independent values, and an interval for it: (middle, low, high).

    From six on, the median and order statistics, interpolated between the two that enclose the level (Hettmansperger
    and Sheather, Confidence intervals based on interpolated order statistics, 1986): no distribution is assumed, and
    one process out of line does no harm. Below, the mean and Student's t. A single value has no interval.
    """
    values = sorted(values)
    count = len(values)
    if count >= FEWEST_FOR_ORDER:
        return order_interval(values, level)
    middle = statistics.mean(values)
    if count < 2:
        return middle, middle, middle
    half = t_quantile(0.5 + level / 2, count - 1) * statistics.stdev(values) / math.sqrt(count)
    return middle, middle - half, middle + half


def order_interval(values, level):
    """`values` are sorted, and there are at least six."""
    count = len(values)
    # The chance that the median lies between the k-th value and the k-th from the end.
    within, outside = [], 0.0
    for k in range(count // 2):
        outside += 2 * math.factorial(count) / (math.factorial(k) * math.factorial(count - k)) / 2.0**count
        within.append(1 - outside)
    rank = max(index for index, chance in enumerate(within) if chance >= level)
    inner = within[rank + 1] if rank + 1 < len(within) else 0.0
    share = (within[rank] - level) / (within[rank] - inner)
    d = rank + 1
    weight = (count - d) * share / (d + (count - 2 * d) * share)
    low = (1 - weight) * values[rank] + weight * values[rank + 1]
    high = (1 - weight) * values[-1 - rank] + weight * values[-2 - rank]
    return statistics.median(values), low, high


def drift(processes):
    """Log of how much longer runs take late than early, over all of the measurement; 0.0 unless it is beyond chance.

    Within processes: each one's last quarter of rounds against its first, by Student's t over the processes. Between
    them: the slope of their medians over their order. Each is held against a chance of 1 in 100.

    Args:
        processes: [process][round][run], in the order of time.
    """
    if len(processes) < 3:
        return 0.0
    middles = [[math.log(statistics.median(turn)) for turn in rounds] for rounds in processes]
    within = [
        statistics.mean(rounds[-max(1, len(rounds) // 4) :]) - statistics.mean(rounds[: max(1, len(rounds) // 4)])
        for rounds in middles
        if len(rounds) > 1
    ]
    found = [_beyond_chance(within), _trend([statistics.median(rounds) for rounds in middles])]
    return max(found, key=abs)


_CHANCE = 0.995


def _beyond_chance(values):
    """Their mean, if it is other than zero."""
    if len(values) < 3:
        return 0.0
    middle, error = statistics.mean(values), statistics.stdev(values) / math.sqrt(len(values))
    return middle if abs(middle) > t_quantile(_CHANCE, len(values) - 1) * error else 0.0


def _trend(values):
    """Last less first on the straight line through them, if its slope is other than zero."""
    count = len(values)
    if count < 4:
        return 0.0
    centre, middle = (count - 1) / 2.0, statistics.mean(values)
    spread = sum((index - centre) ** 2 for index in range(count))
    slope = sum((index - centre) * value for index, value in enumerate(values)) / spread
    rest = sum((value - middle - slope * (index - centre)) ** 2 for index, value in enumerate(values))
    error = math.sqrt(rest / (count - 2) / spread)
    return slope * (count - 1) if abs(slope) > t_quantile(_CHANCE, count - 2) * error else 0.0


def two_modes(milliseconds, bins=40):
    """The two places around which runs gather, and the share of the slower; None if there is one.

    Runs are split where the two sides' spread is least (Otsu 1979), on a log scale without the outermost 2 %. There
    are two modes if both hold a tenth of the runs, are 5 % apart, and a valley lies between them that is less than
    half as deep as the lower peak is high.
    """
    import numpy as np

    logs = np.sort(np.log(np.asarray(milliseconds, np.float64)))
    logs = logs[len(logs) // 100 : len(logs) - len(logs) // 100]
    count = len(logs)
    if count < 100:
        return None
    sums = np.cumsum(logs)
    left = np.arange(1, count)
    before, after = sums[:-1] / left, (sums[-1] - sums[:-1]) / (count - left)
    cut = int(np.argmax(left * (count - left) * (after - before) ** 2)) + 1
    fast, slow = float(np.median(logs[:cut])), float(np.median(logs[cut:]))
    share = 1 - cut / float(count)
    if not 0.1 <= share <= 0.9 or slow - fast < math.log(1.05):
        return None
    width = (slow - fast) / 5

    def density(where):
        return int(np.sum(np.abs(logs - where) < width / 2))

    valley = min(density(where) for where in np.linspace(fast, slow, bins))
    if valley > 0.5 * min(density(fast), density(slow)):
        return None
    return {"fast_ms": math.exp(fast), "slow_ms": math.exp(slow), "slow_share": share}


def t_quantile(chance, freedom):
    """Student's t: the value that is not exceeded with this chance, 0.5 to 1 (Hill, Algorithm 396, CACM 1970)."""
    both = 2 * (1 - chance)
    if freedom == 1:
        return 1 / math.tan(both * math.pi / 2)
    if freedom == 2:
        return math.sqrt(2 / (both * (2 - both)) - 2)
    n = float(freedom)
    a = 1 / (n - 0.5)
    b = 48 / a**2
    c = ((20700 * a / b - 98) * a - 16) * a + 96.36
    d = ((94.5 / (b + c) - 3) / b + 1) * math.sqrt(a * math.pi / 2) * n
    y = (d * both) ** (2 / n)
    if y > 0.05 + a:
        x = statistics.NormalDist().inv_cdf(both / 2)
        y = x**2
        if freedom < 5:
            c += 0.3 * (n - 4.5) * (x + 0.6)
        c = (((0.05 * d * x - 5) * x - 7) * x - 2) * x + b + c
        y = (((((0.4 * y + 6.3) * y + 36) * y + 94.5) / c - y - 3) / b + 1) * x
        y = math.expm1(a * y**2)
    else:
        y = ((1 / (((n + 6) / (n * y) - 0.089 * d - 0.822) * (n + 2) * 3) + 0.5 / (n + 4)) * y - 1) * (n + 1) / (
            n + 2
        ) + 1 / y
    return math.sqrt(n * y)
