"""Hold what flows through the house: images and answers, as frozen dataclasses.

Every answer carries what is needed to trust and to reproduce it, has `save(path)`, `to_frame()` and `plot()`, and says
"nothing found" by arrays of length 0. `answer` says it in a word, the same in every file: "good", "bad" or "refused"; "found"
or "not here"; "done" or "nothing"; "accepted" or "refused".
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float32, Float64, Int64, Shaped, UInt8
from PIL import Image as PillowImage

from fiducial.answer import Answer

Window = tuple[int, int, int, int]  # y0, x0, y1, x1 in whole pixels; the last row and column are not part of it
Progress = Callable[[int, int], None]  # called with parts done and parts in all
Verdict = Literal["good", "bad", "refused"]

NEGATIVE = ("refused", "not here")  # answers that have an exit status of their own, and a row in tables without others


class InputError(ValueError):
    """Say what the user can mend: the rule, the values that came, what to do."""


class NoRoomError(InputError):
    """At no scale searched does a query lie in a source and cover enough of its pixels."""


@dataclass(frozen=True, eq=False)
class Image:
    """An image whose pixels are read when asked for, in the file's own type.

    Attributes:
        name: file name without folders, or "array".
        size: height and width in pixels. channels: 1 for gray.
        dtype: of the pixels that `read` returns.
        pixel_size: height and width of a pixel in `unit`, if the file states them.
        crs: coordinate reference system as WKT, and pixel_to_world: transform of (x, y, 1), if the file has them.
        stains: whether the channels are images of their own, as a microscope's, rather than colors of one.
    """

    name: str
    size: tuple[int, int]
    channels: int
    dtype: np.dtype[np.generic]
    reader: Callable[[Window], Shaped[np.ndarray, "..."]] = field(repr=False)
    pixel_size: tuple[float, float] | None = None
    unit: str | None = None
    crs: str | None = None
    pixel_to_world: Float64[np.ndarray, "3 3"] | None = None
    stains: bool = False

    def read(self, window: Window | None = None) -> Shaped[np.ndarray, "h w *c"]:
        """Return the pixels of a window (all by default), (h, w) if gray and (h, w, channels) otherwise.

        Raises:
            ValueError: the window does not lie inside the image.
        """
        y0, x0, y1, x1 = window = window or (0, 0, *self.size)
        if not (0 <= y0 < y1 <= self.size[0] and 0 <= x0 < x1 <= self.size[1]):
            raise ValueError(f"window must lie in an image of {self.size}, got {window}")
        return self.reader(window)


Given = str | Path | Shaped[np.ndarray, "..."] | Image  # an image: a path, pixels (H, W) or (H, W, C), or an `Image`


@dataclass(frozen=True)
class Provenance:
    """What an answer was made with.

    Attributes:
        weights: name of the weights, and sha256 of their file.
        parameters: the options in force, as (name, value) pairs.
    """

    version: str
    weights: str
    sha256: str
    parameters: tuple[tuple[str, str | float | bool | None], ...]


@dataclass(frozen=True, eq=False, repr=False)
class Defects(Answer):
    """What differs between a sample and its template.

    Attributes:
        mask: class of each pixel of the sample, `classes[k - 1]` names class k; 0 where nothing differs, and where nothing
            could be compared, which may be everywhere if the verdict is "refused".
        boxes_yxyx: box of each defect (y0, x0, y1, x1) in pixels of the sample, as the training annotations draw them:
            grown beyond the defect by the margin that the weights learned with.
        label: class of each defect, from 1. score: calibrated probability that it is a real defect, best first.
        area_px: pixels of the defect in the mask.
        template_to_sample: transform of (x, y, 1); None when no alignment could be trusted.
        alignment_score: correlation of the aligned images, from -1 to 1; NaN when alignment was switched off.
        coverage: share of the sample that the template covers and that was therefore inspected.
        verdict: "bad" if there is a defect, "good" if not, "refused" when no alignment could be trusted or too little of
            the sample is covered.
        reason: why the verdict was refused; empty otherwise.
        pixel_size, unit, crs, pixel_to_world: of the sample, as in `Image`.
    """

    mask: UInt8[np.ndarray, "h w"]
    boxes_yxyx: Float64[np.ndarray, "n 4"]
    label: Int64[np.ndarray, " n"]
    score: Float64[np.ndarray, " n"]
    area_px: Int64[np.ndarray, " n"]
    classes: tuple[str, ...]
    template_to_sample: Float64[np.ndarray, "3 3"] | None
    alignment_score: float
    coverage: float
    verdict: Verdict
    reason: str
    sample: str
    template: str
    pixel_size: tuple[float, float] | None
    unit: str | None
    crs: str | None
    pixel_to_world: Float64[np.ndarray, "3 3"] | None
    provenance: Provenance

    def __len__(self) -> int:
        """Return the number of defects."""
        return len(self.score)

    @property
    def answer(self) -> Verdict:
        """The verdict."""
        return self.verdict

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the sample in pixels."""
        return self.mask.shape[0], self.mask.shape[1]

    def to_frame(self) -> pd.DataFrame:
        """Return one row per defect: class, probability, place, area; in the sample's unit and on its map, too, if any."""
        from fiducial.formats.defects import defects_to_frame  # noqa: PLC0415 (a record's door to the formats above it)

        return defects_to_frame(self)

    def save(self, path: str | Path) -> None:
        """Write the record; the suffix chooses the format.

        .csv, .json, .coco.json, .tif and .ome.zarr (the mask), .png (an overlay).
        """
        from fiducial.formats.defects import save_defects  # noqa: PLC0415 (a record's door to the formats above it)

        save_defects(self, Path(path))

    def plot(self, image: Given | None = None) -> PillowImage.Image:
        """Draw masks and boxes over `image`, over black if it is not given; raises InputError where its size is another."""
        from fiducial.drawing import draw_defects  # noqa: PLC0415 (a record's door to the drawings above it)
        from fiducial.scaled import read_given  # noqa: PLC0415 (a record's door to the drawings above it)

        return draw_defects(self, read_given(image, self.size, "sample"))


