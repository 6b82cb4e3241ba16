"""What the harness prints where no JSON is asked for. Python 3.8."""


def print_install(report):
    print("installed %d wheels into %s" % (len(report["wheels"]), report["folder"]))


def print_check(report):
    print("ok: %d golden samples" % report["samples"])
    for name, figures in sorted(report["outputs"].items()):
        if figures["kind"] == "exact":
            words = "equal to the build machine's, bit by bit"
        elif figures["kind"] == "relative":
            words = "off by %.1e of its range" % figures["relative_error"]
        else:
            words = "%.1f dB from the build machine's" % figures["expected_sqnr_db"]
        if "reference_sqnr_db" in figures:
            words += ", %.1f dB from the float original" % figures["reference_sqnr_db"]
        if "other_kernels_sqnr_db" in figures:
            words += " (by its builtin kernels %.1f)" % figures["other_kernels_sqnr_db"]
        print("  %s: %s" % (name, words))
    print_remarks(report.get("remarks", []))


def print_run(results):
    for entry in results:
        print("%s (%.1f ms)" % (entry["input"], entry["ms"]))
        for name, output in entry["outputs"].items():
            if "top" in output:
                for top in output["top"]:
                    print("  %8.4f  %s" % (top["score"], top["label"] or "class %d" % top["class"]))
            else:
                print("  %s %s %s" % (name, output["dtype"], output.get("values", output["shape"])))
    if results:
        print_remarks(results[-1].get("remarks", []))


def print_prepare(report):
    if not report["prepared"]:
        print("nothing to prepare: %s runs the model as it is" % report["target"])
    for part, about in sorted(report["prepared"].items()):
        if about["engine"] is None:
            print("nothing prepared: %s" % about["warnings"][0])
        else:
            done = "built in %.0f s" % about["seconds"] if about["built"] else "is there already"
            print("%s: the engine %s (TensorRT %s, %s)" % (part, done, about["tensorrt"], about["engine"]))


def print_remarks(remarks):
    for remark in remarks:
        print("  ! %s\n    %s" % (remark["words"], remark["advice"]))
