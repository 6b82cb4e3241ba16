"""Preprocessing against Pillow and plain numpy, which share no code with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from edgepack.data import preprocess
from edgepack.errors import PreprocessError

CODE = preprocess.code()
BILINEAR, NEAREST = Image.Resampling.BILINEAR, Image.Resampling.NEAREST
PROPERTY = settings(max_examples=60, deadline=None, database=None)
side = st.integers(1, 60)
# Far from zero, so that neither scale nor std blows rounding errors up.
divisor = st.floats(0.1, 300) | st.floats(-300, -0.1)
number = st.floats(-300, 300)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """White noise, on which a wrong pixel shows at once."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def apply(pixels: np.ndarray, **keys: object) -> np.ndarray:
    """What a specification gives as rows of RGB pixels, uint8 unless `keys` say otherwise."""
    return CODE.apply(pixels, preprocess.complete({"layout": "nhwc", "dtype": "uint8", **keys}))


def resized(pixels: np.ndarray, height: int, width: int, kind: Image.Resampling = BILINEAR) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((width, height), kind))


def farthest(one: np.ndarray, other: np.ndarray) -> int:
    assert one.shape == other.shape
    return int(np.abs(one.astype(int) - other.astype(int)).max())


# --- resize ---------------------------------------------------------------------------------------------


@PROPERTY
@given(side, side, side, side)
def test_bilinear_resize_is_that_of_pillow(height: int, width: int, new_height: int, new_width: int) -> None:
    pixels = picture(height, width)
    ours = apply(pixels, size=[new_height, new_width])
    assert farthest(ours, resized(pixels, new_height, new_width)) <= 1


@PROPERTY
@given(side, side, side, side)
@example(48, 48, 20, 5)
def test_nearest_resize_is_that_of_pillow(height: int, width: int, new_height: int, new_width: int) -> None:
    pixels = picture(height, width)
    ours = apply(pixels, size=[new_height, new_width], filter="nearest")
    assert farthest(ours, resized(pixels, new_height, new_width, NEAREST)) <= 1


@pytest.mark.parametrize(("height", "width"), [(480, 641), (101, 99), (28, 28), (1, 500)])
def test_bilinear_resize_of_a_photograph_s_size(height: int, width: int) -> None:
    pixels = picture(height, width)
    assert farthest(apply(pixels, size=[224, 224]), resized(pixels, 224, 224)) <= 1


@pytest.mark.parametrize("kind", ["bilinear", "nearest"])
def test_image_of_the_right_size_is_left_alone(kind: str) -> None:
    pixels = picture(17, 23)
    assert np.array_equal(apply(pixels, size=[17, 23], filter=kind), pixels)


def test_without_a_size_the_image_keeps_its_own() -> None:
    pixels = picture(17, 23)
    assert np.array_equal(apply(pixels), pixels)


# --- crop -----------------------------------------------------------------------------------------------


def torchvision_crop(pixels: np.ndarray, short: int, height: int, width: int) -> np.ndarray:
    """Resize(short) and CenterCrop((height, width)) with torchvision's rounding, done with Pillow."""
    old_height, old_width = pixels.shape[:2]
    if old_width <= old_height:
        new_height, new_width = int(short * old_height / old_width), short
    else:
        new_height, new_width = short, int(short * old_width / old_height)
    top, left = round((new_height - height) / 2.0), round((new_width - width) / 2.0)
    return resized(pixels, new_height, new_width)[top : top + height, left : left + width]


@pytest.mark.parametrize(("height", "width"), [(64, 64), (64, 128), (128, 64), (96, 64), (16, 32)])
def test_crop_takes_the_centre_of_the_resized_image(height: int, width: int) -> None:
    pixels = picture(height, width)
    ours = apply(pixels, size=[24, 20], resize="crop", short=32)
    assert farthest(ours, torchvision_crop(pixels, 32, 24, 20)) <= 1


@PROPERTY
@given(side, side, st.integers(24, 40))
@example(30, 45, 33)
@example(40, 47, 31)
def test_crop_rounds_as_torchvision_does(height: int, width: int, short: int) -> None:
    """Published accuracies of image classifiers were measured with it, and `imagenet` is for those."""
    pixels = picture(height, width)
    ours = apply(pixels, size=[24, 20], resize="crop", short=short)
    assert farthest(ours, torchvision_crop(pixels, short, 24, 20)) <= 1


