"""Images as a script or a notebook has them: arrays, tensors and torch's datasets, as uint8 arrays."""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from common.data.datasets import Dataset
from common.data.pictures import in_color
from common.errors import FedShieldError
from common.user_code import what_was_raised

log = logging.getLogger("fedshield")

_EXACT = 1e-3  # of a step of 1/255
_LAST_CLASS = np.iinfo(np.int16).max  # predictions are int16
_ITEMS = "each item must be (image, label), label a whole number; or give a pair (images, labels)"
_PLAIN = "without normalization, since the network normalizes"


def to_pixels(images: Any, what: str = "images") -> NDArray[np.uint8]:
    """Return images as uint8 [N,3,H,W].

    Args:
        images: an array or tensor [N,H,W], [N,1,H,W], [N,3,H,W] or [N,H,W,3]; integers from 0 to 255 or floats from 0
            to 1, which are rounded to 1/255.
        what: they are, for messages.

    Raises:
        FedShieldError: they are none of these.
    """
    array = _array(_items_as_arrays(images, what), what)
    if array.ndim == 3:
        array = array[:, None]
    if array.ndim == 4 and array.shape[1] not in (1, 3) and array.shape[3] in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    if array.ndim != 4 or array.shape[1] not in (1, 3) or not array.size:
        raise FedShieldError(
            f"{what}: an array of shape {tuple(array.shape)}; give images as [N,3,H,W], [N,1,H,W], [N,H,W,3] or [N,H,W]"
        )
    array = _bytes(array, what)
    colored = np.repeat(array, 3, 1) if array.shape[1] == 1 else array
    return np.require(colored, requirements=["C_CONTIGUOUS", "WRITEABLE"])  # torch warns of others


def _items_as_arrays(images: Any, what: str) -> Any:
    """Return pictures of PIL, in whatever holds them, as arrays; anything else as it is.

    Raises:
        FedShieldError: these are images with labels; before all of them are read.
    """
    held = hasattr(images, "__len__") and hasattr(images, "__getitem__") and not hasattr(images, "__array__")
    if not held or isinstance(images, str | bytes | Mapping) or not len(images):
        return images
    if isinstance(images[0], tuple | Mapping) and not isinstance(images, list | tuple):
        raise FedShieldError(
            f"{what}: {type(images).__name__}; a dataset has its own labels, so give it alone (training and test "
            "images as data=... and test=...)"
        )
    if not hasattr(images[0], "convert"):
        return images
    return [_picture(images[number], f"{what}[{number}]") for number in range(len(images))]


def _array(values: Any, what: str) -> NDArray[Any]:
    try:
        if hasattr(values, "detach"):
            values = values.detach().cpu()
            values = values.float().numpy() if values.is_floating_point() else values.numpy()
        return np.asarray(values)
    except MemoryError:
        raise
    except Exception as error:  # of several shapes, tensors that keep gradients, and whatever an object raises
        raise FedShieldError(f"{what}: cannot be one array ({what_was_raised(error)}); give all of one size") from error


def _bytes(array: NDArray[Any], what: str) -> NDArray[np.uint8]:
    if array.dtype.kind in "iu" and array.max() == 1:
        raise FedShieldError(
            f"{what}: {array.dtype} values 0 and 1, nearly black where white is 255; give floats from 0 to 1, or "
            "integers from 0 to 255"
        )
    if array.dtype == np.uint8:
        return array
    low, high = (array.min(), array.max()) if array.dtype.kind in "iuf" else (-1, -1)
    if array.dtype.kind == "f" and low >= 0 and high <= 1:
        scaled = array * 255
        rounded = scaled.round()
        if np.abs(scaled - rounded).max() > _EXACT:
            log.info("%s: rounded to multiples of 1/255, as image files have them", what)
        return rounded.astype(np.uint8)
    if array.dtype.kind in "iu" and low >= 0 and high <= 255:
        return array.astype(np.uint8)
    if array.dtype.kind == "f" and (odd := int((~np.isfinite(array)).sum())):
        raise FedShieldError(f"{what}: {odd} of {array.size} values are not finite (NaN or infinite); leave them out")
    found = f"from {low:g} to {high:g}" if array.dtype.kind in "iuf" else "not numbers"
    advice = "divide these by 255" if array.dtype.kind == "f" and low >= 0 and high <= 255 else _PLAIN
    raise FedShieldError(
        f"{what}: {array.dtype} values {found}; give integers from 0 to 255 or floats from 0 to 1: {advice}"
    )


