"""Train FashionResNet, a small residual network for Fashion-MNIST, with plain PyTorch on a CPU.

    python train.py --data /usr/share/datasets/fashion-mnist --out model.pt

The folder given with --data holds the four official idx files (gz). The last 2,000 training
images are held out: no gradient is ever computed on them, so that they can serve as calibration
data. Nothing is selected on them or on the test images: the schedule is fixed beforehand and the
weights after the last epoch are the result. The test images are read once, after training.
"""

from __future__ import annotations

import argparse
import gzip
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

MEAN, STD = 0.2860, 0.3530  # of the training pixels, scaled to 0..1
HELD_OUT = 2000  # the last training images, kept for calibration
SHIFT = 2  # largest random shift, in pixels


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read a gzipped idx file of unsigned bytes (images: three dimensions, labels: one)."""
    raw = gzip.decompress(path.read_bytes())
    if raw[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path} is not an idx file of unsigned bytes")
    shape = np.frombuffer(raw, ">u4", count=raw[3], offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape.tolist())


def load(folder: Path, part: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return images [N,28,28] and labels [N] of a part: "train" or "t10k"."""
    images = read_idx(folder / f"{part}-images-idx3-ubyte.gz")
    labels = read_idx(folder / f"{part}-labels-idx1-ubyte.gz")
    return images, labels.astype(np.int64)


def normalise(images: Tensor) -> Tensor:
    """Turn uint8 images [N,28,28] into what the network takes: float32 [N,1,28,28]."""
    return ((images.float() / 255 - MEAN) / STD).unsqueeze(1)


def augment(images: Tensor) -> Tensor:
    """Mirror half of the images and shift each by up to SHIFT pixels; what is new is black."""
    n = torch.arange(len(images))
    images = torch.where((torch.rand(len(images)) < 0.5)[:, None, None], images.flip(2), images)
    padded = F.pad(images, (SHIFT, SHIFT, SHIFT, SHIFT))
    windows = padded.unfold(1, 28, 1).unfold(2, 28, 1)
    dy, dx = torch.randint(0, 2 * SHIFT + 1, (2, len(images)))
    return windows[n, dy, dx]


class ConvBN(nn.Sequential):
    """Convolution without bias, then BatchNorm (folded into the convolution on export)."""

    def __init__(self, cin: int, cout: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> None:
        conv = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False)
        super().__init__(conv, nn.BatchNorm2d(cout))


class Residual(nn.Module):
    """relu(body(x) + skip(x)); the skip is a 1x1 convolution where the shape changes."""

    def __init__(self, body: nn.Module, cin: int, cout: int, stride: int = 1) -> None:
        super().__init__()
        self.body = body
        same = cin == cout and stride == 1
        self.skip = nn.Identity() if same else ConvBN(cin, cout, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.skip(x))


def basic(cin: int, cout: int, stride: int) -> Residual:
    """Basic block: two 3x3 convolutions."""
    body = nn.Sequential(ConvBN(cin, cout, 3, stride), nn.ReLU(), ConvBN(cout, cout))
    return Residual(body, cin, cout, stride)


def separable(channels: int) -> Residual:
    """Depthwise-separable block: a depthwise 3x3 convolution, then a 1x1 convolution."""
    depthwise = ConvBN(channels, channels, groups=channels)
    return Residual(nn.Sequential(depthwise, nn.ReLU(), ConvBN(channels, channels, 1)), channels, channels)


class FashionResNet(nn.Module):
    """float32 image [N,1,28,28], normalised -> logits [N,10]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(ConvBN(1, 32), nn.ReLU())
        self.blocks = nn.Sequential(basic(32, 32, 1), basic(32, 64, 2), basic(64, 128, 2), separable(128))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(self.blocks(self.stem(image)))
        return logits


@torch.inference_mode()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Top-1 accuracy in float32."""
    model.eval()
    hits = 0
    for i in range(0, len(images), 500):
        predicted = model(normalise(images[i : i + 500])).argmax(1)
        hits += int((predicted == labels[i : i + 500]).sum())
    return hits / len(images)


def train(images: Tensor, labels: Tensor, epochs: int, batch: int, max_lr: float) -> FashionResNet:
    """Train with SGD and a one-cycle schedule, in bfloat16 autocast; return the last weights."""
    model = FashionResNet()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), lr=max_lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
    steps = len(images) // batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr, total_steps=steps * epochs, pct_start=0.2)
    for epoch in range(epochs):
        model.train()
        start, total = time.perf_counter(), 0.0
        order = torch.randperm(len(images))
        for step in range(steps):
            index = order[step * batch : (step + 1) * batch]
            x = normalise(augment(images[index])).to(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(x)
            loss = F.cross_entropy(logits.float(), labels[index], label_smoothing=0.1)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
            total += loss.item()
        rate, mean = steps * batch / (time.perf_counter() - start), total / steps
        print(f"epoch {epoch + 1}/{epochs} loss {mean:.4f} {rate:.0f} images/s", flush=True)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="folder of the idx gz files")
    parser.add_argument("--out", type=Path, default=Path("model.pt"), help="weights to write")
    parser.add_argument("--epochs", type=int, default=18)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--max-lr", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    images, labels = (torch.from_numpy(a.copy()) for a in load(args.data, "train"))
    start = time.perf_counter()
    model = train(images[:-HELD_OUT], labels[:-HELD_OUT], args.epochs, args.batch, args.max_lr)
    print(f"trained in {time.perf_counter() - start:.0f} s")
    torch.save(model.state_dict(), args.out)

    test_images, test_labels = (torch.from_numpy(a.copy()) for a in load(args.data, "t10k"))
    held_out = accuracy(model, images[-HELD_OUT:], labels[-HELD_OUT:])
    print(f"held-out {held_out:.4f} test {accuracy(model, test_images, test_labels):.4f}")


if __name__ == "__main__":
    main()
