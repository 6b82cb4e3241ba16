"""Files and folders become samples.

A `.npz` holds one array per input name, the first axis the samples, and `y` for labels. A folder holds
`.npy` or `.npz` files, one a sample, or images: in class folders, or with a labels.csv, or unlabelled.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from edgepack.data import archive, preprocess
from edgepack.data.labels import IMAGE_SUFFIXES, check_labels, image_labels
from edgepack.data.preprocess import Spec
from edgepack.data.samples import Feed, Samples, digest
from edgepack.errors import NoSamples, SamplesError, UnreadableSample
from edgepack.model import Model, TensorSpec

Rows = np.ndarray | archive.StoredRows
_LABELS = "y"


def read(
    path: Path, model: Model, spec: Spec | None = None, classes: list[str] | None = None, truth: str = "classes"
) -> Samples:
    """Open the samples at `path` for `model`.

    Args:
        spec: how images become tensors; needed for image folders, applied to uint8 arrays in a .npz.
        classes: the names of the classes in order, where class folders or labels.csv use names.
        truth: what labels are: "classes", "text", "maps", "any", or "boxes", which come from annotations.

    Raises:
        NoSamples, SamplesError, UnreadableSample, LabelsError.
    """
    if not path.exists():
        raise NoSamples(f"{path} does not exist", "give a .npz file or a folder of samples")
    if path.is_dir():
        return _folder(path, model, spec, classes, truth)
    if path.suffix.lower() == ".npz":
        return _archive(path, model, spec, truth)
    if path.suffix.lower() in IMAGE_SUFFIXES | {".npy"}:
        raise SamplesError(f"{path} is one file", "give the folder that holds the samples, or a .npz")
    raise SamplesError(f"{path} is no kind of samples edgepack reads", "give a .npz file or a folder")


# --- .npz -----------------------------------------------------------------------------------------------


def _archive(path: Path, model: Model, spec: Spec | None, truth: str) -> Samples:
    arrays = _load(path)
    held = arrays.pop(_LABELS, None) if _LABELS not in {i.name for i in model.inputs} else None
    labels = held[:] if isinstance(held, archive.StoredRows) else held
    if not arrays:
        raise NoSamples(f"{path} holds no arrays", "it should hold one array per input, named like the input")
    arrays = _named(arrays, model, str(path))
    counts = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    if min(counts.values()) == 0:
        raise NoSamples(f"{path} holds no samples", "the first axis of each array counts the samples")
    if spec is not None:
        return _pixel_array(path, arrays, model, spec, labels, truth)
    steps = {tensor.name: _rows_a_feed(tensor, arrays[tensor.name], str(path)) for tensor in model.inputs}
    sizes = {name: len(arrays[name]) // (step or 1) for name, step in steps.items()}
    if len(set(sizes.values())) != 1:
        raise SamplesError(
            f"{path}: the inputs have different numbers of samples: "
            + ", ".join(f"{name} {count}" for name, count in sizes.items()),
            "the first axis of each array counts the samples",
        )
    count = next(iter(sizes.values()))
    if count == 0:
        raise NoSamples(
            f"{path} holds less than one batch of the model's fixed size, {max(steps.values())}",
            "add samples, or export the model with an open batch axis",
        )

    def one(index: int) -> Feed:
        return {
            tensor.name: _fit(tensor, _rows(arrays[tensor.name], index, steps[tensor.name]), str(path))
            for tensor in model.inputs
        }

    # The rows of a feed are those of the first input, and each has a label of its own.
    first = model.inputs[0]
    rows = len(one(0)[first.name]) if first.shape else 1
    if labels is not None and labels.ndim and len(labels) == len(arrays[first.name]) and steps[first.name]:
        labels = labels[: count * rows]  # what an incomplete last batch leaves over goes with its labels
    return Samples(
        source=str(path),
        count=count,
        read=one,
        digest=cache(lambda index: digest(one(index))),
        labels=check_labels(labels, count * rows, str(path), truth),
        stackable=set(steps.values()) == {1} and _takes_rows(model),
    )


def _takes_rows(model: Model) -> bool:
    """True where the first axis of every input and output is open."""
    return all(tensor.shape and not isinstance(tensor.shape[0], int) for tensor in (*model.inputs, *model.outputs))


def _rows(array: Rows, index: int, step: int) -> np.ndarray:
    return np.asarray(array[index] if step == 0 else array[index * step : (index + 1) * step])


def _load(path: Path) -> dict[str, Rows]:
    try:
        return archive.load(path)
    except ValueError as error:
        if "Object arrays" in str(error):
            raise SamplesError(
                f"{path} holds Python objects, which are never loaded", "save plain arrays with np.savez"
            ) from error
        raise UnreadableSample(f"{path} cannot be read: {error}", "copy or write it again") from error
    except Exception as error:  # a damaged archive raises many kinds
        raise UnreadableSample(
            f"{path} cannot be read: it is damaged or no .npz file", "copy or write it again"
        ) from error


def _named(arrays: dict[str, Rows], model: Model, where: str) -> dict[str, Rows]:
    """The arrays by the model's input names; a lone array for a lone input may have any name."""
    names = [tensor.name for tensor in model.inputs]
    if len(names) == 1 and len(arrays) == 1:
        return {names[0]: next(iter(arrays.values()))}
    missing = [name for name in names if name not in arrays]
    if missing:
        raise SamplesError(
            f"{where} lacks the input {', '.join(missing)}", f"it holds {', '.join(arrays) or 'nothing'}"
        )
    return {name: arrays[name] for name in names}