def test_the_imagenet_preset_is_torchvision_s() -> None:
    pixels = picture(300, 451)
    cropped = torchvision_crop(pixels, 256, 224, 224) / 255.0
    expected = (cropped - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    ours = CODE.apply(pixels, preprocess.read("imagenet"))
    assert ours.shape == (3, 224, 224)
    assert np.abs(ours.transpose(1, 2, 0) - expected).max() < 1.01 / 255 / 0.224


def test_crop_without_short_makes_the_shorter_side_the_size_itself() -> None:
    pixels = picture(30, 60)
    assert np.array_equal(apply(pixels, size=[30, 30], resize="crop"), pixels[:, 15:45])


def test_crop_that_does_not_fit_is_an_error() -> None:
    spec = {**preprocess.complete({"size": [8, 8], "resize": "crop"}), "short": 4}
    with pytest.raises(ValueError, match="8x8"):
        CODE.apply(picture(20, 20), spec)


# --- letterbox ------------------------------------------------------------------------------------------


def letterboxed(pixels: np.ndarray, height: int, width: int, fill: int) -> np.ndarray:
    """As YOLO's reference code does it, but resized with Pillow: the odd line goes below and to the right."""
    ratio = min(height / pixels.shape[0], width / pixels.shape[1])
    new_height, new_width = max(1, round(pixels.shape[0] * ratio)), max(1, round(pixels.shape[1] * ratio))
    top, left = round((height - new_height) / 2 - 0.1), round((width - new_width) / 2 - 0.1)
    canvas = Image.new("RGB", (width, height), (fill, fill, fill))
    canvas.paste(Image.fromarray(resized(pixels, new_height, new_width)), (left, top))
    return np.asarray(canvas)


@PROPERTY
@given(side, side, side, side, st.integers(0, 255))
def test_letterbox_keeps_the_proportions_and_fills_the_rest(
    height: int, width: int, new_height: int, new_width: int, fill: int
) -> None:
    pixels = picture(height, width)
    ours = apply(pixels, size=[new_height, new_width], resize="letterbox", fill=fill)
    assert farthest(ours, letterboxed(pixels, new_height, new_width, fill)) <= 1


def test_letterbox_borders_are_normalized_like_pixels() -> None:
    spec = preprocess.read("yolo,size=8x8")
    assert CODE.apply(np.full((4, 8, 3), 255, np.uint8), spec)[0, 0, 0] == pytest.approx(114 / 255)


# --- colour, numbers, layout ----------------------------------------------------------------------------


def test_bgr_is_rgb_backwards() -> None:
    pixels = picture(5, 7)
    assert np.array_equal(apply(pixels, color="bgr"), pixels[:, :, ::-1])


@PROPERTY
@given(st.integers(0, 2**32 - 1))
def test_gray_is_pillow_s_luma(seed: int) -> None:
    pixels = picture(16, 16, seed)
    luma = np.asarray(Image.fromarray(pixels).convert("L"))
    assert farthest(apply(pixels, color="gray")[:, :, 0], luma) <= 1


def test_gray_of_extreme_colours() -> None:
    colours = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    assert apply(colours, color="gray")[0, :, 0].tolist() == [0, 255, 76, 150, 29]


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1)])
def test_gray_pixels_stay_gray_or_become_three_equal_channels(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    plane = pixels.reshape(5, 7)
    assert np.array_equal(apply(pixels, color="gray")[:, :, 0], plane)
    for color in ("rgb", "bgr"):
        assert np.array_equal(apply(pixels, color=color), np.stack([plane] * 3, axis=-1))


@PROPERTY
@given(divisor, st.lists(number, min_size=3, max_size=3), st.lists(divisor, min_size=3, max_size=3))
def test_normalization_is_scale_then_mean_then_std(scale: float, mean: list[float], std: list[float]) -> None:
    pixels = picture(4, 5)
    ours = apply(pixels, dtype="float32", scale=scale, mean=mean, std=std)
    expected = (pixels.astype(np.float64) / scale - np.array(mean)) / np.array(std)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max() + 1e-5)


def test_one_mean_is_for_every_channel() -> None:
    pixels = picture(4, 5)
    ours = apply(pixels, dtype="float32", mean=127.5, std=127.5)
    np.testing.assert_allclose(ours, pixels / 127.5 - 1, atol=1e-6)


def test_mean_follows_the_channels_of_bgr() -> None:
    """The numbers are given in the order in which the model gets the channels."""
    ours = apply(np.full((2, 2, 3), (10, 20, 30), np.uint8), dtype="float32", color="bgr", mean=[1, 2, 3])
    assert ours[0, 0].tolist() == [29, 18, 7]


