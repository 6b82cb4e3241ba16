"""Rendered lines of text with known truth: matplotlib's fonts, the words of Python's own documentation."""

from __future__ import annotations

import io
import re
from pydoc_data import topics

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from sources import wheel

FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSerif", "DejaVuSerif-Italic")
HEIGHT = 48
MODELS = "rapidocr_onnxruntime/models/"


def network(file: str) -> bytes:
    """A PP-OCR network (Apache-2.0) out of the package rapidocr-onnxruntime."""
    return wheel("rapidocr-onnxruntime==1.4.4").read(MODELS + file)


def texts(count: int, longest: int, seed: int = 0) -> list[str]:
    """Different pieces of one to five words from Python's documentation, up to `longest` letters."""
    words = re.findall(
        r"[A-Za-z][A-Za-z0-9,.'()-]{1,14}", " ".join(topics.topics[key] for key in sorted(topics.topics))
    )
    rng = np.random.default_rng(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        start = int(rng.integers(len(words) - 5))
        piece = " ".join(words[start : start + int(rng.integers(1, 6))])
        if 3 <= len(piece) <= longest:
            found[piece] = None
    return list(found)


def fonts() -> list[bytes]:
    archive = wheel("matplotlib==3.11.2")
    return [archive.read(f"matplotlib/mpl-data/fonts/ttf/{name}.ttf") for name in FONTS]


def ink(text: str, font: bytes, size: int) -> np.ndarray:
    """The text alone, 0 to 1, cut to its pixels."""
    face = ImageFont.truetype(io.BytesIO(font), size)
    left, top, right, bottom = face.getbbox(text)
    image = Image.new("L", (int(right - left) + 4, int(bottom - top) + 4), 0)
    ImageDraw.Draw(image).text((2 - left, 2 - top), text, fill=255, font=face)
    return np.asarray(image, np.float32) / 255


def line(text: str, font: bytes, rng: np.random.Generator, width: int, hard: float) -> np.ndarray:
    """A gray line [48, up to width] as a camera might see it.

    Args:
        hard: how bad contrast, blur, noise and slant may get; 1 leaves a recognizer some lines it cannot read.
    """
    mask = Image.fromarray((255 * ink(text, font, 34)).astype(np.uint8))
    mask = mask.rotate(float(rng.uniform(-1.5, 1.5) * hard), Image.BICUBIC, expand=True)
    shown = min(width - 8, max(8, round(mask.width * (HEIGHT - 12) / mask.height)))
    small = max(4, round(shown * (1 - 0.6 * hard * rng.random())))
    mask = mask.resize((small, max(4, round((HEIGHT - 12) * small / shown))), Image.BILINEAR)
    mask = mask.resize((shown, HEIGHT - 12), Image.BILINEAR)
    mask = mask.filter(ImageFilter.GaussianBlur(float(1.6 * hard * rng.random())))
    canvas = np.zeros((HEIGHT, shown + 8), np.float32)
    canvas[6 : HEIGHT - 6, 4 : 4 + shown] = np.asarray(mask, np.float32) / 255
    paper, contrast = rng.uniform(120, 250), rng.uniform(1 - 0.85 * hard, 1.0)
    noise = rng.normal(0, 24 * hard * rng.random(), canvas.shape)
    return np.clip(paper - canvas * contrast * paper + noise, 0, 255).astype(np.uint8)


def rendered(pieces: list[str], width: int, hard: float, seed: int) -> list[np.ndarray]:
    rng, faces = np.random.default_rng(seed), fonts()
    return [line(text, faces[int(rng.integers(len(faces)))], rng, width, hard) for text in pieces]


def padded(images: list[np.ndarray], width: int) -> np.ndarray:
    """Gray lines as PP-OCR takes them: float32 [n, 3, 48, width], −1 to 1, 0 beside the line."""
    batch = np.zeros((len(images), 3, HEIGHT, width), np.float32)
    for row, image in zip(batch, images, strict=True):
        row[:, :, : image.shape[1]] = (image.astype(np.float32) / 255 - 0.5) / 0.5
    return batch