def _rows_a_feed(tensor: TensorSpec, array: Rows, where: str) -> int:
    """How many rows of the array's first axis make one feed; 0 where a row has all the input's axes itself."""
    rank = len(tensor.shape)
    if array.ndim == rank + 1:
        return 0
    if array.ndim != rank or rank == 0:
        raise SamplesError(
            f"{where}: {tensor.name} has {array.ndim} axes, the model wants {tensor} a sample",
            "the first axis of each array counts the samples",
        )
    batch = tensor.shape[0]
    return batch if isinstance(batch, int) else 1


def _pixel_array(
    path: Path, arrays: dict[str, Rows], model: Model, spec: Spec, labels: np.ndarray | None, truth: str
) -> Samples:
    array = next(iter(arrays.values()))
    if len(arrays) > 1 or array.dtype != np.uint8:
        raise SamplesError(
            f"{path}: --preprocess is for images: one array of uint8 pixels, not {array.dtype}",
            "leave --preprocess out if the arrays are ready for the model",
        )
    shape = array.shape
    planar = array.ndim == 4 and shape[1] in (1, 3) and shape[3] not in (1, 3)
    if array.ndim not in (3, 4) or (array.ndim == 4 and shape[3] not in (1, 3) and not planar):
        raise SamplesError(
            f"{path}: images have shape [n, height, width] or [n, height, width, 1 or 3]",
            f"this one is {list(shape)}",
        )

    def pixels(index: int) -> np.ndarray:
        image = array[index]
        return image.transpose(1, 2, 0) if planar else image[..., None] if image.ndim == 2 else image

    labels = check_labels(labels, len(array), str(path), truth)
    return _images(str(path), len(array), pixels, model, spec, labels)


# --- folders --------------------------------------------------------------------------------------------


