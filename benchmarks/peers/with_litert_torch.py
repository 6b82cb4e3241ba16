"""litert-torch's .tflite of the network written as a torch module, one torch function a node of the ONNX graph.

No torch source comes with most tasks; the same functions in the same order are what a torch source of them would call.
Answers are compared with ONNX Runtime's like everybody's, so a node understood wrongly would show.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import litert_torch
import numpy as np
import onnx
import samples
import torch
from onnx import helper, numpy_helper
from torch.nn import functional as F

Array = torch.Tensor


NUMBERS = frozenset(
    {"Clip", "Reshape", "Slice", "Squeeze", "Unsqueeze", "ReduceMean", "ReduceMax", "Resize", "Pow", "Gather"}
)


class Spelled(torch.nn.Module):
    """An ONNX graph of one sample, shapes fixed."""

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        self.nodes = [
            (node.op_type, list(node.input), list(node.output), _attributes(node)) for node in model.graph.node
        ]
        unknown = sorted({kind for kind, *_ in self.nodes} - set(FUNCTIONS))
        if unknown:
            raise NotImplementedError(f"no torch function is written down here for {', '.join(unknown)}")
        # A list of numbers is an argument in torch, not a tensor; weights are parameters.
        self.held = {tensor.name: numpy_helper.to_array(tensor).copy() for tensor in model.graph.initializer}
        floats = {name: array for name, array in self.held.items() if array.dtype == np.float32}
        self.places = {name: f"weight_{place}" for place, name in enumerate(floats)}
        for name, array in floats.items():
            self.register_buffer(self.places[name], torch.from_numpy(array))
        self.layers = torch.nn.ModuleDict()
        for kind, inputs, outputs, attributes in self.nodes:
            if kind == "LSTM":
                self.layers[outputs[0].replace(".", "_")] = _lstm(self.held, inputs, attributes)
        self.inputs = [value.name for value in model.graph.input if value.name not in self.held]
        self.outputs = [value.name for value in model.graph.output]

    def forward(self, *given: Array) -> tuple[Array, ...]:
        values: dict[str, Any] = dict(zip(self.inputs, given, strict=True))
        for name, array in self.held.items():
            values[name] = getattr(self, self.places[name]) if name in self.places else torch.from_numpy(array)
        for kind, inputs, outputs, attributes in self.nodes:
            arguments = [self._argument(kind, place, name, values) for place, name in enumerate(inputs)]
            if kind == "LSTM":
                states, _ = self.layers[outputs[0].replace(".", "_")](arguments[0])
                values[outputs[0]] = states[:, None]
                continue
            found = FUNCTIONS[kind](attributes, *arguments)
            found = found if isinstance(found, (tuple, list)) else (found,)
            values.update(zip(outputs, found, strict=False))
        return tuple(values[name] for name in self.outputs)

    def _argument(self, kind: str, place: int, name: str, values: dict[str, Any]) -> Any:
        """A tensor, or what torch takes as numbers: limits, shapes, axes."""
        if kind in NUMBERS and place and name in self.held:
            return self.held[name]
        return values[name] if name else None


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    found = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    return {key: value.decode() if isinstance(value, bytes) else value for key, value in found.items()}


def _lstm(held: dict[str, np.ndarray], inputs: list[str], attributes: dict[str, Any]) -> torch.nn.LSTM:
    """ONNX orders the gates i, o, f, c, torch i, f, c, o. The first state is zero where the graph's is."""
    weight, recurrent, bias = (held[name][0] for name in inputs[1:4])
    if attributes.get("direction", "forward") != "forward" or any(np.any(held[n]) for n in inputs[5:7] if n):
        raise NotImplementedError("an LSTM that runs backwards, or does not start at zero")
    width = attributes["hidden_size"]
    layer = torch.nn.LSTM(weight.shape[1], width)

    def ordered(array: np.ndarray) -> Array:
        i, o, f, c = np.split(array, 4)
        return torch.from_numpy(np.concatenate([i, f, c, o]))

    with torch.no_grad():
        layer.weight_ih_l0.copy_(ordered(weight))
        layer.weight_hh_l0.copy_(ordered(recurrent))
        layer.bias_ih_l0.copy_(ordered(bias[: 4 * width]))
        layer.bias_hh_l0.copy_(ordered(bias[4 * width :]))
    return layer


