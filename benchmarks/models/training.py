"""Training and export of the small networks that no package holds."""

from __future__ import annotations

import io
import sys
import time
from typing import Any

import numpy as np
import torch
from torch import nn


def train(
    model: nn.Module, x: np.ndarray, y: np.ndarray, loss: nn.Module, epochs: int, batch: int = 256, rate: float = 2e-3
) -> None:
    """AdamW with a one-cycle schedule; the last weights are the result, nothing is selected."""
    torch.manual_seed(0)
    inputs, truth = torch.from_numpy(x), torch.from_numpy(y)
    steps = len(x) // batch
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps * epochs, pct_start=0.2)
    model.train()
    start = time.perf_counter()
    for epoch in range(epochs):
        order, total = torch.randperm(len(x)), 0.0
        for step in range(steps):
            rows = order[step * batch : (step + 1) * batch]
            value = loss(model(inputs[rows]), truth[rows])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            schedule.step()
            total += value.item()
        spent = time.perf_counter() - start
        print(f"  epoch {epoch + 1}/{epochs}: loss {total / steps:.4f}, {spent:.0f} s", file=sys.stderr, flush=True)
    model.eval()


def export(model: nn.Module, example: Any, name: str = "input", output: str = "output") -> bytes:
    """The model as ONNX (opset 17) with an open batch axis."""
    file = io.BytesIO()
    torch.onnx.export(
        model.eval(),
        (example,),
        file,
        input_names=[name],
        output_names=[output],
        dynamic_axes={name: {0: "N"}, output: {0: "N"}},
        opset_version=17,
        dynamo=False,
    )
    return file.getvalue()
