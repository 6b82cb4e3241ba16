"""What a machine needs before it runs a bundle, and what answers where the bundle's runtime is missing. Python 3.8."""

import os

from edgepack_device.files import first_line, load_runner, read_manifest, told, verify_files
from edgepack_device.machine import refuse_wrong_machine
from edgepack_device.timing import part_is_here

FALLBACK_HELP = "where the bundle's runtime is missing, run in this one, marked: onnxruntime, onnxruntime-cuda"


def prepare(folder, again=False, build_machine=False, fallback=None):
    """What has to be done once on each machine before the model runs, such as building an engine; often nothing."""
    manifest = read_manifest(folder)
    verify_files(folder)
    if not build_machine:
        refuse_wrong_machine(manifest)
    runner = load_runner(folder, manifest, fallback)
    report = {"ok": True, "target": manifest["target"], "prepared": {}}
    if not hasattr(runner, "prepare"):
        return report
    for part in ("model", "baseline"):
        if part_is_here(folder, manifest, part):
            try:
                report["prepared"][part] = runner.prepare(
                    os.path.join(folder, *manifest[part]["file"].split("/")), again
                )
            except Exception as error:
                raise told(error, 52, "%s cannot prepare it: %s" % (manifest["target"], first_line(error)), "")
    return report
