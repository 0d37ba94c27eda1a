"""Write a moving image on the grid of a fixed one, block by block, in bounded memory.

Glossary
    block: window of the output. place: where a pixel of the output lies in the moving image. reduction: how many pixels of the
    moving image, along a side, one of the output covers. k the whole factor by which areas of the moving image are averaged
    first where that is more than one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from jaxtyping import Bool, Float, Float64, Shaped

from fiducial.coords import Matrix, corners_yx, facing, scale_transform, to_corner_frame
from fiducial.images import as_image, whole_file, write_omezarr
from fiducial.images.tones import in_type
from fiducial.images.writing import holds_colors, tiff_options
from fiducial.records import Given, Image, InputError, Progress, Registration, Window

_TILE_PX = 256  # side of the tiles that are written
_BLOCK_PX = 4096  # width of a block; it is a row of tiles
_WINDOW_PX = 2**22  # of the moving image (or of its averages) that are held for a block, and read at once
_SIDE_PX = 2**14  # longest side of such a window; OpenCV counts up to 2**15
_LEAST_PX = 32  # blocks of this side are not split any further
_REACH_PX = 2  # of the resampling, and one for rounding
_LARGEST_TIFF = 2**32 - 2**25  # bytes of pixels from which a BigTIFF is written
_ZLIB_LEVEL = 1  # of differences along rows: less space than the usual 6 without these, in a third of the time
_NODATA_TAG = 42113  # of GDAL: the value, as text, that stands for no data


@dataclass(frozen=True)
class _Places:
    """Where the pixels of a block lie in the moving image, and which of them lie within its edges.

    Attributes:
        reduction: the least among the pixels that see the image; 0 if none does.
    """

    y: Float64[np.ndarray, "h w"]
    x: Float64[np.ndarray, "h w"]
    covered: Bool[np.ndarray, "h w"]
    reduction: float


def write_aligned(moving: Image, fixed: Image, moving_to_fixed: Matrix, path: Path, progress: Progress | None = None) -> None:
    """Write the moving image resampled on the fixed image's grid, with its own channels and type of pixel.

    A GeoTIFF if the fixed image has a georeference, else a TIFF with its pixel size. What the moving image does not cover is
    NaN, in images of integers 0, and stated as no data; booleans are written as 0 and 1, float16 in a GeoTIFF, which does not
    know it, as float32. NaN and infinite pixels stay where they lie nearest. Between pixels it interpolates bilinearly, in
    steps of 1/32 px. The file appears whole or not at all.

    Args:
        moving: what is resampled.
        fixed: only its grid is used.
        moving_to_fixed: transform of (x, y, 1).
        path: .tif, .tiff or .ome.zarr, which holds no georeference and states nothing as no data.
        progress: called with blocks done and blocks in all.

    Raises:
        InputError: another suffix; a transform that cannot be inverted; a georeference or a type of pixel that GeoTIFF cannot
            hold, or rasterio is not installed; the moving image cannot be read.
    """
    if path.suffix.lower() not in (".tif", ".tiff", ".zarr"):
        raise InputError(f"expected a .tif or an .ome.zarr to write the aligned image to, got {path.name}")
    fixed_to_moving = _invert(moving_to_fixed, moving.size)
    if path.suffix.lower() == ".zarr":
        write_omezarr(path, _aligned(moving, fixed, fixed_to_moving), progress=progress)
        return
    blocks = list(_blocks(fixed.size))

    def resampled() -> Iterator[tuple[Window, Shaped[np.ndarray, "h w c"]]]:
        for done, block in enumerate(blocks, start=1):
            pixels = _resample(moving, fixed_to_moving, block)
            if progress is not None:
                progress(done, len(blocks))  # before the last is taken: nobody asks for more than it
            yield block, pixels

    with whole_file(path) as temporary:
        if fixed.crs is None and fixed.pixel_to_world is None:
            _write_tiff(temporary, moving, fixed, resampled())
        else:
            _write_geotiff(temporary, moving, fixed, resampled())


def save_aligned(record: Registration, path: Path, moving: Given, fixed: Given) -> None:
    """Write a record's moving image on the grid of its fixed one; raises InputError as `Registration.save_aligned`."""
    if record.moving_to_fixed is None or not record.accepted:
        raise InputError(f"the registration of {record.moving} on {record.fixed} was refused: {record.reason}")
    images = as_image(moving), as_image(fixed)
    for image, size, what in zip(images, (record.moving_size, record.fixed_size), ("moving", "fixed"), strict=True):
        if image.size != size:
            raise InputError(f"expected the {what} image that was registered, {size} px, got {image.name} of {image.size}")
    write_aligned(*images, record.moving_to_fixed, path)


