"""What a model is timed beside: the float original, in a form that the target's runtime loads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgepack import bundle
from edgepack.errors import UnsupportedOperator
from edgepack.metric import harness
from edgepack.model import Model
from edgepack.plan import Plan
from edgepack.samples import Feed
from edgepack.target import runner


def baseline(plan: Plan, forms: Mapping[str, Model], original: Path, feed: Feed) -> tuple[dict[str, str] | None, str]:
    """The manifest's entry, None where the runtime runs no form of it; and a line if that is not `original` itself.

    Args:
        forms: the float original and what may stand for it, best first, each by what it is.
        original: the ONNX file, which another form replaces.
        feed: one that it has to answer.
    """
    path, note = _in_the_targets_form(plan, forms, original)
    try:
        runner(plan.target_name).load(str(path), 1)(feed)
    except Exception as error:  # each runtime has exceptions of its own
        line = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        return None, f"the original itself does not run in {plan.target_name}, so nothing is timed beside it: {line}"
    # With a checksum of its own: it does not go to the device, so SHA256SUMS does not list it.
    return {"file": f"{bundle.BASELINE}/{path.name}", "sha256": harness().sha256(str(path))}, note


def _in_the_targets_form(plan: Plan, forms: Mapping[str, Model], original: Path) -> tuple[Path, str]:
    for what, model in forms.items():
        try:
            file = plan.target.baseline(model, original.parent)
        except UnsupportedOperator:
            continue
        if file is None:
            break
        for path in original.parent.iterdir():
            if path.name != file:
                path.unlink()
        return original.parent / file, f"{plan.target_name} loads no ONNX: timed beside {what} written for it"
    return original, ""
