"""The golden check: does the bundle answer as it did where it was built? Python 3.8."""

from edgepack_device.border import by_name, encoded, restored
from edgepack_device.figures import flat, relative_error, sqnr_db
from edgepack_device.files import (
    HarnessError,
    default_threads,
    first_line,
    golden,
    golden_arrays,
    load_model,
    load_module,
    read_manifest,
    remarks_of,
    told,
    verify_files,
)
from edgepack_device.machine import refuse_wrong_machine

# Above this, the rounding of float arithmetic moves the figure by more than a decibel from CPU to CPU.
FLOAT_NOISE_DB = 60.0
OTHER_VERSIONS = "install the versions in requirements.txt; if they are, build the bundle for this device"


def check(folder, threads=None, build_machine=False, fallback=None):
    """Run the golden inputs and compare with what the build recorded.

    Two comparisons: with the bundle's own outputs as verified on the build machine (is this the same model?),
    and with the float original (is it as good as the build said?).

    Raises:
        HarnessError: 50 files, 51 outputs, 52 runtime, 55 another machine than it was built for.
    """
    manifest = read_manifest(folder)
    verify_files(folder)
    if not build_machine:
        refuse_wrong_machine(manifest)
    inputs = golden(folder, "inputs")
    check_preprocessing(folder, manifest, inputs)
    runner, model = load_model(folder, manifest, "model", threads or default_threads(manifest), fallback=fallback)
    try:
        answers = [model(feed) for feed in inputs]
    except Exception as error:
        raise told(error, 52, "%s cannot run the model: %s" % (manifest["target"], first_line(error)), OTHER_VERSIONS)
    report = {"ok": True, "samples": len(answers), "versions": runner.versions(), "outputs": {}}
    if remarks_of(runner):
        report["remarks"] = remarks_of(runner)
    expected, reference = golden(folder, "expected"), golden(folder, "reference")
    entries = by_name(manifest["outputs"])
    for output in manifest["golden"]["outputs"]:
        name = output["name"]
        actual = [answer[name] for answer in answers]
        wanted = [sample[name] for sample in expected]
        if [array.shape for array in actual] != [array.shape for array in wanted]:
            raise HarnessError(51, "output %s has another shape than on the build machine" % name, OTHER_VERSIONS)
        real = flat([s[name] for s in reference])
        report["outputs"][name] = compare(output, flat(wanted), real, flat(actual), entries.get(name, {}))
    check_other_kernels(folder, manifest, inputs, reference, report)
    return report


def check_other_kernels(folder, manifest, inputs, reference, report):
    """The kernels that the runtime falls back to, on a few samples: as near to the float original as at build time."""
    terms = {o["name"]: o["other_kernels"] for o in manifest["golden"]["outputs"] if "other_kernels" in o}
    if not terms:
        return
    count = max(term["samples"] for term in terms.values())
    _, model = load_model(folder, manifest, "model", default_threads(manifest), "load_other")
    answers = [model(feed) for feed in inputs[:count]]
    entries = by_name(manifest["outputs"])
    for name, term in terms.items():
        actual = restored(entries.get(name, {}), flat([answer[name] for answer in answers]))
        found = sqnr_db(flat([sample[name] for sample in reference[:count]]), actual)
        report["outputs"][name]["other_kernels_sqnr_db"] = found
        if found < min(term["sqnr_db"], FLOAT_NOISE_DB) - term["within_db"]:
            raise HarnessError(
                51,
                "output %s is %.1f dB from the float original by the kernels to fall back to, %.1f dB when it was built"
                % (name, found, term["sqnr_db"]),
                OTHER_VERSIONS,
            )


def compare(output, expected, reference, actual, entry):
    """Hold one output, all samples in a row, against the manifest's tolerance for it.

    Args:
        entry: the manifest's on the output, by which integers become real numbers, as `reference` holds them.
    """
    import numpy as np

    name, tolerance = output["name"], output["tolerance"]
    figures = {"kind": tolerance["kind"]}
    if tolerance["kind"] == "exact" and not np.array_equal(expected, actual):
        raise HarnessError(
            51,
            "output %s differs from the build machine's in %d of %d values, and should not in any"
            % (name, int(np.sum(expected != actual)), actual.size),
            OTHER_VERSIONS,
        )
    expected, actual = restored(entry, expected), restored(entry, actual)
    if tolerance["kind"] == "relative":
        figures["relative_error"] = relative_error(expected, actual)
        if not figures["relative_error"] <= tolerance["at_most"]:
            raise HarnessError(
                51,
                "output %s is off by %.1e of its range, at most %.0e is allowed"
                % (name, figures["relative_error"], tolerance["at_most"]),
                OTHER_VERSIONS,
            )
    elif tolerance["kind"] != "exact":
        figures["expected_sqnr_db"] = sqnr_db(expected, actual)
        if figures["expected_sqnr_db"] < tolerance["at_least_db"]:
            raise HarnessError(
                51,
                "output %s is %.1f dB from the build machine's, at least %.0f dB is needed"
                % (name, figures["expected_sqnr_db"], tolerance["at_least_db"]),
                OTHER_VERSIONS,
            )
    if output["reference_sqnr_db"] is not None:
        figures["reference_sqnr_db"] = sqnr_db(reference, actual)
        floor = min(output["reference_sqnr_db"], FLOAT_NOISE_DB) - output.get("reference_within_db", 1.0)
        if figures["reference_sqnr_db"] < floor:
            raise HarnessError(
                51,
                "output %s is %.1f dB from the float original, the build recorded %.1f dB"
                % (name, figures["reference_sqnr_db"], output["reference_sqnr_db"]),
                OTHER_VERSIONS,
            )
    return figures


def check_preprocessing(folder, manifest, inputs):
    """The first golden sample's own pixels must become exactly the first golden input."""
    spec = manifest.get("preprocess")
    if not spec or not spec.get("golden"):
        return
    made = load_module(folder, "preprocess").apply(golden_arrays(folder, "pixels")["pixels"], spec)
    entry = by_name(manifest["inputs"])[spec["input"]]
    grid = entry.get("quantization")
    wanted = restored(entry, inputs[0][spec["input"]]).reshape(made.shape)
    made = restored(entry, encoded(entry, made))
    # A number between two integers may fall to either.
    step = 1.01 * grid["scale"] / max(float(abs(wanted).max()), grid["scale"]) if grid else 0
    if relative_error(wanted, made) > 1e-5 + step:
        raise HarnessError(51, "preprocessing gives other values here than on the build machine", OTHER_VERSIONS)