def test_layout() -> None:
    pixels = picture(4, 5)
    channels_first, channels_last = (CODE.apply(pixels, preprocess.complete({"layout": o})) for o in ("nchw", "nhwc"))
    assert channels_first.shape == (3, 4, 5)
    assert channels_last.shape == (4, 5, 3)
    assert np.array_equal(channels_first.transpose(1, 2, 0), channels_last)
    assert channels_first.flags.c_contiguous
    assert channels_last.flags.c_contiguous


def test_uint8_feeds_the_pixels_as_they_are() -> None:
    ours = apply(picture(9, 11), size=[9, 11], scale=255, mean=0.5)
    assert ours.dtype == np.uint8
    assert np.array_equal(ours, picture(9, 11))


def test_apply_leaves_the_image_as_it_was() -> None:
    pixels = picture(6, 6)
    for keys in ({"color": "bgr"}, {"size": [6, 6]}, {"size": [3, 3], "dtype": "float32", "mean": 3.0}):
        apply(pixels, **keys)
    assert np.array_equal(pixels, picture(6, 6))


@pytest.mark.parametrize("shape", [(4,), (4, 4, 2), (4, 4, 4), (1, 4, 4, 3)])
def test_what_is_no_image_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="an image has shape"):
        apply(np.zeros(shape, np.uint8))


# --- decode ---------------------------------------------------------------------------------------------

UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_decode_turns_an_image_upright(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture(6, 9)).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(CODE.decode(str(tmp_path / "turned.png")), UPRIGHT[orientation](picture(6, 9)))


