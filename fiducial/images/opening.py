"""Open images: the format by the file's first bytes, never by its name, from a short allow-list."""

import os
from pathlib import Path

import numpy as np
from jaxtyping import Shaped
from PIL import JpegImagePlugin, PngImagePlugin

from fiducial.images.limits import MAX_BYTES, MAX_CHANNELS, check_dtype, first_bytes, readable
from fiducial.images.omezarr import open_omezarr
from fiducial.images.photos import JPEG, PNG, open_photo
from fiducial.images.tiff import TIFF, open_tiff
from fiducial.records import Image, InputError


def open_image(path: str | Path, max_bytes: int = MAX_BYTES) -> Image:
    """Open an image file; pixels are decoded when they are read.

    PNG and JPEG are decoded whole at the first read and turned as their EXIF orientation says; TIFF and OME-Zarr (a folder) are
    read by window.

    Raises:
        InputError: not a file, not a PNG, JPEG or TIFF, damaged, more than one plane, or a read over the budget.
    """
    path = Path(path)
    if os.path.isdir(path):  # unlike Path.is_dir, it has an answer to any name
        return open_omezarr(path, max_bytes)
    head = first_bytes(path, 16)
    if head.startswith(PNG):
        return open_photo(path, PngImagePlugin.PngImageFile, max_bytes)
    if head.startswith(JPEG):
        return open_photo(path, JpegImagePlugin.JpegImageFile, max_bytes)
    if head.startswith(TIFF):
        return open_tiff(path, max_bytes)
    what = "none of them: export it as one" if head else "empty: copy or export it again"
    raise InputError(f"expected a PNG, JPEG or TIFF image, or a folder of OME-Zarr, {readable(path)} is {what}")


def as_image(source: str | Path | Shaped[np.ndarray, "..."] | Image, max_bytes: int = MAX_BYTES) -> Image:
    """Return an `Image` for a path, an array (H, W) or (H, W, C), or an `Image`.

    Raises:
        InputError: as `open_image`, none of these, an array that is no image, or channels of a microscope, which are
            neither gray and alpha, nor color.
    """
    if isinstance(source, np.ndarray):
        return from_array(source)
    if not isinstance(source, str | os.PathLike | Image):
        raise InputError(
            f"expected a path, a NumPy array (H, W) or (H, W, C), or an Image, got {type(source).__name__}: "
            "numpy.asarray may make an array of it"
        )
    image = source if isinstance(source, Image) else open_image(source, max_bytes)
    if image.stains and image.channels in (2, 3, 4):
        raise InputError(
            f"expected gray or RGB(A), {image.name} has {image.channels} channels: save the channel to be measured by itself"
        )
    return image


def from_array(array: Shaped[np.ndarray, "..."]) -> Image:
    """Wrap an array (H, W) or (H, W, C) as an image.

    Raises:
        InputError: masked, not two- or three-dimensional, empty, too many channels, or not of a real number type.
    """
    if isinstance(array, np.ma.MaskedArray):
        raise InputError("an image array must have no mask, which says nothing here: array.astype(float).filled(numpy.nan)")
    if array.ndim not in (2, 3) or 0 in array.shape or (array.ndim == 3 and array.shape[2] > MAX_CHANNELS):
        raise InputError(
            f"an image array must be (H, W) or (H, W, C) with C ≤ {MAX_CHANNELS}, none of them 0, got {array.shape}"
        )
    check_dtype("the array", array.dtype)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    channels = 1 if array.ndim == 2 else array.shape[2]
    size = (array.shape[0], array.shape[1])
    return Image("array", size, channels, array.dtype, lambda w: array[w[0] : w[2], w[1] : w[3]])
