"""The methods beside each other: who runs them, with which options, and which files they make for which runtime."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent.parent
TARGETS = ("onnxruntime", "openvino")


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to quantize.

    `script` lies in peers/ and runs in the environment `needs` (a requirements file there; the benchmark's own if
    empty), which `python` makes where the packages ask for another version. `forms` maps a runtime to what is made
    for it: where two runtimes share a form, one file serves both.
    """

    name: str
    words: str
    script: str = ""
    needs: str = ""
    python: str = ""
    forms: dict[str, str] = field(default_factory=lambda: dict.fromkeys(TARGETS, "onnx"))
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def is_ours(self) -> bool:
        return self.name.startswith("edgepack")

    def key(self, facts: dict[str, Any] | None = None) -> str:
        """Changes whenever what the method makes may change: its script, its options, its versions.

        Args:
            facts: what the task tells the method beyond its files.
        """
        parts = [self.forms, self.options, self.needs, facts or {}]
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
        if self.script:
            digest.update((HERE / "peers" / self.script).read_bytes())
            digest.update((HERE / "peers" / "samples.py").read_bytes())
        if self.needs:
            digest.update((HERE / "peers" / f"{self.needs}.txt").read_bytes())
        if self.is_ours:
            digest.update(edgepack_sources())
        return digest.hexdigest()[:16]


def edgepack_sources() -> bytes:
    """A hash of the edgepack that this interpreter imports, and of its targets."""
    import edgepack
    from edgepack import _root

    digest = hashlib.sha256(sys.version.encode())
    package = Path(str(edgepack.__file__)).parent
    for folder in (package, _root.TARGETS):
        for file in sorted(folder.rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.digest()


BY_RUNTIME = {target: target for target in TARGETS}
METHODS = {
    method.name: method
    for method in (
        Method(name="float", words="the model as it is, inputs fixed to one sample"),
        Method(
            name="ort",
            words="onnxruntime.quantization: quant_pre_process, quantize_static, all defaults",
            script="with_onnxruntime.py",
        ),
        Method(
            name="ort-per-channel",
            words="the same with u8 activations, s8 weights, QDQ, per_channel=True",
            script="with_onnxruntime.py",
            options={"per_channel": True},
        ),
        Method(
            name="nncf",
            words="nncf.quantize, all defaults: ONNX backend for ONNX Runtime, OpenVINO backend for OpenVINO",
            script="with_nncf.py",
            needs="nncf",
            forms=BY_RUNTIME,
        ),
        Method(
            name="nncf-full",
            words="the same with fast_bias_correction=False",
            script="with_nncf.py",
            needs="nncf",
            forms=BY_RUNTIME,
            options={"fast_bias_correction": False},
        ),
        Method(
            name="onnxsim",
            words="onnxsim.simplify, then onnxsim.quantize_static, all defaults",
            script="with_onnxsim.py",
            needs="onnxsim",
        ),
        Method(
            name="edgepack",
            words="edgepack build, no flags but the calibration samples: float where int8 does not pay",
            script="with_edgepack.py",
            forms=BY_RUNTIME,
        ),
        Method(
            name="edgepack-int8",
            words="edgepack build --precision int8",
            script="with_edgepack.py",
            forms=BY_RUNTIME,
            options={"precision": "int8"},
        ),
        Method(
            name="edgepack-max-drop",
            words="edgepack build --max-drop 0.5 --eval SEARCH",
            script="with_edgepack.py",
            forms=BY_RUNTIME,
            options={"max_drop": 0.5},
        ),
    )
}