@dataclass(frozen=True, eq=False, repr=False)
class Places(Answer):
    """Where a query lies in a source, most probable place first.

    Attributes:
        corners_yx: outer corners of the query in pixels of the source, from the query's top left, clockwise on the query.
        score: calibrated probability that the query lies there (IoU above 0.7).
        query_to_source: similarity of (x, y, 1), from pixels of the query to pixels of the source.
        correlation: normalized correlation, without sign, of the query with the source at each place.
        found: whether the most probable place reaches the least probability asked for. reason: if not, why.
        query_size, source_size: height and width in pixels.
        scales: least and largest size of a query's pixel, in pixels of the source, that was searched.
        pixel_size, unit, crs, pixel_to_world: of the source, as in `Image`.
    """

    corners_yx: Float64[np.ndarray, "n 4 2"]
    score: Float64[np.ndarray, " n"]
    query_to_source: Float64[np.ndarray, "n 3 3"]
    correlation: Float64[np.ndarray, " n"]
    found: bool
    reason: str
    query: str
    source: str
    query_size: tuple[int, int]
    source_size: tuple[int, int]
    scales: tuple[float, float]
    pixel_size: tuple[float, float] | None
    unit: str | None
    crs: str | None
    pixel_to_world: Float64[np.ndarray, "3 3"] | None
    provenance: Provenance

    def __len__(self) -> int:
        """Return the number of places, those under the least probability included."""
        return len(self.score)

    @property
    def answer(self) -> Literal["found", "not here"]:
        """Whether the query was found, in a word."""
        return "found" if self.found else "not here"

    @property
    def scale(self) -> Float64[np.ndarray, " n"]:
        """Size of a query's pixel in pixels of the source."""
        return np.sqrt(np.abs(np.linalg.det(self.query_to_source[:, :2, :2])))

    @property
    def angle_deg(self) -> Float64[np.ndarray, " n"]:
        """Angle by which the query's x axis is turned towards y in the source, in degrees from -180 to 180."""
        return np.rad2deg(np.arctan2(self.query_to_source[:, 1, 0], self.query_to_source[:, 0, 0]))

    def to_frame(self) -> pd.DataFrame:
        """Return one row per place: probability, center, scale, angle and corners, in pixels and in the source's unit."""
        from fiducial.formats.places import places_to_frame  # noqa: PLC0415 (a record's door to the formats above it)

        return places_to_frame(self)

    def save(self, path: str | Path) -> None:
        """Write the record; the suffix chooses the format: .csv, .json, .geojson (map coordinates), .png (an overlay)."""
        from fiducial.formats.places import save_places  # noqa: PLC0415 (a record's door to the formats above it)

        save_places(self, Path(path))

    def plot(self, source: Given | None = None, query: Given | None = None) -> PillowImage.Image:
        """Draw the places over `source` or black, `query` beside it and at the best one; raises InputError for other sizes."""
        from fiducial.drawing import draw_places  # noqa: PLC0415 (a record's door to the drawings above it)
        from fiducial.scaled import read_given  # noqa: PLC0415 (a record's door to the drawings above it)

        return draw_places(self, read_given(source, self.source_size, "source"), read_given(query, self.query_size, "query"))


