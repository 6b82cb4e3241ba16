"""Integer inputs: which language is a message in, from its bytes; messages are Django's translations."""

import hashlib
import re

import numpy as np
import torch
from sources import CALIBRATION, wheel, write
from torch import nn
from training import export, train

LENGTH = 96
# fmt: off
LANGUAGES = (
    "af", "az", "bs", "ca", "cs", "cy", "da", "de", "en", "eo", "es", "et", "eu", "fi", "fr", "fy", "ga", "gd", "gl",
    "hr", "hu", "id", "is", "it", "lt", "lv", "nb", "nl", "nn", "pl", "pt", "ro", "sk", "sl", "sq", "sr_Latn", "sv",
    "sw", "tk", "tr", "uz", "vi",
)
# fmt: on
ENTRY = re.compile(r'^msgstr(?:\[\d\])? ((?:"(?:[^"\\]|\\.)*"\s*)+)', re.M)


def messages(text: str) -> list[str]:
    """The translations of a .po file, without placeholders and markup that tell nothing of the language."""
    found = []
    for entry in ENTRY.findall(text):
        words = "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', entry)).replace('\\"', '"').replace("\\n", " ")
        words = re.sub(r"%\(\w+\)[sd]|%[sd]|\{\w*\}|<[^>]+>|&\w+;", " ", words)
        words = re.sub(r"\s+", " ", words).strip()
        if len(words) >= 12 and "Project-Id-Version" not in words:
            found.append(words)
    return found


def encoded(text: str) -> np.ndarray:
    """The first LENGTH bytes of UTF-8 as 1..256, 0 behind the end."""
    raw = np.frombuffer(text.encode()[:LENGTH], np.uint8).astype(np.int64) + 1
    return np.pad(raw, (0, LENGTH - len(raw)))


class Bytes(nn.Module):
    """Bytes [N, LENGTH] → scores [N, languages]."""

    def __init__(self) -> None:
        super().__init__()
        self.letters = nn.Embedding(257, 48)
        self.layers = nn.Sequential(
            nn.Conv1d(48, 128, 5, padding=2), nn.ReLU(), nn.MaxPool1d(2),
            nn.Conv1d(128, 128, 5, padding=2), nn.ReLU(), nn.MaxPool1d(2),
            nn.Conv1d(128, 192, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(192, len(LANGUAGES))

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(self.letters(text).transpose(1, 2)).amax(2))


archive = wheel("django==5.2.19")
seen: dict[str, int] = {}
for file in sorted(name for name in archive.namelist() if name.endswith(".po")):
    language = file.split("/locale/")[1].split("/")[0] if "/locale/" in file else ""
    if language in LANGUAGES:
        for message in messages(archive.read(file).decode()):
            seen.setdefault(message, LANGUAGES.index(language))
# A message's part follows from its own hash; the same first bytes never stand in two parts.
parts: dict[str, dict[bytes, int]] = {"train": {}, "calibration": {}, "evaluation": {}}
for message, label in seen.items():
    key = encoded(message)
    share = hashlib.sha256(key.tobytes()).digest()[0]
    parts["evaluation" if share < 64 else "calibration" if share < 72 else "train"][key.tobytes()] = label


def arrays(part: str) -> tuple[np.ndarray, np.ndarray]:
    keys = [np.frombuffer(key, np.int64) for key in parts[part]]
    return np.stack(keys), np.array(list(parts[part].values()), np.int64)


torch.manual_seed(0)
x, y = arrays("train")
model = Bytes()
train(model, x, y, nn.CrossEntropyLoss(label_smoothing=0.1), epochs=10, batch=128)
calibration, _ = arrays("calibration")
evaluation, truth = arrays("evaluation")
print(f"  {len(x)} train, {len(calibration)} could calibrate, {len(evaluation)} judge, {len(LANGUAGES)} languages")
write(
    "bytes_language",
    export(model, torch.zeros(1, LENGTH, dtype=torch.int64), "text", "scores"),
    {"text": np.random.default_rng(0).permutation(calibration)[:CALIBRATION]},
    {"text": evaluation, "y": truth},
    metric="top1",
    family="integer inputs (bytes)",
    source="trained here on the translations of the package Django 5.2.19 (BSD-3)",
)
