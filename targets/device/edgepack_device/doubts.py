"""Why a measurement may not say what it seems to: values with advice, not warnings in passing. Python 3.8."""

import math

from edgepack_device.estimates import drift, two_modes

INVALID, NOTE = "invalid", "note"
# The Raspberry Pi's bits: what is so now, and 16 higher what was so since the start.
PI_UNDER_VOLTAGE, PI_SLOWED, PI_SINCE_START = 0x1, 0x2 | 0x4 | 0x8, 16
LARGEST_MOVE = 0.05
LARGEST_RISE = 5.0
LARGEST_DRIFT = 0.02
LARGEST_HALF_WIDTH = 0.05
# CPUs in use by others, at most; or this share of all.
BUSY, BUSY_SHARE = 0.2, 0.05
# p99 of fewer runs is the slowest or so.
FEWEST_RUNS = 100
FEWEST_PROCESSES = 3
CALLED = {"model": "this bundle", "baseline": "the float original", "against": "the other bundle"}
STEADY_GOVERNORS = ("performance", "userspace")


def find(result):
    """The doubts about a measurement (docs/measurement.md), the worst first."""
    environment = result["environment"]
    found = list(of_the_machine(environment))
    for part, figures in result["models"].items():
        found += of_the_samples(part, figures)
        found += of_the_runtime(part, figures)
    for check in (result.get("check"), result.get("against_check")):
        if check and check["ok"] is False:
            found.append(doubt("wrong_output", INVALID, check["error"], "do not use it; `harness.py check` says more"))
    return ordered(found)


def of_the_runtime(part, figures):
    """What the runner itself said of what it ran in."""
    for remark in figures["processes"][0].get("remarks", []):
        yield dict(remark, words="%s: %s" % (CALLED[part], remark["words"]))


def ordered(found):
    return sorted(found, key=lambda entry: entry["severity"] != INVALID)


def doubt(name, severity, words, advice, **figures):
    return {"name": name, "severity": severity, "words": words, "advice": advice, "figures": figures}


def emulated():
    return doubt(
        "emulated", INVALID, "the board is emulated: times mean nothing", "measure on the device; `check` works here"
    )


def of_the_machine(environment):
    if environment["emulated"]:
        yield emulated()
    samples = [environment["before"]] + environment["during"] + [environment["after"]]
    during = environment["during"] or [environment["after"]]
    for part in (raspberry_pi, slowed_by_itself, low_voltage):
        for found in part(samples):
            yield found
    cpus = [str(cpu) for cpu in environment["affinity"]]
    for found in (frequency(during, cpus), governor(during, cpus), temperature(samples), others(environment, during)):
        if found:
            yield found


def raspberry_pi(samples):
    bits = [sample["throttled"] for sample in samples if sample["throttled"] is not None]
    if not bits:
        return
    shown = "get_throttled said 0x%x" % max(bits)
    for name, mask, what, advice in (
        ("under_voltage", PI_UNDER_VOLTAGE, "under-voltage", "use the board's own power supply and a short cable"),
        ("throttled", PI_SLOWED, "the clock was held down", "cool the board, and measure again when it is cold"),
    ):
        new = bits[-1] >> PI_SINCE_START & mask & ~(bits[0] >> PI_SINCE_START)
        if new or any(value & mask for value in bits):
            yield doubt(name, INVALID, "%s during the measurement: %s" % (what, shown), advice, bits=max(bits))
        elif bits[0] >> PI_SINCE_START & mask:
            yield doubt(name, NOTE, "%s earlier, since the board started: %s" % (what, shown), advice, bits=max(bits))


def slowed_by_itself(samples):
    first, last = samples[0]["throttle_events"], samples[-1]["throttle_events"]
    for name in last:
        if name.startswith("cooling_device"):
            # A state, which is 0 while nothing is held down.
            worst = max(sample["throttle_events"].get(name, 0) for sample in samples)
        else:
            worst = last[name] - first.get(name, last[name])
        if worst > 0:
            yield doubt(
                "throttled",
                INVALID,
                "the machine slowed itself: %s %g" % (name, worst),
                "cool it, or take a lower power mode",
                events=worst,
            )
            return