@dataclass(frozen=True, eq=False, repr=False)
class Blobs(Answer):
    """The blobs of an image, most probable first.

    Attributes:
        yx: centers in pixels. radius: of the disk of each blob's area, in pixels.
        score: calibrated probability that a blob is there.
        embedding: unit vectors (n, 128), alike for the same blob in other views; (n, 0) where none were asked for.
        count: number of blobs listed. count_interval: least and largest number of blobs in the image, with 95 % confidence;
            it counts likely blobs below the least probability asked for, too.
        radii_px: least and largest radius that could be told; without a known diameter, few beyond 2 to 80 px are found.
        image: its name. size: its height and width in pixels.
        pixel_size, unit, crs, pixel_to_world: of the image, as in `Image`.
    """

    yx: Float64[np.ndarray, "n 2"]
    radius: Float64[np.ndarray, " n"]
    score: Float64[np.ndarray, " n"]
    embedding: Float32[np.ndarray, "n e"]
    count_interval: tuple[int, int]
    radii_px: tuple[float, float]
    image: str
    size: tuple[int, int]
    pixel_size: tuple[float, float] | None
    unit: str | None
    crs: str | None
    pixel_to_world: Float64[np.ndarray, "3 3"] | None
    provenance: Provenance

    def __len__(self) -> int:
        """Return the number of blobs listed."""
        return len(self.score)

    @property
    def count(self) -> int:
        """Number of blobs listed."""
        return len(self.score)

    @property
    def answer(self) -> Literal["done", "nothing"]:
        """Whether there are blobs, in a word; "nothing" is as good an answer as any count."""
        return "done" if self.count else "nothing"

    def to_frame(self) -> pd.DataFrame:
        """Return one row per blob: y_px, x_px, radius_px, probability, and the same in the image's unit if it states one."""
        from fiducial.formats.blobs import blobs_to_frame  # noqa: PLC0415 (a record's door to the formats above it)

        return blobs_to_frame(self)

    def save(self, path: str | Path) -> None:
        """Write the record; the name chooses the format.

        .csv, .json, .coco.json, .geojson, .roi.zip (ImageJ), .points.csv (napari), .png (an overlay).
        """
        from fiducial.formats.blobs import save_blobs  # noqa: PLC0415 (a record's door to the formats above it)

        save_blobs(self, Path(path))

    def plot(self, image: Given | None = None) -> PillowImage.Image:
        """Draw the blobs over `image`, over black if it is not given; raises InputError where its size is another."""
        from fiducial.drawing import draw_blobs  # noqa: PLC0415 (a record's door to the drawings above it)
        from fiducial.scaled import read_given  # noqa: PLC0415 (a record's door to the drawings above it)

        return draw_blobs(self, read_given(image, self.size, "image"))


@dataclass(frozen=True, eq=False, repr=False)
class Keypoints(Answer):
    """Points of an image that a view of the same scene by another sensor would show too, best first.

    Attributes:
        yx: in pixels. score: confidence from 0 to 1, 1 - exp(-O) of eq. (7); it ranks and is no probability.
        descriptor: unit vectors that are alike for the same point in views of nearly the same angle and scale.
        image: its name. size: its height and width in pixels.
        pixel_size, unit, crs, pixel_to_world: of the image, as in `Image`.
    """

    yx: Float64[np.ndarray, "n 2"]
    score: Float64[np.ndarray, " n"]
    descriptor: Float32[np.ndarray, "n d"]
    image: str
    size: tuple[int, int]
    pixel_size: tuple[float, float] | None
    unit: str | None
    crs: str | None
    pixel_to_world: Float64[np.ndarray, "3 3"] | None
    provenance: Provenance

    def __len__(self) -> int:
        """Return the number of points."""
        return len(self.score)

    def to_frame(self) -> pd.DataFrame:
        """Return one row per point: y_px, x_px, score, and the place in the image's unit and on its map if it states them."""
        from fiducial.formats.keypoints import keypoints_to_frame  # noqa: PLC0415 (a record's door to the formats above it)

        return keypoints_to_frame(self)

    def save(self, path: str | Path) -> None:
        """Write the record; the suffix chooses the format: .csv, .json, .geojson, .png (an overlay)."""
        from fiducial.formats.keypoints import save_keypoints  # noqa: PLC0415 (a record's door to the formats above it)

        save_keypoints(self, Path(path))

    def plot(self, image: Given | None = None) -> PillowImage.Image:
        """Draw the points over `image`, over black if it is not given; raises InputError where its size is another."""
        from fiducial.drawing import draw_keypoints  # noqa: PLC0415 (a record's door to the drawings above it)
        from fiducial.scaled import read_given  # noqa: PLC0415 (a record's door to the drawings above it)

        return draw_keypoints(self, read_given(image, self.size, "image"))


