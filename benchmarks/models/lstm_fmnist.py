"""A recurrent net: an LSTM that reads Fashion-MNIST images row by row."""

import torch
from sources import CALIBRATION, fashion, normalised, write
from torch import nn
from training import export, train


class Reader(nn.Module):
    """Images [N, 28, 28] as 28 steps of 28 features → scores [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.LSTM(28, 96, num_layers=2)
        self.head = nn.Linear(96, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        answers, _ = self.rows(image.transpose(0, 1))
        return self.head(answers[-1])


torch.manual_seed(0)
images, labels = fashion("train")
model = Reader()
train(model, normalised(images[:-1000]), labels[:-1000], nn.CrossEntropyLoss(), epochs=4, rate=5e-3)
test, truth = fashion("t10k")
write(
    "lstm_fmnist",
    export(model, torch.zeros(1, 28, 28), "image", "scores"),
    {"image": normalised(images[-CALIBRATION:])},
    {"image": normalised(test), "y": truth},
    metric="top1",
    family="recurrent (LSTM)",
    source="trained here on Fashion-MNIST",
)