def _folder(path: Path, model: Model, spec: Spec | None, classes: list[str] | None, truth: str) -> Samples:
    files = sorted(
        file
        for file in path.rglob("*")
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
    arrays = [file for file in files if file.suffix.lower() in (".npy", ".npz")]
    images = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
    if not arrays and not images:
        raise NoSamples(f"{path} holds no samples", "it should hold .npy, .npz or image files")
    if arrays and images:
        raise SamplesError(f"{path} holds both arrays and images", "keep one kind in a folder")
    if arrays:
        return _array_files(path, arrays, model)
    if spec is None:
        raise SamplesError(
            f"{path} holds images, and nothing says how they become the model's input",
            "add --preprocess, for example --preprocess imagenet or size=224x224,scale=255",
        )
    images, labels = image_labels(path, images, classes, truth)
    names = _names(path, images)
    return _images(str(path), len(images), lambda index: _decode(images[index]), model, spec, labels, names)


def _names(folder: Path, files: list[Path]) -> tuple[str, ...]:
    return tuple(file.relative_to(folder).as_posix() for file in files)


def _array_files(path: Path, files: list[Path], model: Model) -> Samples:
    def one(index: int) -> Feed:
        file = files[index]
        if file.suffix.lower() == ".npz":
            arrays = _named(_load(file), model, str(file))
        else:
            try:
                with file.open("rb") as content:
                    arrays = _named({"": np.lib.format.read_array(content, allow_pickle=False)}, model, str(file))
            except (OSError, ValueError, EOFError) as error:
                raise UnreadableSample(f"{file} cannot be read: {error}", "replace or remove it") from error
        feed = {}
        for tensor in model.inputs:
            held = arrays[tensor.name]
            array = held[:] if isinstance(held, archive.StoredRows) else held
            if array.ndim == len(tensor.shape) - 1:
                array = array[None]
            feed[tensor.name] = _fit(tensor, array, str(file))
        return feed

    one(0)
    return Samples(
        source=str(path),
        count=len(files),
        read=one,
        digest=cache(lambda index: digest(one(index))),
        names=_names(path, files),
    )


# --- images ---------------------------------------------------------------------------------------------


def _decode(path: Path) -> np.ndarray:
    try:
        return preprocess.code().decode(str(path))
    except Exception as error:  # Pillow raises many kinds
        raise UnreadableSample(f"{path} cannot be decoded as an image", "replace or remove it") from error


def _images(
    source: str,
    count: int,
    pixels: Callable[[int], np.ndarray],
    model: Model,
    spec: Spec,
    labels: np.ndarray | None,
    names: tuple[str, ...] | None = None,
) -> Samples:
    tensor = image_input(model)
    apply = preprocess.code().apply

    def one(index: int) -> Feed:
        try:
            array = apply(pixels(index), spec)[None]
            exact = array.astype(tensor.dtype, copy=False)
            if not tensor.is_float and not np.array_equal(exact, array):
                raise SamplesError(
                    f"{source}: {tensor} takes no fractions, which this preprocessing gives", "add dtype=uint8 to it"
                )
            return {tensor.name: exact}
        except ValueError as error:
            raise SamplesError(f"{source}: sample {index}: {error}", "replace or remove it") from error

    first = one(0)[tensor.name]
    try:
        _fit(tensor, first, source)
    except SamplesError as error:
        raise SamplesError(error.message, "let --preprocess give size, color and layout as the model wants") from None
    return Samples(
        source=source,
        count=count,
        read=one,
        digest=cache(lambda index: digest({"": pixels(index)})),
        labels=labels,
        names=names,
        stackable=spec["size"] is not None and _takes_rows(model),
        spec={**spec, "input": tensor.name},
        pixels=pixels,
    )


def image_input(model: Model) -> TensorSpec:
    """The one input that images feed."""
    candidates = [tensor for tensor in model.inputs if len(tensor.shape) == 4]
    if len(model.inputs) != 1 or not candidates:
        raise SamplesError(
            "images feed models with one input of four axes; this one has "
            + "; ".join(str(tensor) for tensor in model.inputs),
            "give a .npz with one array per input",
        )
    return candidates[0]


# --- checks ---------------------------------------------------------------------------------------------


def _fit(tensor: TensorSpec, array: np.ndarray, where: str) -> np.ndarray:
    """The array in the input's type, if its shape and kind allow it."""
    if array.ndim != len(tensor.shape) or any(
        isinstance(dim, int) and dim != size for dim, size in zip(tensor.shape, array.shape, strict=True)
    ):
        got = "×".join(map(str, array.shape)) or "scalar"
        raise SamplesError(
            f"{where}: {tensor.name} has shape {got}, the model wants {tensor}", "shape samples as the model takes them"
        )
    wanted = np.dtype(tensor.dtype)
    if not np.can_cast(array.dtype, wanted, "same_kind"):
        raise SamplesError(
            f"{where}: {tensor.name} is {array.dtype}, the model wants {tensor}",
            f"convert it with astype({wanted.name!r})",
        )
    return np.asarray(array, dtype=wanted, order="C")
