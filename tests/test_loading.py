"""What the verbs share: units that compare, counts that are counts."""

import numpy as np
import pytest

import fiducial
from fiducial.api.loading import METERS, check_count, ratio_of_pixels
from fiducial.images import from_array
from fiducial.images.stated import UNITS, unit_of
from fiducial.records import Image, InputError


def image(pixel_size: tuple[float, float] | None, unit: str | None) -> Image:
    plain = from_array(np.zeros((50, 60), np.uint8))
    return Image("i.tif", plain.size, 1, plain.dtype, plain.reader, pixel_size, unit)


def test_every_unit_that_is_read_has_its_length() -> None:
    assert set(METERS) == set(UNITS.values())
    assert (METERS["km"], METERS["in"]) == (1000.0, 0.0254)


def test_pixels_compare_along_both_sides_in_whatever_units() -> None:
    assert ratio_of_pixels(image((2.0, 1.0), "µm"), image((500.0, 250.0), "nm")) == pytest.approx((4.0, 4.0))
    assert ratio_of_pixels(image((2.0, 1.0), "in"), image((25.4, 25.4), "mm")) == pytest.approx((2.0, 1.0))
    assert ratio_of_pixels(image((3.0, 3.0), "km"), image((1500.0, 1500.0), "m")) == pytest.approx((2.0, 2.0))
    assert ratio_of_pixels(image((3.0, 6.0), "furlong"), image((1.5, 1.5), "furlong")) == pytest.approx((2.0, 4.0))
    for other in (image((1.0, 1.0), "cubit"), image((1.0, 1.0), "m"), image((1.0, 1.0), None), image(None, None)):
        assert ratio_of_pixels(image((1.0, 1.0), "furlong"), other) is None
        assert ratio_of_pixels(other, image((1.0, 1.0), "furlong")) is None
    assert ratio_of_pixels(image((1.0, 1.0), None), image((1.0, 1.0), None)) is None


@pytest.mark.parametrize("unit", ["inch", "kilometer", "furlong"])
def test_verbs_take_the_scale_from_pixel_sizes_in_any_unit(unit: str, rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 255, (90, 100), dtype=np.uint8)
    query, source = (
        Image(name, pixels.shape, 1, pixels.dtype, lambda w: pixels[w[0] : w[2], w[1] : w[3]], (size, size), unit_of(unit))
        for name, size in (("q", 1.0), ("s", 1.25))
    )
    found = fiducial.locate(query, source)
    assert found.scales == (pytest.approx(0.8 / 1.1), pytest.approx(0.8 * 1.1))
    stated = dict(fiducial.register(query, source, turn_deg=0.0).provenance.parameters)
    assert (stated["least_scale"], stated["largest_scale"]) == pytest.approx((0.8 / 1.12, 0.8 * 1.12))


@pytest.mark.parametrize("most", [2.5, 2.0, "3", None, True, False, np.True_, np.arange(3), 0, -1, float("nan")])
def test_a_count_that_is_none_is_refused_in_one_line(most: object) -> None:
    with pytest.raises(InputError, match="most must be a whole number, at least 1, got ") as caught:
        check_count("most", most)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("most", [True, 0])
def test_verbs_ask_whether_a_count_is_one(most: int) -> None:
    pixels = np.zeros((64, 70), np.uint8)
    for verb in (lambda: fiducial.keypoints(pixels, most=most), lambda: fiducial.locate(pixels, pixels, most=most)):
        with pytest.raises(InputError, match="most must be a whole number"):
            verb()


def test_counts_of_numpy_are_counts() -> None:
    assert [(count, type(count)) for count in (check_count("most", 3), check_count("most", np.int16(7)))] == [
        (3, int),
        (7, int),
    ]
