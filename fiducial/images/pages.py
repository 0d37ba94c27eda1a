"""The pages of a TIFF: how many there are, and which of them are the channels of its image.

A stranger's file may chain its pages in a circle or claim a table of any length. The chain is therefore walked here, within
limits, before tifffile reads it; and what the file states of its planes is compared with the pages that are there, rather than
believed.
"""

import json
import math
import struct
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from fiducial.images.limits import MAX_CHANNELS, readable
from fiducial.records import InputError

MOST_PAGES = 4096
MOST_TAGS = 4096
MOST_TABLE_BYTES = 2**28  # of the values of a page's tags: the table of a terapixel in tiles of 256 × 256 px is as long

_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_REDUCED, _MASK = 1, 4  # bits of a page's kind: a smaller copy, or where there are data
_STK_PLANES = 33629


def count_pages(path: Path) -> int:
    """Return how many pages a TIFF chains.

    Raises:
        InputError: a circle, too many pages, or a page with too many or too long values.
    """
    with path.open("rb") as file:
        head = file.read(16)
        order = "<" if head[:2] == b"II" else ">"
        big = head[2:4] in (b"+\0", b"\0+")
        length, entry = (order + "Q", order + "HHQ8s") if big else (order + "H", order + "HHI4s")
        pointer = order + ("Q" if big else "I")
        (offset,) = struct.unpack_from(pointer, head, 8 if big else 4)
        end, seen = file.seek(0, 2), set[int]()
        while 0 < offset < end:
            if offset in seen:
                raise InputError(f"{readable(path)} is damaged (its pages run in a circle): copy or export it again")
            if len(seen) == MOST_PAGES:
                raise InputError(
                    f"expected at most {MOST_PAGES} pages, {readable(path)} has more: save the plane to be measured"
                )
            seen.add(offset)
            offset = _next_page(file, path, offset, (length, entry, pointer))
    return len(seen)


def _next_page(file: BinaryIO, path: Path, offset: int, formats: tuple[str, str, str]) -> int:
    """Return where the page after the one at an offset begins; 0 if there is none."""
    length, entry, pointer = formats
    file.seek(offset)
    (tags,) = struct.unpack(length, file.read(struct.calcsize(length)))
    if tags > MOST_TAGS:
        raise InputError(
            f"expected at most {MOST_TAGS} tags on a page, {readable(path)} has {tags}: it is damaged, export it again"
        )
    entries = file.read(tags * struct.calcsize(entry))
    table = sum(_TYPE_BYTES.get(kind, 0) * count for _, kind, count, _ in struct.iter_unpack(entry, entries))
    if table > MOST_TABLE_BYTES:
        raise InputError(
            f"the tags of a page may take {MOST_TABLE_BYTES:,} bytes, {readable(path)} claims {table:,}: "
            "export it again, in larger strips or tiles"
        )
    following = file.read(struct.calcsize(pointer))
    return int(struct.unpack(pointer, following)[0]) if len(following) == struct.calcsize(pointer) else 0


def whole_pages(tiff: Any, count: int) -> list[int]:  # noqa: ANN401 (tifffile ships no types)
    """Return which of `count` pages are neither smaller copies nor masks; the first, if all say that they are."""
    return [i for i in range(count) if not tiff.pages[i].subfiletype & (_REDUCED | _MASK)] or [0]


def planes(tiff: Any, whole: list[int], path: Path) -> list[int]:  # noqa: ANN401 (tifffile ships no types)
    """Return which of a TIFF's whole pages are the channels of its image: the first alone, unless the file states channels.

    Raises:
        InputError: the file states, or holds, more than one plane, or several images.
    """
    first = tiff.pages[whole[0]]
    alike = [i for i in whole if tiff.pages[i].shape == first.shape and tiff.pages[i].dtype == first.dtype]
    stated = {axis: n for axis, n in _stated_axes(tiff, first, len(alike)).items() if n != 1}
    channels = stated.pop("C", 1)
    if stated:
        holds = ", ".join(f"{n} along {axis}" for axis, n in (stated | ({"C": channels} if channels > 1 else {})).items())
        raise InputError(
            f"expected one plane, {readable(path)} holds {holds}: save the plane to be measured as a file of its own"
        )
    if not 1 <= channels <= len(alike):
        raise InputError(
            f"{readable(path)} states {channels} channels and holds {len(alike)}: "
            "save the channel to be measured as a file of its own"
        )
    if channels * first.samplesperpixel > MAX_CHANNELS:
        raise InputError(
            f"expected at most {MAX_CHANNELS} channels, {readable(path)} has {channels * first.samplesperpixel}: "
            "save those to be measured as a file of their own"
        )
    if tiff.is_ome:
        _check_images(tiff, len(whole) > channels, path)
        order = _ome_order(tiff)
        if len(order) == channels and set(order) <= set(alike):
            return order
    return alike[:channels]


