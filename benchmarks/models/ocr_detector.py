"""A detector: PP-OCRv4's text detector on pages composed of rendered lines, whose boxes are known; mAP at IoU 0.5."""

import lines
import numpy as np
from PIL import Image
from sources import judging, write

SIZE, CALIBRATING, JUDGING, A_PAGE, MOST, GAP = 480, 24, judging(120), 9, 12, 8
MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)


def page(rng: np.random.Generator, images: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Lines pasted on noisy paper without overlap: the page [SIZE, SIZE] and the boxes of its text [MOST, 4].

    A box is x0, y0, x1, y1 of the letters; rows without a box are NaN.
    """
    sheet = np.clip(rng.integers(120, 256) + rng.normal(0, 4, (SIZE, SIZE)), 0, 255).astype(np.uint8)
    boxes: list[tuple[int, int, int, int]] = []
    for image in images:
        for _ in range(60):
            scale = rng.uniform(0.45, 1.1)
            w, h = round(image.shape[1] * scale), round(image.shape[0] * scale)
            if w >= SIZE - 8:
                continue
            x, y = int(rng.integers(2, SIZE - w - 2)), int(rng.integers(2, SIZE - h - 2))
            if all(x >= b[2] + GAP or x + w + GAP <= b[0] or y >= b[3] + GAP or y + h + GAP <= b[1] for b in boxes):
                boxes.append((x, y, x + w, y + h))
                sheet[y : y + h, x : x + w] = np.asarray(Image.fromarray(image).resize((w, h), Image.BILINEAR))
                break
    # Lines are rendered with a margin of 4 pixels beside the letters and 6 above and below, of 48.
    truth = np.full((MOST, 4), np.nan, np.float32)
    for row, (x0, y0, x1, y1) in zip(truth, boxes, strict=False):
        scale = (y1 - y0) / lines.HEIGHT
        row[:] = x0 + 4 * scale, y0 + 6 * scale, x1 - 4 * scale, y1 - 6 * scale
    return sheet, truth


count = CALIBRATING + JUDGING
images = lines.rendered(lines.texts(A_PAGE * count, 20, seed=3), 320, hard=0.9, seed=3)
rng = np.random.default_rng(3)
pages = [page(rng, images[A_PAGE * index : A_PAGE * (index + 1)]) for index in range(count)]
gray = np.stack([sheet for sheet, _ in pages]).astype(np.float32) / 255
x = (gray[:, None] - MEAN[:, None, None]) / STD[:, None, None]
write(
    "ocr_detector",
    lines.network("ch_PP-OCRv4_det_infer.onnx"),
    {"x": x[:CALIBRATING]},
    {"x": x[CALIBRATING:], "y": np.stack([truth for _, truth in pages[CALIBRATING:]])},
    metric="map50",
    edgepack={"metric": "own_metrics:map50"},
    family="detector (boxes)",
    source="PP-OCR of the package rapidocr-onnxruntime 1.4.4; pages of lines rendered with matplotlib's fonts",
)
