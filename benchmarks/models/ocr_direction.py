"""Hard-swish with squeeze-excite (MobileNetV3): PP-OCR's classifier of lines that stand on their head."""

import lines
import numpy as np
from sources import judging, write

CALIBRATING, JUDGING = 64, judging(700)

images = lines.rendered(lines.texts(CALIBRATING + JUDGING, 16, seed=1), 192, hard=0.7, seed=1)
upright = lines.padded(images, 192)
turned = lines.padded([image[::-1, ::-1] for image in images], 192)
rng = np.random.default_rng(1)
# Each line both ways round, in one part only.
order = rng.permutation(2 * JUDGING)
x = np.concatenate([upright[CALIBRATING:], turned[CALIBRATING:]])[order]
y = np.repeat([0, 1], JUDGING)[order]
write(
    "ocr_direction",
    lines.network("ch_ppocr_mobile_v2.0_cls_infer.onnx"),
    {"x": rng.permutation(np.concatenate([upright[:CALIBRATING], turned[:CALIBRATING]]))},
    {"x": x, "y": y},
    metric="top1",
    family="hard-swish, squeeze-excite",
    source="PP-OCR of the package rapidocr-onnxruntime 1.4.4; lines rendered with matplotlib's fonts",
)