def _aligned(moving: Image, fixed: Image, fixed_to_moving: Matrix) -> Image:
    """Return the output as an image that is resampled when it is read."""

    def read(window: Window) -> Shaped[np.ndarray, "h w *c"]:
        pixels = np.concatenate([_resample(moving, fixed_to_moving, block) for block in _rows(window)])
        return pixels[..., 0] if moving.channels == 1 else pixels

    return Image(
        moving.name,
        fixed.size,
        moving.channels,
        _written_type(moving),
        read,
        fixed.pixel_size,
        fixed.unit,
    )


def _rows(window: Window) -> Iterator[Window]:
    y0, x0, y1, x1 = window
    for top in range(y0, y1, _TILE_PX):
        yield top, x0, min(top + _TILE_PX, y1), x1


def _invert(moving_to_fixed: Matrix, size: tuple[int, int]) -> Matrix:
    """Return the way back, with a positive third coordinate for all that the moving image's side of a homography shows."""
    try:
        matrix = facing(moving_to_fixed, size)
        if not (np.isfinite(matrix).all() and 1e-12 < abs(np.linalg.det(matrix)) < 1e12):
            raise ValueError(f"its determinant is {np.linalg.det(matrix):.3g}")
        return np.linalg.inv(matrix)
    except (ValueError, np.linalg.LinAlgError) as error:
        stated = np.asarray(moving_to_fixed).tolist()
        raise InputError(f"expected a transform that can be inverted, got {stated}: {error}") from error


def _blocks(size: tuple[int, int]) -> Iterator[Window]:
    for top in range(0, size[0], _TILE_PX):
        for left in range(0, size[1], _BLOCK_PX):
            yield top, left, min(top + _TILE_PX, size[0]), min(left + _BLOCK_PX, size[1])


def _resample(moving: Image, fixed_to_moving: Matrix, block: Window) -> Shaped[np.ndarray, "h w c"]:
    """Return one block of the output; it is split where it would need too much of the moving image."""
    y0, x0, y1, x1 = block
    places = _find_places(moving.size, fixed_to_moving, block)
    nothing = np.nan if moving.dtype.kind == "f" else 0
    out = np.full((y1 - y0, x1 - x0, moving.channels), nothing, _written_type(moving))
    if not places.covered.any():
        return out
    k = max(1, round(places.reduction))
    window = _window(places, k, moving.size)
    if _too_large(window) and max(out.shape[:2]) > _LEAST_PX:
        axis = int(out.shape[1] >= out.shape[0])
        middle = (block[axis] + block[axis + 2]) // 2
        halves = ((y0, x0, middle, x1), (middle, x0, y1, x1)) if axis == 0 else ((y0, x0, y1, middle), (y0, middle, y1, x1))
        return np.concatenate([_resample(moving, fixed_to_moving, half) for half in halves], axis=axis)
    while _too_large(window):  # towards the horizon of a homography
        k *= 2
        window = _window(places, k, moving.size)
    seen = _interpolate(_averages(moving, window, k), places, window, k)
    out[places.covered] = in_type(seen[places.covered], out.dtype)
    return out


def _written_type(moving: Image) -> np.dtype[Any]:
    return np.dtype(np.uint8) if moving.dtype.kind == "b" else moving.dtype.newbyteorder("=")


def _find_places(size: tuple[int, int], fixed_to_moving: Matrix, block: Window) -> _Places:
    y0, x0, y1, x1 = block
    rows, columns = np.arange(y0, y1, dtype=np.float64)[:, None], np.arange(x0, x1, dtype=np.float64)
    x, y, third = (by_x * columns + by_y * rows + alone for by_x, by_y, alone in fixed_to_moving)
    in_front = third > 0
    x, y = (np.divide(v, third, out=np.full_like(third, np.inf), where=in_front) for v in (x, y))
    (top, left), (bottom, right) = corners_yx(size)[[0, 2]]
    covered = (y >= top) & (y <= bottom) & (x >= left) & (x <= right)
    area = np.abs(np.linalg.det(fixed_to_moving)) / third[covered].max() ** 3 if covered.any() else 0.0
    return _Places(y, x, covered, float(np.sqrt(area)))


