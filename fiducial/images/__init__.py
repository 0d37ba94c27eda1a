"""Read and write images: PNG and JPEG, TIFF, OME-TIFF and OME-Zarr by window, georeference by rasterio if installed.

Files from strangers are read header first: the format by its first bytes, never by the name, from a short allow-list; the
size of the region to be decoded is checked against a budget in bytes before anything is decoded.
"""

from fiducial.images.limits import MAX_BYTES, MAX_CHANNELS
from fiducial.images.omezarr import is_omezarr
from fiducial.images.opening import as_image, from_array, open_image
from fiducial.images.tones import as_float32, averaged, intensity_range, read_reduced, sample_gray, to_gray
from fiducial.images.writing import whole_file, write_image, write_json, write_json_rows, write_text
from fiducial.images.zarr_writing import write_omezarr

__all__ = [
    "MAX_BYTES",
    "MAX_CHANNELS",
    "as_float32",
    "as_image",
    "averaged",
    "from_array",
    "intensity_range",
    "is_omezarr",
    "open_image",
    "read_reduced",
    "sample_gray",
    "to_gray",
    "whole_file",
    "write_image",
    "write_json",
    "write_json_rows",
    "write_omezarr",
    "write_text",
]
