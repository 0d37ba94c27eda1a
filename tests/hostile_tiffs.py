"""Hostile TIFFs, and good ones of every layout: strips, tiles, planes, compressions, pages, OME-XML, maps."""

import struct
from io import BytesIO

import numpy as np
import tifffile
from hostile_parts import SIZE, SMOOTH, Entry, Make, claims, deflated_zeros, photo, picture, smooth, stored
from PIL import Image as PillowImage


def tiff(pixels: np.ndarray, **options: object) -> bytes:
    """Return a TIFF by tifffile."""
    file = BytesIO()
    tifffile.imwrite(file, pixels, **options)
    return file.getvalue()


def tif(content: bytes) -> Make:
    """Return what writes a TIFF."""
    return stored(content, "a.tif")


def raw_tiff(tags: dict[int, tuple[int, int | bytes | tuple[int, ...]]], content: bytes = b"", following: int = 0) -> bytes:
    """Return a little-endian TIFF of one page with any tags (code: type, value); `content` begins at byte 8."""
    formats = {2: "s", 3: "H", 4: "I", 7: "s", 9: "i", 12: "d"}
    at = 8 + len(content) + len(content) % 2
    entries, values, tail = b"", b"", at + 6 + 12 * len(tags)
    for code, (kind, value) in sorted(tags.items()):
        count = 1 if isinstance(value, int) else len(value)
        packed = (
            value
            if isinstance(value, bytes)
            else struct.pack(f"<{count}{formats[kind]}", *((value,) if isinstance(value, int) else value))
        )
        if len(packed) > 4:
            entries += struct.pack("<HHII", code, kind, count, tail + len(values))
            values += packed + b"\0" * (len(packed) % 2)
        else:
            entries += struct.pack("<HHI", code, kind, count) + packed.ljust(4, b"\0")
    head = b"II*\0" + struct.pack("<I", at) + content + b"\0" * (len(content) % 2)
    return head + struct.pack("<H", len(tags)) + entries + struct.pack("<I", following) + values


def page(**stated: tuple[int, int | bytes | tuple[int, ...]]) -> dict[int, tuple[int, int | bytes | tuple[int, ...]]]:
    """Return the tags of a gray page of 6 × 4 px in one strip, some of them otherwise."""
    names = {
        "width": 256, "height": 257, "bits": 258, "compression": 259, "photometric": 262, "description": 270, "offsets": 273,
        "samples": 277, "rows": 278, "counts": 279, "tile_width": 322, "tile_height": 323, "tile_offsets": 324,
        "tile_counts": 325, "kind": 339,
    }  # fmt: skip
    usual = {
        256: (4, 6),
        257: (4, 4),
        258: (3, 8),
        259: (3, 1),
        262: (3, 1),
        273: (4, 8),
        277: (3, 1),
        278: (4, 4),
        279: (4, 24),
    }
    return usual | {names[name]: value for name, value in stated.items()}


def tiles(width: int, height: int) -> dict[int, tuple[int, int | bytes | tuple[int, ...]]]:
    """Return the tags of a page of 6 × 4 px in deflated tiles of any size."""
    tags = page(compression=(3, 8), tile_width=(4, width), tile_height=(4, height), tile_offsets=(4, 8), tile_counts=(4, 24))
    return {code: value for code, value in tags.items() if code not in (273, 278, 279)}


def ome(size: str, data: str = "<TiffData/>", before: str = "") -> bytes:
    """Return OME-XML that states sizes."""
    pixels = f'<Pixels ID="P:0" DimensionOrder="XYCZT" Type="uint8" SizeX="6" SizeY="4" {size}>{data}</Pixels>'
    schema = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
    return f'{before}<OME xmlns="{schema}"><Image ID="I:0">{pixels}</Image></OME>'.encode()