def _check_images(tiff: Any, further: bool, path: Path) -> None:  # noqa: ANN401 (tifffile ships no types)
    """Refuse OME-XML of several images if the file has further pages: images that lie in other files are no matter."""
    images = len(_ome_elements(tiff, "Image"))
    if images > 1 and further:
        raise InputError(f"{readable(path)} holds {images} images: save the one to be measured as a file of its own")


def _stated_axes(tiff: Any, first: Any, pages: int) -> Mapping[str, int]:  # noqa: ANN401 (tifffile ships no types)
    """Return how many planes a file states by axis, or that its pages amount to where it states nothing."""
    stack = first.tags.get(_STK_PLANES)
    if first.imagedepth != 1 or (stack is not None and stack.count != 1):
        return {"Z": first.imagedepth if first.imagedepth != 1 else stack.count}
    if tiff.is_ome and (stated := ome_pixels(tiff)) is not None:
        return _ome_axes(stated, first, pages)
    if tiff.is_imagej:
        meta = tiff.imagej_metadata
        axes = {axis: int(meta.get(name, 1)) for axis, name in (("T", "frames"), ("Z", "slices"), ("C", "channels"))}
        if axes["C"] == first.samplesperpixel:
            axes["C"] = 1
        return axes | {"I": pages} if math.prod(axes.values()) == 1 else axes
    if (told := first.shaped_description) and told.startswith("{"):
        return _shaped_axes(json.loads(told), first, pages)
    return {"I": pages}


def ome_pixels(tiff: Any) -> ET.Element | None:  # noqa: ANN401 (tifffile ships no types)
    """Return what OME-XML states of the first image's pixels; None if nothing."""
    return next(iter(_ome_elements(tiff, "Pixels")), None) if tiff.is_ome else None


def _ome_elements(tiff: Any, name: str) -> list[ET.Element]:  # noqa: ANN401 (tifffile ships no types)
    if "<!DOCTYPE" in tiff.ome_metadata:
        raise ValueError("its OME-XML defines entities")
    return [element for element in ET.fromstring(tiff.ome_metadata).iter() if _is(element, name)]


def _is(element: ET.Element, name: str) -> bool:
    return element.tag.rpartition("}")[2] == name


def _ome_axes(stated: ET.Element, first: Any, pages: int) -> Mapping[str, int]:  # noqa: ANN401 (tifffile ships no types)
    axes = {axis: int(stated.attrib.get(f"Size{axis}", 1)) for axis in "TZC"}
    channel = next((e for e in stated if _is(e, "Channel")), None)
    samples = 1 if channel is None else int(channel.attrib.get("SamplesPerPixel", 1))
    if samples == 1 and pages == 1 and axes["C"] == first.samplesperpixel:
        samples = axes["C"]  # some writers leave it out
    return axes | {"C": axes["C"] // max(samples, 1)}


def ome_channels(tiff: Any) -> int:  # noqa: ANN401 (tifffile ships no types)
    """Return how many channels OME-XML names of the first image; 0 if none."""
    stated = ome_pixels(tiff)
    return 0 if stated is None else sum(_is(element, "Channel") for element in stated)


def named_channels(tiff: Any) -> list[str]:  # noqa: ANN401 (tifffile ships no types)
    """Return the names of channels that OME-XML or ImageJ states; none where neither does."""
    stated = ome_pixels(tiff)
    if stated is not None:
        return [element.attrib.get("Name", "") for element in stated if _is(element, "Channel")]
    labels = (tiff.imagej_metadata or {}).get("Labels", []) if tiff.is_imagej else []
    return [str(label) for label in ([labels] if isinstance(labels, str) else labels)]


def _ome_order(tiff: Any) -> list[int]:  # noqa: ANN401 (tifffile ships no types)
    """Return the page of each channel, where OME-XML says so."""
    stated = ome_pixels(tiff)
    placed = [] if stated is None else [e.attrib for e in stated if _is(e, "TiffData") and "IFD" in e.attrib]
    by_channel = {int(where.get("FirstC", 0)): int(where["IFD"]) for where in placed}
    return [by_channel[channel] for channel in sorted(by_channel)] if len(by_channel) == len(placed) else []


def _shaped_axes(stated: Any, first: Any, pages: int) -> Mapping[str, int]:  # noqa: ANN401 (JSON; tifffile ships no types)
    """Return the planes that tifffile's own description adds to a page."""
    shape = [int(n) for n in stated["shape"]]
    if math.prod(shape) == math.prod(first.shape):
        return {}
    axes = stated.get("axes")
    if isinstance(axes, str) and len(axes) == len(shape):
        beyond: dict[str, int] = {}
        for axis, n in zip(axes, shape, strict=True):
            if axis not in "YXS":
                beyond[axis] = beyond.get(axis, 1) * n
        if math.prod(beyond.values()) * math.prod(first.shape) == math.prod(shape):
            return beyond
    return {"I": max(pages, math.prod(shape) // max(1, math.prod(first.shape)))}
