"""An image becomes a model's input, with numpy alone: the same code calibrates, evaluates and runs on the device.

Copied into every bundle whose inputs are images. Python 3.8, standard library and numpy; Pillow decodes files.

The order is: colour, resize, crop or pad, scale, mean and std, layout. A specification is a flat dict:

    size      [height, width] of the result, or null to keep the image's own
    resize    "stretch", "crop" (shorter side to `short`, then the centre) or "letterbox" (pad to fit)
    short     length of the shorter side before a centre crop; null means the size itself
    fill      pixel value of letterbox borders
    filter    "bilinear" (widened when shrinking, as Pillow does) or "nearest"
    color     "rgb", "bgr" or "gray"
    scale     pixel values are divided by this first, then (x - mean) / std
    mean      one number, or one a channel
    std       one number, or one a channel
    layout    "nchw" or "nhwc"
    dtype     "float32", or "uint8" to feed pixels as they are
"""

import io

import numpy as np

DEFAULTS = {
    "size": None,
    "resize": "stretch",
    "short": None,
    "fill": 114,
    "filter": "bilinear",
    "color": "rgb",
    "scale": 1.0,
    "mean": [0.0],
    "std": [1.0],
    "layout": "nchw",
    "dtype": "float32",
}


def decode(source):
    """Decode an image file into uint8 pixels.

    Args:
        source: a path, or the file's bytes.

    Returns:
        uint8 array of shape [height, width, 3], RGB, turned upright by its EXIF orientation.
    """
    from PIL import Image, ImageOps

    if isinstance(source, (bytes, bytearray)):
        source = io.BytesIO(source)
    with Image.open(source) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I"):  # 16 bits a pixel, which convert would cut off at 255
            upright = Image.fromarray(np.clip(np.asarray(upright) // 256, 0, 255).astype(np.uint8))
        return np.asarray(upright.convert("RGB"))


def apply(pixels, spec):
    """Turn one image into one input of a model, without the batch axis.

    Args:
        pixels: uint8 array of shape [height, width], [height, width, 1] or [height, width, 3] (RGB).
        spec: a specification as in the module's text, complete.

    Returns:
        float32 (or uint8) array of shape [channels, height, width] or [height, width, channels].
    """
    image = _color(np.asarray(pixels), spec["color"]).astype(np.float32)
    if spec["size"] is not None:
        image = _fit(image, spec)
    if spec["dtype"] == "uint8":
        image = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    else:
        mean = np.asarray(spec["mean"], np.float32)
        std = np.asarray(spec["std"], np.float32)
        image = (image / np.float32(spec["scale"]) - mean) / std
    if spec["layout"] == "nchw":
        image = image.transpose(2, 0, 1)
    return np.ascontiguousarray(image)


def _color(pixels, color):
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
        raise ValueError("an image has shape [height, width], [.., 1] or [.., 3], not %s" % (pixels.shape,))
    if color == "gray":
        if pixels.shape[2] == 1:
            return pixels
        # ITU-R BT.601 luma, the weights Pillow uses.
        return np.rint(pixels.astype(np.float32) @ np.array([[0.299], [0.587], [0.114]], np.float32))
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    return pixels[:, :, ::-1] if color == "bgr" else pixels


def _fit(image, spec):
    height, width = spec["size"]
    if spec["resize"] == "crop":
        short = spec["short"] or max(height, width)
        # Rounded as torchvision's Resize and CenterCrop do: models were judged with those.
        smallest = min(image.shape[:2])
        image = _resample(image, [int(short * side / smallest) for side in image.shape[:2]], spec["filter"])
        top, left = round((image.shape[0] - height) / 2), round((image.shape[1] - width) / 2)
        if top < 0 or left < 0:
            raise ValueError("a crop of %dx%d does not fit a shorter side of %d" % (height, width, short))
        return image[top : top + height, left : left + width]
    if spec["resize"] == "letterbox":
        ratio = min(height / image.shape[0], width / image.shape[1])
        image = _resample(image, [max(1, round(side * ratio)) for side in image.shape[:2]], spec["filter"])
        canvas = np.full((height, width, image.shape[2]), spec["fill"], np.float32)
        top, left = (height - image.shape[0]) // 2, (width - image.shape[1]) // 2
        canvas[top : top + image.shape[0], left : left + image.shape[1]] = image
        return canvas
    return _resample(image, (height, width), spec["filter"])


def _resample(image, size, kind):
    """Resize [height, width, channels] along each axis by a matrix of filter weights."""
    height, width = size
    if image.shape[:2] == (height, width):
        return image
    rows = _weights(image.shape[0], height, kind)
    columns = _weights(image.shape[1], width, kind)
    resized = np.einsum("hH,HWc,wW->hwc", rows, image, columns, optimize=True)
    # Back to whole pixel values, as every image library leaves them: models were trained on those.
    return np.rint(resized).astype(np.float32)


def _weights(source, target, kind):
    """Weights [target, source] of a resampling filter with half-pixel centres."""
    step = source / target
    # A running sum, as in Pillow: where a centre falls between two pixels, its rounding decides.
    centres = np.cumsum(np.append(0.5 * step, np.full(target - 1, step)))
    if kind == "nearest":
        weights = np.zeros((target, source), np.float32)
        weights[np.arange(target), np.minimum(centres.astype(int), source - 1)] = 1
        return weights
    support = max(step, 1.0)
    distance = np.abs(np.arange(source)[None, :] + 0.5 - centres[:, None]) / support
    weights = np.maximum(0.0, 1.0 - distance)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