GRAY = np.arange(24, dtype=np.uint8).reshape(4, 6)
PLAIN = GRAY.tobytes()
LAUGHS = "<!DOCTYPE b [" + '<!ENTITY a0 "ha">' + "".join(
    f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10)
) + "]>"  # fmt: skip
GEO = [
    (33550, 12, 3, (10.0, 10.0, 0.0)),
    (33922, 12, 6, (0, 0, 0, 500.0, 900.0, 0)),
    (34735, 3, 8, (1, 1, 0, 1, 1024, 0, 1, 1)),
]
GEOTIFF = tiff(picture("uint16"), tile=(32, 32), compression="zlib", extratags=GEO)
PLANAR = np.moveaxis(picture("uint8", 3), -1, 0)
BOMB = deflated_zeros(2**30 // 16)

LOSSLESS = ("none", "lzw", "zlib", "packbits", "lzma", "zstd")
LAYOUTS: dict[str, dict[str, object]] = {
    "striped": {"rowsperstrip": 9},
    "in one strip": {"rowsperstrip": 70},
    "tiled": {"tile": (32, 16)},
    "big-endian": {"byteorder": ">", "rowsperstrip": 9},
    "BigTIFF": {"bigtiff": True, "tile": (16, 48)},
    "big-endian BigTIFF": {"bigtiff": True, "byteorder": ">", "rowsperstrip": 9},
}


def gap(value: float, dtype: str = "float32") -> np.ndarray:
    """Return a picture of floats with a hole that holds one value."""
    pixels = picture(dtype)
    pixels[10:20, 30:50] = value
    return pixels


TIFFS = [
    *(Entry(f"TIFF, {name}", tif(tiff(picture("uint16"), **how)), picture("uint16")) for name, how in LAYOUTS.items()),
    *(
        Entry(
            f"TIFF, {how}, {layout}",
            tif(tiff(picture("uint16", 3), compression=how, photometric="rgb", **LAYOUTS[layout])),
            picture("uint16", 3),
        )
        for how in LOSSLESS
        for layout in ("striped", "tiled")
    ),
    *(
        Entry(
            f"TIFF, {how}, predicted",
            tif(tiff(picture("float32"), compression=how, predictor=3, tile=(32, 16))),
            picture("float32"),
        )
        for how in ("lzw", "zlib", "zstd")
    ),
    Entry(
        "TIFF, JPEG",
        tif(tiff(smooth(), compression="jpeg", compressionargs={"level": 95}, rowsperstrip=16, photometric="rgb")),
        smooth(),
        near=8,
    ),
    Entry(
        "TIFF, JPEG in YCbCr",
        tif(photo(PillowImage.fromarray(smooth()), "TIFF", compression="jpeg", quality=95)),
        smooth(),
        near=12,
    ),
    *(
        Entry(f"TIFF of {dtype}", tif(tiff(picture(dtype))), picture(dtype))
        for dtype in ("int8", "int16", "int32", "uint32", "int64", "float16", "float32", "float64")
    ),
    Entry("TIFF of 1 bit", tif(tiff(picture() > 120, photometric="minisblack")), picture() > 120),
    Entry("TIFF of 16 bits, 12 used", tif(tiff(picture("uint16", top=4096))), picture("uint16", top=4096)),
    Entry("TIFF of complex numbers", tif(tiff(picture("float32").astype(np.complex64))), says="real part"),
    Entry("TIFF, all NaN", tif(tiff(np.full(SIZE, np.nan, np.float32))), np.full(SIZE, np.nan, np.float32)),
    Entry("TIFF, some NaN", tif(tiff(gap(np.nan))), gap(np.nan)),
    Entry("TIFF, infinite", tif(tiff(gap(-np.inf))), gap(-np.inf)),
    Entry("TIFF that states no data", tif(tiff(gap(-9999), extratags=[(42113, 2, 6, "-9999")])), gap(np.nan)),
    Entry(
        "TIFF that states no data, tiled",
        tif(tiff(gap(-9999), tile=(32, 32), compression="zlib", extratags=[(42113, 2, 6, "-9999")])),
        gap(np.nan),
    ),
    Entry("TIFF that states nonsense for no data", tif(tiff(gap(0), extratags=[(42113, 2, 4, "none")])), gap(0)),
    Entry("TIFF with alpha", tif(tiff(picture("uint8", 4), photometric="rgb", extrasamples=[2])), picture("uint8", 4)),
    Entry("TIFF, planar", tif(tiff(PLANAR, photometric="rgb", planarconfig="separate")), picture("uint8", 3)),
    Entry("TIFF, white is zero", tif(tiff(picture(), photometric="miniswhite")), 255 - picture()),
    Entry(
        "TIFF with a palette",
        tif(tiff(picture(), photometric="palette", colormap=np.zeros((3, 256), np.uint16))),
        says="PALETTE",
    ),
    Entry("TIFF in CMYK", tif(tiff(picture("uint8", 4), photometric="separated")), says="SEPARATED"),
    Entry("TIFF, turned", tif(tiff(picture(), extratags=[(274, 3, 1, 6)])), says="upright"),
    Entry("TIFF of several pages", tif(tiff(np.zeros((6, 20, 30), np.uint8), photometric="minisblack")), says="one plane"),
    Entry(
        "TIFF of several pages that states nothing",
        tif(tiff(np.zeros((6, 20, 30), np.uint8), photometric="minisblack", metadata=None)),
        says="one plane",
    ),
    Entry(
        "OME-TIFF of channels",
        tif(tiff(PLANAR, ome=True, metadata={"axes": "CYX"}, photometric="minisblack")),
        picture("uint8", 3),
    ),
    Entry("OME-TIFF in color", tif(tiff(picture("uint8", 3), ome=True, photometric="rgb")), picture("uint8", 3)),
    Entry(
        "OME-TIFF of a stack", tif(tiff(PLANAR, ome=True, metadata={"axes": "ZYX"}, photometric="minisblack")), says="3 along Z"
    ),
    Entry("ImageJ's TIFF of channels", tif(tiff(PLANAR, imagej=True, metadata={"axes": "CYX"})), picture("uint8", 3)),
    Entry("ImageJ's TIFF of a stack", tif(tiff(PLANAR, imagej=True, metadata={"axes": "ZYX"})), says="3 along Z"),
    Entry("ImageJ's TIFF in color", tif(tiff(picture("uint8", 3), imagej=True)), picture("uint8", 3)),
    Entry("GeoTIFF", tif(GEOTIFF), picture("uint16")),
    Entry("TIFF named .jpg", stored(tiff(picture()), "a.jpg"), picture()),
    Entry("TIFF named .ndpi", stored(tiff(picture()), "a.ndpi"), picture()),
    Entry("TIFF by hand", tif(raw_tiff(page(), PLAIN)), GRAY),
    Entry(
        "TIFF whose description claims a shape of -1",
        tif(raw_tiff(page(description=(2, b'{"shape": [-1, 4, 6]}')), PLAIN)),
        GRAY,
    ),
    Entry("TIFF of 1 × 1", tif(tiff(np.full((1, 1), 9, np.uint16))), np.full((1, 1), 9, np.uint16)),
    Entry("TIFF of 1 × 10,000", tif(tiff(np.zeros((1, 10_000), np.float32), tile=(16, 16))), np.zeros((1, 10_000), np.float32)),
    Entry("constant TIFF", tif(tiff(np.full(SIZE, 7, np.uint16))), np.full(SIZE, 7, np.uint16)),
]


def bad_tiff(name: str, says: str, tags: dict[int, tuple[int, int | bytes | tuple[int, ...]]], content: bytes = PLAIN) -> Entry:
    """Return a TIFF by hand that is to be refused."""
    return Entry(f"TIFF {name}", tif(raw_tiff(tags, content)), says=says)


BAD_TIFFS = [
    bad_tiff(
        "that claims 100,000 × 100,000", "over the budget", page(width=(4, 100_000), height=(4, 100_000), rows=(4, 100_000))
    ),
    bad_tiff(
        "that claims 100,000 × 100,000 in tiles",
        "over the budget",
        tiles(16, 16) | page(width=(4, 100_000), height=(4, 100_000)),
    ),
    bad_tiff("without pixels", "holds none|damaged", page(width=(4, 0))),
    bad_tiff("whose pixels end early", "damaged", page(offsets=(4, 140))),
    bad_tiff("with tiles of no area", "damaged", tiles(0, 0)),
    bad_tiff("with tiles of 2 ** 31", "over the budget", tiles(2**31, 2**31)),
    bad_tiff("with tiles of 2 ** 31 in one direction", "over the budget", tiles(2**31, 16)),
    bad_tiff("with strips of no rows", "damaged", page(compression=(3, 8), rows=(4, 0))),
    bad_tiff("with a strip beyond its end", "damaged", page(offsets=(4, 2**32 - 1))),
    bad_tiff("with a deflated strip beyond its end", "damaged", page(offsets=(4, 2**32 - 1), compression=(3, 8))),
    bad_tiff("with a strip before its beginning", "damaged", page(offsets=(9, -400))),
    bad_tiff("with a deflated strip before its beginning", "damaged", page(offsets=(9, -400), compression=(3, 8))),
    bad_tiff("with a strip of 4 GiB", "more than its pixels can", page(counts=(4, 2**32 - 1), compression=(3, 8))),
    bad_tiff("without strips", "damaged", {k: v for k, v in page(compression=(3, 8)).items() if k not in (273, 279)}),
    bad_tiff("of 77 bits", "bits", page(bits=(3, 77))),
    bad_tiff("of no known kind of number", "bits", page(kind=(3, 99))),
    bad_tiff("of a compression that is not allowed", "compression must be", page(compression=(3, 34712))),
    bad_tiff("of no known compression", "compression must be", page(compression=(3, 4711))),
    bad_tiff("of no known colors", "gray or RGB", page(photometric=(3, 999))),
    bad_tiff("in YCbCr without JPEG", "gray or RGB", page(photometric=(3, 6), samples=(3, 3))),
    bad_tiff("of 60,000 channels", "at most 16 channels", page(samples=(3, 60_000), width=(4, 1), height=(4, 1))),
    bad_tiff(
        "with a JPEG of 65,500 × 65,500 in a strip of 4 × 6",
        "holds a JPEG",
        page(compression=(3, 7), counts=(4, len(SMOOTH))),
        claims(SMOOTH, 65_500, 65_500),
    ),
    bad_tiff("with a strip that is no JPEG", "damaged", page(compression=(3, 7))),
    bad_tiff("with a description that is no XML", "damaged", page(description=(2, b"<OME><broken OME>\0"))),
    bad_tiff(
        "that states 10 ** 9 times", "along T", page(description=(2, ome('SizeZ="1" SizeC="1" SizeT="1000000000"') + b"\0"))
    ),
    bad_tiff(
        "that states 10 ** 9 channels",
        "states 1000000000 channels",
        page(description=(2, ome('SizeZ="1" SizeC="1000000000" SizeT="1"'))),
    ),
    bad_tiff(
        "whose XML unpacks to 2 GB",
        "defines entities",
        page(description=(2, ome('SizeZ="1" SizeC="1" SizeT="1"', "<x>&a9;</x>", LAUGHS))),
    ),
    bad_tiff("whose description is nested 100,000 deep", "damaged", page(description=(2, b'{"shape": ' + b"[" * 100_000))),
    bad_tiff(
        "whose description claims ten planes", "one plane", page(description=(2, b'{"shape": [10, 4, 6], "axes": "ZYX"}'))
    ),
    Entry("TIFF whose pages run in a circle", tif(raw_tiff(page(), PLAIN, following=32)), says="circle"),
    Entry(
        "TIFF of 5,000 pages",
        tif(
            b"II*\0\x08\0\0\0" + b"".join(struct.pack("<HHHI4sI", 1, 256, 4, 1, b"\1\0\0\0", 26 + 18 * i) for i in range(5000))
        ),
        says="pages",
    ),
    Entry(
        "TIFF with a tag of 16 GiB", tif(b"II*\0\x08\0\0\0" + struct.pack("<HHHIII", 1, 273, 4, 2**32 - 1, 8, 0)), says="claims"
    ),
    Entry("TIFF with 65,535 tags", tif(b"II*\0\x08\0\0\0\xff\xff" + bytes(100)), says="tags"),
    Entry("BigTIFF with 2 ** 64 - 1 tags", tif(b"II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0" + b"\xff" * 50), says="tags"),
    Entry("TIFF of a header alone", tif(b"II*\0\x08\0\0\0"), says="damaged|no image"),
    Entry("TIFF without pages", tif(b"II*\0\0\0\0\0"), says="damaged|no image"),
    Entry(
        "TIFF with one strip larger than the budget",
        tif(tiff(np.zeros((3000, 2000), np.uint8), compression="zlib", rowsperstrip=3000)),
        says="over the budget",
        max_bytes=2**20,
    ),
    bad_tiff(
        "with a strip that unpacks to 64 MB", "damaged|more than its", page(compression=(3, 8), counts=(4, len(BOMB))), BOMB
    ),
]