def _window(places: _Places, k: int, size: tuple[int, int]) -> Window:
    """Return the averages over k × k pixels that the covered pixels of a block are made from."""
    window = [0, 0, 0, 0]
    to_averages = scale_transform(1 / k)
    for axis, place in enumerate((places.y, places.x)):
        own = place[places.covered] * to_averages[0, 0] + to_averages[0, 2]
        last = -(-size[axis] // k)
        window[axis] = min(max(int(np.floor(own.min())) - _REACH_PX, 0), last - 1)
        window[axis + 2] = max(min(int(np.ceil(own.max())) + _REACH_PX, last), window[axis] + 1)
    return window[0], window[1], window[2], window[3]


def _too_large(window: Window) -> bool:
    height, width = window[2] - window[0], window[3] - window[1]
    return height * width > _WINDOW_PX or max(height, width) > _SIDE_PX


def _averages(moving: Image, window: Window, k: int) -> Float[np.ndarray, "h w c"]:
    """Return averages of the finite ones of k × k pixels, NaN where none is, read in parts of at most `_WINDOW_PX`."""
    (y0, x0, y1, x1), (height, width) = window, moving.size
    real = np.float32 if moving.dtype.itemsize < 4 or moving.dtype == np.float32 else np.float64
    out = np.empty((y1 - y0, x1 - x0, moving.channels), real)
    wide = min(x1 - x0, max(1, _WINDOW_PX // k**2))
    tall = max(1, _WINDOW_PX // (k**2 * wide))
    for top in range(y0, y1, tall):
        for left in range(x0, x1, wide):
            bottom, right = min(top + tall, y1), min(left + wide, x1)
            part = moving.read((top * k, left * k, min(bottom * k, height), min(right * k, width)))
            pixels = part.reshape(*part.shape[:2], moving.channels).astype(real)
            missing = ((0, (bottom - top) * k - part.shape[0]), (0, (right - left) * k - part.shape[1]), (0, 0))
            means = pixels if k == 1 else _reduce(np.pad(pixels, missing, mode="edge"), k)
            out[top - y0 : bottom - y0, left - x0 : right - x0] = means
    return out


def _reduce(pixels: Float[np.ndarray, "h w c"], k: int) -> Float[np.ndarray, "i j c"]:
    finite = np.isfinite(pixels)
    if finite.all():
        return _area(pixels, k)
    share = _area(finite.astype(pixels.dtype), k)
    sums = _area(np.where(finite, pixels, pixels.dtype.type(0)), k)
    return np.divide(sums, share, out=np.full_like(sums, np.nan), where=share > 0)


def _area(pixels: Float[np.ndarray, "h w c"], k: int) -> Float[np.ndarray, "i j c"]:
    size = (pixels.shape[0] // k, pixels.shape[1] // k)
    return cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_AREA).reshape(*size, pixels.shape[2])


def _interpolate(averages: Float[np.ndarray, "i j c"], places: _Places, window: Window, k: int) -> Float[np.ndarray, "h w c"]:
    """Return bilinear samples; where the nearest pixel is not finite its value, elsewhere those that are not are left out."""
    to_averages = scale_transform(1 / k)
    x, y = (
        np.where(places.covered, place * to_averages[0, 0] + to_averages[0, 2] - first, 0).astype(np.float32)
        for place, first in ((places.x, window[1]), (places.y, window[0]))
    )
    finite = np.isfinite(averages)
    if finite.all():
        return _sample(averages, y, x)
    share = _sample(finite.astype(averages.dtype), y, x)
    sums = _sample(np.where(finite, averages, averages.dtype.type(0)), y, x)
    rows, columns = (np.clip(np.rint(v).astype(int), 0, n - 1) for v, n in zip((y, x), averages.shape[:2], strict=True))
    nearest = averages[rows, columns]
    return np.divide(sums, share, out=nearest.copy(), where=np.isfinite(nearest) & (share > 0))


def _sample(
    pixels: Float[np.ndarray, "i j c"], y: Float[np.ndarray, "h w"], x: Float[np.ndarray, "h w"]
) -> Float[np.ndarray, "h w c"]:
    out = cv2.remap(pixels, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return out.reshape(*y.shape, pixels.shape[2])


def _write_tiff(
    temporary: Path, moving: Image, fixed: Image, blocks: Iterator[tuple[Window, Shaped[np.ndarray, "h w c"]]]
) -> None:
    """Write tiles as they come; if the fixed image states its pixel size an OME-TIFF, of pixels that OME knows."""
    dtype, shape = _written_type(moving), (*fixed.size, moving.channels)
    tifffile.imwrite(
        temporary,
        _tiles(blocks),
        shape=shape[:2] if moving.channels == 1 else shape,
        dtype=dtype,
        tile=(_TILE_PX, _TILE_PX),
        compression="zlib",
        compressionargs={"level": _ZLIB_LEVEL},
        predictor=dtype.kind == "f" or dtype.itemsize <= 4,  # tifffile knows none for longer integers
        bigtiff=int(np.prod(shape, dtype=np.int64)) * dtype.itemsize > _LARGEST_TIFF,
        extratags=[(_NODATA_TAG, "s", 0, "nan" if dtype.kind == "f" else "0", True)],
        **tiff_options(moving, dtype, fixed.pixel_size, fixed.unit),
    )


def _tiles(blocks: Iterator[tuple[Window, Shaped[np.ndarray, "h w c"]]]) -> Iterator[Shaped[np.ndarray, "h w *c"]]:
    """Yield whole tiles, row by row, those at the lower and right edge filled up with 0; without an axis for one channel."""
    for _, pixels in blocks:
        for left in range(0, pixels.shape[1], _TILE_PX):
            part = pixels[:, left : left + _TILE_PX]
            tile = np.zeros((_TILE_PX, _TILE_PX, pixels.shape[2]), pixels.dtype)
            tile[: part.shape[0], : part.shape[1]] = part
            yield tile[..., 0] if pixels.shape[2] == 1 else tile


def _write_geotiff(
    temporary: Path, moving: Image, fixed: Image, blocks: Iterator[tuple[Window, Shaped[np.ndarray, "h w c"]]]
) -> None:
    """Write tiles with the fixed image's reference system and transform, as GDAL counts: from the image's corner."""
    try:
        import rasterio  # noqa: PLC0415 (an extra)
    except ImportError as error:
        raise InputError("writing on the grid of a georeferenced image needs rasterio: install fiducial[geo]") from error
    dtype, profile = _written_type(moving), _geo_profile(fixed)
    dtype = np.dtype(np.float32) if dtype == np.float16 else dtype
    if dtype.name not in rasterio.dtypes.dtype_rev:
        raise InputError(f"expected pixels that a GeoTIFF can hold, {moving.name} holds {dtype}")
    profile |= {"photometric": "RGB"} if holds_colors(moving) else {}
    try:
        with (
            rasterio.Env(GDAL_PAM_ENABLED="NO", GDAL_CACHEMAX=64),  # no file beside; MB
            rasterio.open(temporary, "w", count=moving.channels, dtype=dtype.name, **profile) as file,
        ):
            file.nodata = np.nan if dtype.kind == "f" else 0
            for (y0, x0, y1, x1), pixels in blocks:
                bands = np.moveaxis(pixels.astype(dtype, copy=False), -1, 0)
                file.write(bands, window=rasterio.windows.Window(x0, y0, x1 - x0, y1 - y0))
    except rasterio.errors.CRSError as error:
        raise InputError(f"the reference system of {fixed.name} cannot be written: {error}") from error


def _geo_profile(fixed: Image) -> dict[str, Any]:
    import rasterio  # noqa: PLC0415 (an extra)

    profile: dict[str, Any] = {
        "driver": "GTiff",
        "height": fixed.size[0],
        "width": fixed.size[1],
        "tiled": True,
        "blockxsize": _TILE_PX,
        "blockysize": _TILE_PX,
        "compress": "deflate",
        "interleave": "pixel",
        "BIGTIFF": "IF_SAFER",
    }
    if fixed.crs is not None:
        profile["crs"] = fixed.crs
    if fixed.pixel_to_world is not None:
        matrix = to_corner_frame(fixed.pixel_to_world)
        if not np.array_equal(matrix[2], (0, 0, 1)):
            raise InputError(f"expected an affine georeference, that of {fixed.name} has a last row {matrix[2].tolist()}")
        profile["transform"] = rasterio.Affine(*matrix[:2].ravel().tolist())
    return profile