def _conv(a: dict, x: Array, weight: Array, bias: Array | None = None) -> Array:
    count = weight.ndim - 2
    pads = a.get("pads", [0] * 2 * count)
    function = (F.conv1d, F.conv2d)[count - 1]
    options = {"stride": a.get("strides", 1), "dilation": a.get("dilations", 1), "groups": a.get("group", 1)}
    if pads[:count] == pads[count:]:
        return function(x, weight, bias, padding=pads[:count], **options)
    return function(_padded(x, pads), weight, bias, **options)


def _padded(x: Array, pads: list[int], value: float = 0.0) -> Array:
    count = len(pads) // 2
    around = [n for axis in reversed(range(count)) for n in (pads[axis], pads[axis + count])]
    return F.pad(x, around, value=value) if any(pads) else x


def _conv_transpose(a: dict, x: Array, weight: Array, bias: Array | None = None) -> Array:
    if any(a.get("pads", [0])) or any(a.get("output_padding", [0])):
        raise NotImplementedError("a padded transposed convolution")
    return F.conv_transpose2d(x, weight, bias, stride=a["strides"], groups=a.get("group", 1))


def _gemm(a: dict, x: Array, weight: Array, bias: Array | None = None) -> Array:
    x = x.T if a.get("transA") else x
    if a.get("alpha", 1.0) != 1.0 or a.get("beta", 1.0) != 1.0:
        raise NotImplementedError("a scaled Gemm")
    return F.linear(x, weight if a.get("transB") else weight.T, bias)


def _pool(function: Callable[..., Array], value: float) -> Callable[..., Array]:
    def pooled(a: dict, x: Array) -> Array:
        pads = a.get("pads", [0] * 2 * len(a["kernel_shape"]))
        if function is not F.max_pool2d and any(pads):
            raise NotImplementedError("a padded mean")
        kernel, stride = a["kernel_shape"], a.get("strides", [1, 1])
        if len(kernel) == 1:
            return function(_padded(x, pads, value)[:, :, None], [1, *kernel], [1, *stride])[:, :, 0]
        return function(_padded(x, pads, value), kernel, stride, ceil_mode=bool(a.get("ceil_mode")))

    return pooled


def _normalized(a: dict, x: Array, gain: Array, offset: Array) -> Array:
    axis = a.get("axis", -1) % x.ndim
    return F.layer_norm(x, x.shape[axis:], gain, offset, a.get("epsilon", 1e-5))


def _resized(a: dict, x: Array, roi: Any = None, scales: Any = None, sizes: Any = None) -> Array:
    if a.get("mode", "nearest") != "nearest":
        raise NotImplementedError("a Resize that is not nearest")
    factors = scales if sizes is None else sizes / np.array(x.shape)
    return F.interpolate(x, scale_factor=[float(factor) for factor in factors[2:]], mode="nearest")


def _sliced(a: dict, x: Array, starts: Array, ends: Array, axes: np.ndarray | None = None, steps: Any = None) -> Array:
    axes = range(len(starts)) if axes is None else axes.tolist()
    at = [slice(None)] * x.ndim
    for place, axis in enumerate(axes):
        step = 1 if steps is None else int(steps[place])
        at[axis] = slice(int(starts[place]), min(int(ends[place]), x.shape[axis]), step)
    return x[tuple(at)]


def _reduced(function: Callable[..., Array]) -> Callable[..., Array]:
    def reduced(a: dict, x: Array, axes: np.ndarray | None = None) -> Array:
        over = a["axes"] if axes is None else axes.tolist()
        return function(x, over, keepdim=bool(a.get("keepdims", 1)))

    return reduced