@dataclass(frozen=True, eq=False, repr=False)
class Registration(Answer):
    """How a moving image lies on a fixed one.

    Attributes:
        moving_to_fixed: transform of (x, y, 1) from pixels of the moving image to pixels of the fixed one: the best that was
            found, also when it is not accepted; None when nothing was found.
        model: "shift", "similarity", "affine" or "homography".
        moving_yx, fixed_yx: tie points that agree with the transform, in pixels of each image.
        residual_px: distance between each tie point and where the transform puts it, in pixels of the fixed image.
        error_px: what the mean error of the transform over the common area is estimated to be, in pixels of the fixed image,
            from points that were held out and from the way back; NaN when nothing was found.
        held_out_px: median distance of tie points from transforms that were estimated without them.
        return_px: how far the estimates from either image's keypoints alone lie from this transform: the sum of both mean
            distances.
        score: calibrated probability that the mean error is under `within_px` pixels of the fixed image.
        within_px: 5 px of what the search looked at, so more where that was a reduced copy.
        accepted: whether the score reaches the least probability asked for. reason: if not, why.
        start: where the search began: "map", from what the files state, or "searched", from nothing but the pixels.
        correction: (dy, dx) that the transform adds to what the files' georeference states, the mean over what the images have
            in common under it, in units of the fixed image's map; None unless both files state one.
        moving_size, fixed_size: height and width in pixels.
        pixel_size, unit, crs, pixel_to_world: of the fixed image, as in `Image`.
    """

    moving_to_fixed: Float64[np.ndarray, "3 3"] | None
    model: str
    moving_yx: Float64[np.ndarray, "m 2"]
    fixed_yx: Float64[np.ndarray, "m 2"]
    residual_px: Float64[np.ndarray, " m"]
    error_px: float
    held_out_px: float
    return_px: float
    score: float
    within_px: float
    accepted: bool
    reason: str
    start: str
    correction: tuple[float, float] | None
    moving: str
    fixed: str
    moving_size: tuple[int, int]
    fixed_size: tuple[int, int]
    pixel_size: tuple[float, float] | None
    unit: str | None
    crs: str | None
    pixel_to_world: Float64[np.ndarray, "3 3"] | None
    provenance: Provenance

    def __len__(self) -> int:
        """Return the number of tie points."""
        return len(self.moving_yx)

    @property
    def answer(self) -> Literal["accepted", "refused"]:
        """Whether the transform is accepted, in a word."""
        return "accepted" if self.accepted else "refused"

    @property
    def fixed_to_moving(self) -> Float64[np.ndarray, "3 3"] | None:
        """The way back."""
        return None if self.moving_to_fixed is None else np.linalg.inv(self.moving_to_fixed)

    def to_frame(self) -> pd.DataFrame:
        """Return one row per tie point: its place in both images, on the map of the fixed one, and its residual."""
        from fiducial.formats.registration import tie_points_to_frame  # noqa: PLC0415 (a record's door to the formats above it)

        return tie_points_to_frame(self)

    def save(self, path: str | Path) -> None:
        """Write the record; the suffix chooses the format.

        .csv, .geojson and .points (QGIS): the tie points; .json: the whole record; .transform.json: both 3×3 matrices;
        .txt: a report of the error; .png: the tie points drawn.
        """
        from fiducial.formats.registration import save_registration  # noqa: PLC0415 (a record's door to the formats above it)

        save_registration(self, Path(path))

    def save_aligned(self, path: str | Path, moving: Given, fixed: Given) -> None:
        """Write the moving image on the fixed one's grid, with its georeference: .tif (GeoTIFF if it has one) or .ome.zarr.

        Raises:
            InputError: the registration was refused; the images cannot be read, or have not the sizes of those registered; as
                `fiducial.resampling.write_aligned`, which writes an image by any transform.
        """
        from fiducial.resampling import save_aligned  # noqa: PLC0415 (a record's door to the resampling above it)

        save_aligned(self, Path(path), moving, fixed)

    def plot(self, fixed: Given | None = None, moving: Given | None = None) -> PillowImage.Image:
        """Draw the tie points, and `moving` in magenta on `fixed` in green; raises InputError for other sizes."""
        from fiducial.drawing import draw_registration  # noqa: PLC0415 (a record's door to the drawings above it)
        from fiducial.scaled import read_given  # noqa: PLC0415 (a record's door to the drawings above it)

        return draw_registration(
            self, read_given(fixed, self.fixed_size, "fixed image"), read_given(moving, self.moving_size, "moving image")
        )