def to_labels(labels: Any, count: int, what: str = "labels") -> NDArray[np.int64]:
    """Return labels as int64 [``count``], 0 or more.

    Raises:
        FedShieldError: they are no such labels.
    """
    array = _array(labels, what)
    if array.shape == (count, 1):  # as MedMNIST has them
        array = array[:, 0]
    if array.shape != (count,) or array.dtype.kind not in "iu":
        raise FedShieldError(
            f"{what}: {array.dtype} of shape {tuple(array.shape)} for {count} images; give one whole number for each"
        )
    if array.min() < 0:
        raise FedShieldError(f"{what}: {array.min()} is among them; number the classes from 0")
    if array.max() > _LAST_CLASS:
        raise FedShieldError(f"{what}: {array.max()} is among them; number the classes from 0 to {_LAST_CLASS} at most")
    return array.astype(np.int64)


def to_dataset(data: Any, what: str) -> Dataset:
    """Return images and labels of a pair ``(images, labels)`` or of a dataset of torch or torchvision.

    Args:
        data: the pair; or an object with ``len`` whose items are ``(image, label)``, each image a PIL image, an array
            or a tensor. Its ``classes``, if it has any, name the classes.
        what: it is, for messages.

    Raises:
        FedShieldError: it is neither, or has no images.
    """
    if isinstance(data, tuple | list) and len(data) == 2:
        images, labels = data
    elif isinstance(data, np.ndarray | torch.Tensor):
        raise FedShieldError(f"{what}: images without labels; give a pair (images, labels)")
    elif hasattr(data, "__len__") and hasattr(data, "__getitem__") and not isinstance(data, Mapping):
        images, labels = _items(data, what)
    else:
        alone = "give its dataset; otherwise " if hasattr(data, "dataset") else ""
        raise FedShieldError(
            f"{what}: {type(data).__name__}; {alone}give the name of a dataset, the path of an image folder, a pair "
            "(images, labels) or a dataset of torch"
        )
    pixels = to_pixels(images, what)
    found = to_labels(labels, len(pixels), f"{what}: labels")
    classes = class_names(data, what) or tuple(map(str, range(found.max() + 1)))
    if found.max() >= len(classes):
        raise FedShieldError(f"{what}: label {found.max()}, but only {len(classes)} classes are named")
    return Dataset(pixels, found, classes)


def _items(data: Any, what: str) -> tuple[list[Any], list[int]]:
    """Return images and labels of a dataset; what one of its items raises is told with the item's number."""
    images, labels, place = [], [], what
    try:
        for number in range(len(data)):
            place = f"{what}[{number}]"
            item = data[number]
            if not (isinstance(item, tuple | list) and len(item) == 2):
                raise FedShieldError(f"{place}: {type(item).__name__}; {_ITEMS}")
            images.append(_picture(item[0], place))
            labels.append(_label(item[1], place))
    except (FedShieldError, MemoryError):
        raise
    except Exception as error:  # whatever a dataset of the user's raises
        raise FedShieldError(
            f"{place}: cannot be read from this {type(data).__name__} ({what_was_raised(error)}); {_ITEMS}"
        ) from error
    return images, labels


def _label(label: Any, place: str) -> int:
    array = _array(label, f"{place}: label")
    if array.size != 1 or array.dtype.kind not in "iu" or not 0 <= array.item() <= _LAST_CLASS:
        raise FedShieldError(f"{place}: label {label!r:.80}; give a whole number from 0 to {_LAST_CLASS}")
    return int(array.item())


def class_names(data: Any, what: str) -> tuple[str, ...]:
    """Return the names of a dataset's classes; none where it has no ``classes``."""
    names = getattr(data, "classes", None)
    if names is None:
        return ()
    if isinstance(names, str | bytes | Mapping) or not (hasattr(names, "__len__") and hasattr(names, "__getitem__")):
        raise FedShieldError(
            f"{what}: its classes = {names!r:.80}; make it a list of names, in the order of the labels, or None"
        )
    return tuple(map(str, names))


def _picture(image: Any, place: str) -> NDArray[Any]:
    """Return an image as an array; a picture of PIL in RGB."""
    if hasattr(image, "convert"):
        return np.asarray(in_color(image, image.format)).transpose(2, 0, 1)
    return _array(image, f"{place}: image")