def low_voltage(samples):
    names = sorted({name for sample in samples for name in sample["alarms"]})
    if names:
        advice = "use the board's own power supply and a short cable"
        yield doubt("under_voltage", INVALID, "under-voltage: %s" % names[0], advice, sensors=len(names))


def frequency(during, cpus):
    """The fastest CPU that may be used, over time: it is the one that works."""
    fastest = [max(on(sample["mhz"], cpus)) for sample in during if on(sample["mhz"], cpus)]
    if len(fastest) < 2 or max(fastest) - min(fastest) <= LARGEST_MOVE * max(fastest):
        return None
    return doubt(
        "frequency_moved",
        NOTE,
        "the clock moved between %.0f and %.0f MHz" % (min(fastest), max(fastest)),
        "--fix-clocks holds it; if it falls all the same, the board is too hot or short of power",
        low_mhz=min(fastest),
        high_mhz=max(fastest),
    )


def governor(during, cpus):
    names = sorted(set(on(during[-1]["governors"], cpus)) - set(STEADY_GOVERNORS))
    if not names:
        return None
    words = "the governor is %s, which moves the clock by the load" % ", ".join(map(str, names))
    return doubt("governor", NOTE, words, "--fix-clocks sets performance for the time, where it may (root)")


def on(by_cpu, cpus):
    return [value for cpu, value in by_cpu.items() if cpu in cpus or not cpus]


def temperature(samples):
    """The sensor that rose most, from the first quarter of the time to the last."""
    quarter = max(1, len(samples) // 4)
    rises = []
    for name in samples[0]["celsius"]:
        values = [sample["celsius"][name] for sample in samples if name in sample["celsius"]]
        early, late = values[:quarter], values[-quarter:]
        rises.append((sum(late) / len(late) - sum(early) / len(early), max(values), name))
    if not rises or max(rises)[0] < LARGEST_RISE:
        return None
    rise, highest, name = max(rises)
    return doubt(
        "temperature_climbing",
        NOTE,
        "%s rose by %.0f °C to %.0f °C and may go on" % (name, rise, highest),
        "measure for longer (--seconds), or let it warm up first",
        rise_celsius=rise,
        highest_celsius=highest,
    )


def others(environment, during):
    shares = [sample["busy_elsewhere"] for sample in during if sample["busy_elsewhere"] is not None]
    if not shares or sum(shares) / len(shares) <= max(BUSY, BUSY_SHARE * environment["cores"]):
        return None
    mean = sum(shares) / len(shares)
    words = "others used %.1f CPUs meanwhile" % mean
    return doubt("busy", NOTE, words, "stop what else runs, or compare only what ran turn by turn", cpus=mean)


def of_the_samples(part, figures):
    rounds = [process["rounds_ms"] for process in figures["processes"]]
    moved = drift(rounds)
    if abs(moved) > LARGEST_DRIFT:
        more, percent = "longer" if moved > 0 else "shorter", 100 * math.expm1(moved)
        words = "%s: runs took %.1f %% %s late than early" % (CALLED[part], abs(percent), more)
        advice = "measure for longer, on a machine that is warm and quiet"
        yield doubt("drift", NOTE, words, advice, percent=percent)
    half = (figures["median_high_ms"] - figures["median_low_ms"]) / 2 / figures["median_ms"]
    few = []
    if figures["count"] < FEWEST_RUNS:
        few.append("%d runs, so p99 is the slowest of them" % figures["count"])
    if len(rounds) < FEWEST_PROCESSES:
        few.append("%d process%s" % (len(rounds), "es" if len(rounds) > 1 else ""))
    elif half > LARGEST_HALF_WIDTH:
        few.append("the median is known to ±%.0f %% only" % (100 * half))
    if few:
        figures_ = {"runs": figures["count"], "processes": len(rounds), "half_width": half}
        words = "%s: %s" % (CALLED[part], "; ".join(few))
        yield doubt("few_samples", NOTE, words, "more of --seconds, --processes or --min-runs", **figures_)
    modes = two_modes([run for process in rounds for turn in process for run in turn])
    if modes:
        words = "%s: %.0f %% of the runs gather at %.3g ms and the others at %.3g ms" % (
            CALLED[part], 100 * modes["slow_share"], modes["slow_ms"], modes["fast_ms"],
        )  # fmt: skip
        yield doubt("two_modes", NOTE, words, "a median between the two says little: see the raw times", **modes)
