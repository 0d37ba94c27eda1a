"""See any part of an image under any transform, its tones spread evenly, without holding more of it than that needs."""

from dataclasses import dataclass, field

import cv2
import numpy as np
from jaxtyping import Bool, Float32

from fiducial.coords import Matrix, apply_transform, corners_yx, image_center_yx, scale_transform, shift
from fiducial.geometry import ToneCurve, equalize, tone_curve
from fiducial.images import sample_gray
from fiducial.records import Image, Window
from fiducial.scaled import Scaled, without_values

Gray = Float32[np.ndarray, "_ _"]

_KEPT_PX = 3_000_000  # pixels of a reduced copy that is kept whole
_SHORT_PX = 2**15 - 1  # and its sides are under this: OpenCV resamples nothing longer
_TONES_PX = 300_000  # pixels of it, about, that tell its tones
_FLAT_PX = 33  # side of a window that holds one value alone where there are no data
_REACH_PX = _FLAT_PX + 3  # around a view that are read: of the resampling, and to tell where there are no data


@dataclass
class Scene:
    """An image whose views are equalized by the tones of the whole image, at about the scale at which it is seen.

    Attributes:
        middle: gray value that stands for NaN and infinite values.
        curve: of the tones of the whole image, for copies too large to be kept.
        copies: reduced copies that were read whole, equalized, by their power of two, and where each has data.
    """

    image: Image
    middle: float
    curve: ToneCurve
    copies: dict[int, tuple[Gray, Gray]] = field(default_factory=dict)

    def view(self, to_view: Matrix, size: tuple[int, int]) -> tuple[Gray, Bool[np.ndarray, "h w"]]:
        """Return the image under a transform from its pixels to those of a view of `size`, and which pixels show it.

        Values lie between -1 and 1, and are 0 where the view shows nothing: beyond the image, and where one value alone fills
        a neighborhood, as it does where there are no data.
        """
        back = np.linalg.inv(to_view)
        halvings = _halvings(back, size)
        copy = Scaled(self.image, 2.0**-halvings, 0.0, 1.0, np.nan)
        to_copy = scale_transform(2.0**-halvings) @ back  # from pixels of the view
        if copy.size[0] * copy.size[1] <= _KEPT_PX and max(copy.size) < _SHORT_PX:
            (even, present), first = self._whole(halvings, copy), (0, 0)
        else:
            corners = apply_transform(to_copy, corners_yx(size))
            low = np.clip(np.floor(corners.min(0)) - _REACH_PX, 0, np.array(copy.size) - 1).astype(int)
            high = np.clip(np.ceil(corners.max(0)) + _REACH_PX, low + 1, copy.size).astype(int)
            seen, present = self._read(copy, (int(low[0]), int(low[1]), int(high[0]), int(high[1])))
            even = equalize(seen, self.curve)
            first = (int(low[0]), int(low[1]))
        matrix = shift(-first[0], -first[1]) @ to_copy
        how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        out = cv2.warpPerspective(even, matrix, size[::-1], flags=how, borderMode=cv2.BORDER_REFLECT_101)
        shown = cv2.warpPerspective(present, matrix, size[::-1], flags=how) > 0.99
        return np.where(shown, out, np.float32(0)), shown

    def _whole(self, halvings: int, copy: Scaled) -> tuple[Gray, Gray]:
        """Return a reduced copy, equalized by its own tones: averages have fewer extremes than pixels."""
        if halvings not in self.copies:
            seen, present = self._read(copy, (0, 0, *copy.size))
            curve = tone_curve(seen[present > 0][:: max(1, seen.size // _TONES_PX)])
            self.copies[halvings] = equalize(seen, curve), present
        return self.copies[halvings]

    def _read(self, copy: Scaled, window: Window) -> tuple[Gray, Gray]:
        """Return a window of a copy in gray, `middle` for what is NaN, and 1 where it has data, 0 elsewhere."""
        seen = cv2.cvtColor(copy.read(window), cv2.COLOR_RGB2GRAY)
        gap = without_values(seen)
        seen = np.where(np.isfinite(seen), seen, np.float32(self.middle))
        return seen, np.where(gap, np.float32(0), _with_data(seen))


def open_scene(image: Image) -> Scene:
    """Sample an image's tones.

    Raises:
        InputError: no finite value, or channels that are neither gray nor color.
    """
    values = sample_gray(image)
    return Scene(image, float(np.median(values)), tone_curve(values))


def _halvings(back: Matrix, size: tuple[int, int]) -> int:
    """Return how often to halve an image so that its copy is not much finer than a view of it, in the view's middle.

    `back` is the transform from pixels of the view to the image's.
    """
    y, x = image_center_yx(size)
    steps = apply_transform(back, np.array([[y, x], [y, x + 1], [y + 1, x]]))
    area = abs(float(np.linalg.det(steps[1:] - steps[0])))  # of a pixel of the view, in pixels of the image
    return max(0, round(0.5 * np.log2(max(area, 1.0))))


def _with_data(image: Gray) -> Gray:
    """Return 1 for pixels in whose neighborhood something varies, 0 elsewhere."""
    kernel = np.ones((_FLAT_PX, _FLAT_PX), np.uint8)
    flat = cv2.dilate(image, kernel) == cv2.erode(image, kernel)  # the middle of windows of one value
    return 1 - cv2.dilate(flat.astype(np.float32), kernel)
