"""The verbs: a path, an array or an `Image` in, a record out."""

from fiducial.api.blobs import calibrate_blobs, check_detection, detect, diameter_px, parse_diameter
from fiducial.api.defects import calibrate, check_inspection, inspect
from fiducial.api.loading import Source, parse_scale
from fiducial.api.places import check_location, check_search, load_locator, locate
from fiducial.api.registration import check_model, check_registration, keypoints, load_registrar, register

__all__ = [
    "Source",
    "calibrate",
    "calibrate_blobs",
    "check_detection",
    "check_inspection",
    "check_location",
    "check_model",
    "check_registration",
    "check_search",
    "detect",
    "diameter_px",
    "inspect",
    "keypoints",
    "load_locator",
    "load_registrar",
    "locate",
    "parse_diameter",
    "parse_scale",
    "register",
]
