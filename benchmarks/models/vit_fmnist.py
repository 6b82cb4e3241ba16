"""A Transformer encoder: a small vision Transformer (Dosovitskiy et al., 2021) on Fashion-MNIST."""

import torch
from sources import CALIBRATION, fashion, normalised, write
from torch import nn
from training import export, train

PATCH, WIDTH, HEADS, DEPTH = 7, 64, 4, 4


class Block(nn.Module):
    """Pre-norm attention and MLP, written out so that the exporter leaves MatMul, Softmax and LayerNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 3 * WIDTH), nn.GELU(), nn.Linear(3 * WIDTH, WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.shape[1]
        qkv = self.qkv(self.before(x)).reshape(-1, tokens, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(qkv[0] @ qkv[1].transpose(-2, -1) * (WIDTH // HEADS) ** -0.5, -1)
        x = x + self.out((weights @ qkv[2]).transpose(1, 2).reshape(-1, tokens, WIDTH))
        return x + self.mlp(self.between(x))


class Vision(nn.Module):
    """Images [N, 1, 28, 28] → scores [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, WIDTH, PATCH, PATCH)
        self.place = nn.Parameter(0.02 * torch.randn(1, (28 // PATCH) ** 2, WIDTH))
        self.blocks = nn.Sequential(*(Block() for _ in range(DEPTH)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.patches(image).flatten(2).transpose(1, 2) + self.place
        return self.head(self.norm(self.blocks(x)).mean(1))


torch.manual_seed(0)
images, labels = fashion("train")
model = Vision()
train(model, normalised(images[:-1000])[:, None], labels[:-1000], nn.CrossEntropyLoss(), epochs=4)
test, truth = fashion("t10k")
write(
    "vit_fmnist",
    export(model, torch.zeros(1, 1, 28, 28), "image", "scores"),
    {"image": normalised(images[-CALIBRATION:])[:, None]},
    {"image": normalised(test)[:, None], "y": truth},
    metric="top1",
    family="Transformer encoder",
    transformer=True,
    source="trained here on Fashion-MNIST",
)
