"""Attention: PP-OCRv4's recognizer, a convolutional net with Transformer blocks; character error rate."""

import lines
import numpy as np
from sources import judging, write

CALIBRATING, JUDGING, WIDTH = 64, judging(700), 320

pieces = lines.texts(CALIBRATING + JUDGING, 24, seed=2)
x = lines.padded(lines.rendered(pieces, WIDTH, hard=1.0, seed=2), WIDTH)
write(
    "ocr_recognizer",
    lines.network("ch_PP-OCRv4_rec_infer.onnx"),
    {"x": x[:CALIBRATING]},
    {"x": x[CALIBRATING:], "y": np.array(pieces[CALIBRATING:])},
    metric="cer",
    edgepack={"metric": "cer"},
    family="attention (recognizer)",
    source="PP-OCR of the package rapidocr-onnxruntime 1.4.4; lines rendered with matplotlib's fonts",
)
