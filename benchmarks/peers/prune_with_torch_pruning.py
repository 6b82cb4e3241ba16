"""Torch-Pruning without training: the graph rebuilt in PyTorch, its channels ranked, pruned to a share of the MACs.

python prune_with_torch_pruning.py REQUEST.json
"""

from __future__ import annotations

import json
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
import torch_pruning
from each_share import answer

# onnx2torch wants torchvision for two operators that are not here, and its wheels fit only some of torch's.
sys.modules["torchvision"], sys.modules["torchvision.ops"] = types.ModuleType("torchvision"), types.ModuleType("ops")
sys.modules["torchvision.ops"].roi_align = sys.modules["torchvision.ops"].nms = None
sys.modules["torchvision"].ops = sys.modules["torchvision.ops"]
from onnx2torch import convert  # noqa: E402

ROUND_TO = 8


def importance(name: str) -> torch_pruning.importance.Importance:
    known = torch_pruning.importance
    return {
        "l2": lambda: known.GroupMagnitudeImportance(p=2),
        "l1": lambda: known.GroupMagnitudeImportance(p=1),
        "taylor": lambda: known.GroupTaylorImportance(),
        "hessian": lambda: known.GroupHessianImportance(),
    }[name]()


def pruned(path: str, name: str, share: float, x: torch.Tensor) -> torch.nn.Module:
    """The module with as many channels as leave at most `share` of the multiply-accumulates."""
    model = convert(onnx.load(path)).eval()
    whole, _ = torch_pruning.utils.count_ops_and_params(model, x[:1])
    last = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1:]
    steps = 100
    pruner = torch_pruning.pruner.MetaPruner(
        model,
        x[:1],
        importance=importance(name),
        iterative_steps=steps,
        pruning_ratio=0.9,
        global_pruning=True,
        max_pruning_ratio=0.9,
        round_to=ROUND_TO,
        ignored_layers=last,
    )
    if name in ("taylor", "hessian"):
        # Without labels: the model's own answers.
        for parameter in model.parameters():
            parameter.requires_grad_(True)
    for _ in range(steps):
        if name in ("taylor", "hessian"):
            _gradients(model, pruner, x, name)
        pruner.step()
        macs, _ = torch_pruning.utils.count_ops_and_params(model, x[:1])
        if macs <= share * whole:
            return model
    raise RuntimeError(f"it stays at {macs / whole:.2f} of the MACs")


def _gradients(model: torch.nn.Module, pruner: torch_pruning.pruner.MetaPruner, x: torch.Tensor, name: str) -> None:
    model.zero_grad()
    answers = model(x[:64])
    loss = torch.nn.functional.cross_entropy(answers, answers.argmax(-1), reduction="none")
    if name == "taylor":
        loss.mean().backward()
        return
    pruner.importance.zero_grad()
    for one in loss:
        model.zero_grad()
        one.backward(retain_graph=True)
        pruner.importance.accumulate_grad(model)


class Plain(torch.nn.Module):
    """Without the attributes by which the exporter takes a traced graph for a script."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    asked = json.loads(Path(sys.argv[1]).read_text())
    with np.load(asked["calibration"]) as arrays:
        key = next(name for name in arrays.files if name != "y")
        x = torch.from_numpy(arrays[key][:64].astype(np.float32))

    def write(name: str, share: float, file: Path) -> None:
        model = pruned(asked["model"], name, share, x)
        torch.onnx.export(
            Plain(model), (x[:1],), str(file), input_names=[key], dynamic_axes={key: {0: "N"}}, dynamo=False,
            opset_version=17,
        )  # fmt: skip

    answer(asked, "torch-pruning", write)


if __name__ == "__main__":
    main()