def test_decode_takes_a_path_or_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    Image.fromarray(picture(32, 24)).save(path)
    assert np.array_equal(CODE.decode(str(path)), CODE.decode(path.read_bytes()))


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "CMYK"])
def test_decode_gives_rgb_whatever_the_file_holds(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "picture.tif"
    image = Image.fromarray(picture(8, 8)).convert(mode)
    image.save(path)
    decoded = CODE.decode(str(path))
    assert decoded.dtype == np.uint8
    assert np.array_equal(decoded, np.asarray(image.convert("RGB")))


def test_decode_keeps_the_shades_of_a_16_bit_image(tmp_path: Path) -> None:
    shades = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    Image.fromarray(shades).save(tmp_path / "deep.png")
    assert farthest(CODE.decode(str(tmp_path / "deep.png"))[:, :, 0], np.arange(256).reshape(16, 16)) <= 1


# --- specifications -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", preprocess.PRESETS)
def test_every_preset_is_complete_and_runs(name: str) -> None:
    spec = preprocess.read(name)
    assert set(spec) == set(CODE.DEFAULTS)
    assert spec == preprocess.complete(preprocess.PRESETS[name])
    assert np.isfinite(CODE.apply(picture(40, 50), spec)).all()


def test_presets_are_what_their_names_say() -> None:
    unit, centred, mnist = (preprocess.read(name) for name in ("unit", "minus-one-to-one", "mnist"))
    assert preprocess.range_of(unit) == (0, 1)
    assert preprocess.range_of(centred) == (-1, 1)
    assert preprocess.range_of(preprocess.read("pixels")) == (0, 255)
    assert CODE.apply(picture(40, 50), mnist).shape == (1, 28, 28)
    assert CODE.apply(picture(40, 50), preprocess.read("yolo")).shape == (3, 640, 640)


@PROPERTY
@given(st.lists(number, min_size=3, max_size=3), st.sampled_from([",", "/", " , "]))
def test_pairs_hold_numbers_with_commas(mean: list[float], comma: str) -> None:
    spec = preprocess.read(f"scale=255,mean={comma.join(map(str, mean))},size=8x6,color=bgr")
    assert spec["mean"] == mean
    assert spec["scale"] == 255
    assert spec["size"] == [8, 6]
    assert spec["color"] == "bgr"


def test_commas_in_the_last_pair() -> None:
    assert preprocess.read("mean=0.1,0.2,0.3")["mean"] == [0.1, 0.2, 0.3]


@pytest.mark.parametrize(("text", "size"), [("64", [64, 64]), ("64x32", [64, 32]), ("64X32", [64, 32])])
def test_size_is_one_number_or_two(text: str, size: list[int]) -> None:
    assert preprocess.read(f"size={text}")["size"] == size


def test_pairs_override_the_preset_before_them() -> None:
    spec, imagenet = preprocess.read("imagenet, size = 192x160"), preprocess.read("imagenet")
    assert spec == {**imagenet, "size": [192, 160]}


def test_a_preset_survives_what_overrides_it() -> None:
    before = preprocess.read("imagenet")
    preprocess.read("imagenet,mean=1,2,3")["std"].append(5.0)
    assert preprocess.read("imagenet") == before


def test_yaml_file(tmp_path: Path) -> None:
    path = tmp_path / "images.yaml"
    path.write_text("size: [32, 48]\nmean: [1, 2, 3]\nstd: 4\ncolor: bgr\nshort: null\n")
    spec = preprocess.read(str(path))
    assert spec == preprocess.read("size=32x48,mean=1,2,3,std=4,color=bgr")


@pytest.mark.parametrize(("text", "size"), [("64", [64, 64]), ("64x32", [64, 32]), ("[64, 32]", [64, 32])])
def test_sizes_in_yaml(text: str, size: list[int], tmp_path: Path) -> None:
    (tmp_path / "images.yml").write_text(f"size: {text}\n")
    assert preprocess.read(str(tmp_path / "images.yml"))["size"] == size


def test_yaml_file_with_a_preset(tmp_path: Path) -> None:
    path = tmp_path / "images.json"
    path.write_text('{"preset": "imagenet", "size": [192, 192]}')
    assert preprocess.read(str(path)) == preprocess.read("imagenet,size=192x192")


# Text and what the error must name.
NONSENSE = {
    "imagnet": "imagenet",
    "siz=3": "size",
    "color=grey": "rgb, bgr, gray",
    "resize=pad": "letterbox",
    "size=0x3": "size=0x3",
    "size=3x4x5": "size=3x4x5",
    "size=big": "size=big",
    "short=1.5": "short=1.5",
    "scale=x": "scale=x",
    "mean=1,x,3": "mean=1,x,3",
    "mean=1,2": "mean",
    "color=gray,mean=1,2,3": "mean",
    "std=1,2,3,4": "std",
    "scale=0": "zero",
    "std=1,0,1": "zero",
    "imagenet,size=512x512": "short=256",
    "": "imagenet",
    "no-such-file.yaml": "no-such-file.yaml",
}


@pytest.mark.parametrize("text", NONSENSE)
def test_nonsense_is_named(text: str) -> None:
    with pytest.raises(PreprocessError) as caught:
        preprocess.read(text)
    assert NONSENSE[text] in str(caught.value)


@pytest.mark.parametrize("text", ["scale=nan", "scale=inf", "mean=nan", "mean=1,inf,3", "std=nan", "fill=nan"])
def test_numbers_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(PreprocessError):
        preprocess.read(text)


@pytest.mark.parametrize("text", ["resize=crop,short=64", "resize=letterbox", "yolo,resize=crop,size=8x8,short=0"])
def test_a_resize_that_would_silently_do_nothing_is_refused(text: str) -> None:
    with pytest.raises(PreprocessError):
        preprocess.read(text)


@pytest.mark.parametrize("text", ["[1, 2]", "just words", "a: [", "", "preset: imagnet", "size: [1, 2, 3]", "size: -1"])
def test_yaml_nonsense_is_an_error_of_its_own(text: str, tmp_path: Path) -> None:
    (tmp_path / "images.yaml").write_text(text)
    with pytest.raises(PreprocessError):
        preprocess.read(str(tmp_path / "images.yaml"))


@pytest.mark.parametrize("key", ["mean", "std", "scale", "fill", "resize", "filter", "color", "layout", "dtype"])
def test_empty_key_in_yaml_is_refused(key: str, tmp_path: Path) -> None:
    """Only the size and the short side may be null."""
    (tmp_path / "images.yaml").write_text(f"{key}:\n")
    with pytest.raises(PreprocessError, match=key):
        preprocess.read(str(tmp_path / "images.yaml"))


@pytest.mark.parametrize("key", ["5", "true", "null"])
def test_key_that_is_no_word_is_unknown(key: str, tmp_path: Path) -> None:
    (tmp_path / "images.yaml").write_text(f"{key}: 1\n")
    with pytest.raises(PreprocessError, match="unknown"):
        preprocess.read(str(tmp_path / "images.yaml"))


# --- range_of -------------------------------------------------------------------------------------------


@PROPERTY
@given(divisor, st.lists(number, min_size=3, max_size=3), st.lists(divisor, min_size=3, max_size=3))
def test_range_is_that_of_all_256_values(scale: float, mean: list[float], std: list[float]) -> None:
    values = (np.arange(256)[:, None] / scale - np.array(mean)) / np.array(std)
    low, high = preprocess.range_of(preprocess.complete({"scale": scale, "mean": mean, "std": std}))
    assert low == pytest.approx(values.min())
    assert high == pytest.approx(values.max())


def test_range_of_uint8_is_that_of_pixels() -> None:
    spec: dict[str, Any] = preprocess.read("imagenet,dtype=uint8")
    assert preprocess.range_of(spec) == (0, 255)