def _squeezed(a: dict, x: Array, axes: np.ndarray | None = None) -> Array:
    return torch.squeeze(x, tuple(a["axes"] if axes is None else axes.tolist()))


def _unsqueezed(a: dict, x: Array, axes: np.ndarray | None = None) -> Array:
    for axis in sorted(a["axes"] if axes is None else axes.tolist()):
        x = torch.unsqueeze(x, axis)
    return x


def _gathered(a: dict, x: Array, places: Array | np.ndarray) -> Array:
    axis = a.get("axis", 0)
    if isinstance(places, np.ndarray):
        if places.ndim == 0:
            return torch.select(x, axis, int(places))
        places = torch.from_numpy(places)
    if x.ndim == 2 and axis == 0:
        return F.embedding(places, x)
    return torch.index_select(x, axis, places.reshape(-1)).reshape(x.shape[:axis] + places.shape + x.shape[axis + 1 :])


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": lambda a, x, y: x @ y,
    "Add": lambda a, x, y: x + y,
    "Sub": lambda a, x, y: x - y,
    "Mul": lambda a, x, y: x * y,
    "Div": lambda a, x, y: x / y,
    "Pow": lambda a, x, y: torch.pow(x, float(y)),
    "Sqrt": lambda a, x: torch.sqrt(x),
    "Erf": lambda a, x: torch.erf(x),
    "Relu": lambda a, x: F.relu(x),
    "Clip": lambda a, x, low=None, high=None: (
        F.relu6(x)
        if low is not None and high is not None and (float(low), float(high)) == (0.0, 6.0)
        else torch.clamp(x, None if low is None else float(low), None if high is None else float(high))
    ),
    "Sigmoid": lambda a, x: torch.sigmoid(x),
    "Tanh": lambda a, x: torch.tanh(x),
    "HardSigmoid": lambda a, x: torch.clamp(x * a.get("alpha", 0.2) + a.get("beta", 0.5), 0.0, 1.0),
    "HardSwish": lambda a, x: F.hardswish(x),
    "Softmax": lambda a, x: torch.softmax(x, a.get("axis", -1)),
    "BatchNormalization": lambda a, x, gain, offset, mean, variance: F.batch_norm(
        x, mean, variance, gain, offset, eps=a.get("epsilon", 1e-5)
    ),
    "LayerNormalization": _normalized,
    "GlobalAveragePool": lambda a, x: F.adaptive_avg_pool2d(x, 1),
    "AveragePool": _pool(F.avg_pool2d, 0.0),
    "MaxPool": _pool(F.max_pool2d, float("-inf")),
    "ReduceMean": _reduced(torch.mean),
    "ReduceMax": _reduced(torch.amax),
    "Resize": _resized,
    "Flatten": lambda a, x: torch.flatten(x, a.get("axis", 1)),
    "Reshape": lambda a, x, shape: torch.reshape(
        x, [x.shape[axis] if size == 0 else size for axis, size in enumerate(shape.tolist())]
    ),
    "Transpose": lambda a, x: torch.permute(x, a.get("perm", list(range(x.ndim))[::-1])),
    "Squeeze": _squeezed,
    "Unsqueeze": _unsqueezed,
    "Slice": _sliced,
    "Concat": lambda a, *parts: torch.cat(parts, a["axis"]),
    "Gather": _gathered,
    "LSTM": lambda a, *_: None,
}


def main() -> None:
    asked = samples.request()
    file = Path(asked["output"]) / "model.tflite"
    model = onnx.load(asked["model"])
    example = samples.feeds(asked["calibration"])[0]
    spelled = Spelled(model).eval()
    given = tuple(torch.from_numpy(example[name].copy()) for name in spelled.inputs)
    start = time.perf_counter()
    with torch.no_grad():
        litert_torch.convert(spelled, given).export(str(file))
    samples.answer(asked, start, file, layout="tflite", notes=[])


if __name__ == "__main__":
    main()
