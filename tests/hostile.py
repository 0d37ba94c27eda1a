"""The files that every reader, verb and command is tried on, each with what is expected of it: its pixels, or a refusal.

An entry is written into a folder when a test asks for it. Truth is known by construction: pixels are drawn, then stored.
"""

import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from PIL import Image as PillowImage

SIZE = (70, 93)
ROTATED = 6  # the EXIF orientation of a camera held upright

Make = Callable[[Path], Path]


@dataclass(frozen=True)
class Entry:
    """A hostile file: how it is written, and its pixels, or what the one line that refuses it says."""

    name: str
    make: Make
    pixels: np.ndarray | None = None
    says: str = ""
    near: float = 0.0  # how far pixels may be off, where the format loses some
    max_bytes: int = 2**26

    def __str__(self) -> str:
        """Name the test."""
        return self.name


def picture(dtype: str = "uint8", channels: int = 1, top: int = 250) -> np.ndarray:
    """Return noise, the same each time."""
    rng = np.random.default_rng(7)
    shape = SIZE if channels == 1 else (*SIZE, channels)
    if dtype.startswith("f"):
        return rng.normal(0, 100, shape).astype(dtype)
    low = -100 if dtype.startswith("int") else 0
    return rng.integers(low, top, shape).astype(dtype)


def smooth() -> np.ndarray:
    """Return a picture in color that JPEG hardly changes."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    return np.stack([2 * y + 20, x + 60, 200 - y], axis=2).astype(np.uint8)


def stored(content: bytes, name: str = "a.png") -> Make:
    """Return what writes bytes under a name."""

    def make(folder: Path) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    return make


# PNG and JPEG


def photo(image: PillowImage.Image, kind: str = "PNG", **options: object) -> bytes:
    """Return a PNG or JPEG by Pillow."""
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(pixels: np.ndarray, **options: object) -> bytes:
    """Return a PNG."""
    return photo(PillowImage.fromarray(pixels), **options)


def rotated() -> PillowImage.Exif:
    """Return EXIF of a camera held upright."""
    exif = PillowImage.Exif()
    exif[0x0112] = ROTATED
    return exif


def chunk(kind: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def raw_png(width: int, height: int, depth: int, color: int, rows: bytes, extra: bytes = b"") -> bytes:
    """Return a PNG that states anything and holds deflated rows, whether they agree or not."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + extra + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@cache
def deflated_zeros(count: int) -> bytes:
    """Return zeros, deflated to about a thousandth."""
    packer = zlib.compressobj(9)
    return b"".join([packer.compress(bytes(2**20)) for _ in range(count // 2**20)] + [packer.flush()])


def claims(jpeg: bytes, width: int, height: int) -> bytes:
    """Return a JPEG whose header claims another size."""
    at = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:at] + struct.pack(">HH", height, width) + jpeg[at + 4 :]


PHOTO, SMOOTH = png(picture()), photo(PillowImage.fromarray(smooth()), "JPEG", quality=95, subsampling=0)
NOISE = photo(PillowImage.fromarray(picture()), "JPEG", quality=95)
PALETTE = PillowImage.fromarray(picture("uint8", 3)).convert("P")
CMYK = PillowImage.fromarray(smooth()).convert("CMYK")
HUGE_EXIF = b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0\xff\xff\xff\xff\xff\xff\xff\xff" * 200

PHOTOS = [
    Entry("PNG of 8 bits", stored(PHOTO), picture()),
    Entry("PNG of 1 bit", stored(photo(PillowImage.fromarray(picture() > 120))), ((picture() > 120) * 255).astype(np.uint8)),
    Entry("PNG of 16 bits, 12 used", stored(png(picture("uint16", top=4096))), picture("uint16", top=4096)),
    *(
        Entry(
            f"PNG of 16 bits, {n} channels",
            stored(imagecodecs.png_encode(picture("uint16", n, 65535))),
            picture("uint16", n, 65535),
        )
        for n in (2, 3, 4)
    ),
    Entry("PNG with alpha", stored(png(picture("uint8", 4))), picture("uint8", 4)),
    Entry("PNG, gray with alpha", stored(png(picture("uint8", 2))), picture("uint8", 2)),
    Entry("PNG with a palette", stored(photo(PALETTE)), np.asarray(PALETTE.convert("RGB"))),
    Entry("PNG, turned by EXIF", stored(png(picture(), exif=rotated())), np.rot90(picture(), -1)),
    Entry(
        "PNG of 16 bits, turned by EXIF",
        stored(png(picture("uint16", top=65535), exif=rotated())),
        np.rot90(picture("uint16", top=65535), -1),
    ),
    Entry(
        "PNG of 16 bits with a transparent gray",
        stored(raw_png(4, 2, 16, 0, zlib.compress((b"\0" + bytes(range(8))) * 2), chunk(b"tRNS", b"\0\1"))),
        np.frombuffer(bytes(range(8)) * 2, ">u2").reshape(2, 4).astype(np.uint16),
    ),
    Entry("PNG of 1 × 1", stored(png(np.full((1, 1), 9, np.uint8))), np.full((1, 1), 9, np.uint8)),
    Entry("PNG of 1 × 10,000", stored(png(np.zeros((1, 10_000), np.uint8))), np.zeros((1, 10_000), np.uint8)),
    Entry("constant PNG", stored(png(np.full(SIZE, 7, np.uint8))), np.full(SIZE, 7, np.uint8)),
    Entry("JPEG", stored(SMOOTH, "a.jpg"), smooth(), near=6),
    Entry(
        "JPEG, turned by EXIF",
        stored(photo(PillowImage.fromarray(smooth()), "JPEG", quality=95, subsampling=0, exif=rotated())),
        np.rot90(smooth(), -1),
        near=6,
    ),
    Entry("JPEG in CMYK", stored(photo(CMYK, "JPEG", quality=95), "a.jpg"), np.asarray(CMYK.convert("RGB")), near=25),
    Entry("PNG named .tif", stored(PHOTO, "a.tif"), picture()),
    Entry("PNG without a suffix", stored(PHOTO, "a"), picture()),
    Entry("path with spaces and other letters", stored(PHOTO, "µ-Bild 値/näh er “2”.png"), picture()),
    Entry("name with a line break", stored(PHOTO, "a\nb.png"), picture()),
    Entry("bad file of a name with a line break", stored(b"", "a\n\x1b[31mb.png"), says="is empty"),
    Entry("name that is no UTF-8", stored(PHOTO, os.fsdecode(b"\xff\xfe.png")), picture()),
    Entry("bad file of a name that is no UTF-8", stored(b"", os.fsdecode(b"\xff\xfe.png")), says="is empty"),
    Entry(
        "PNG whose profile unpacks to 64 MiB",
        stored(raw_png(1, 1, 8, 0, zlib.compress(b"\0\5"), chunk(b"iCCP", b"p\0\0" + deflated_zeros(2**26)))),
        says="too large",
    ),
    Entry(
        "PNG whose text unpacks to 64 MiB",
        stored(raw_png(1, 1, 8, 0, zlib.compress(b"\0\5"), chunk(b"zTXt", b"t\0\0" + deflated_zeros(2**26)))),
        says="too large",
    ),
    Entry(
        "PNG of 62 kB that unpacks to 64 MB",
        stored(raw_png(8000, 8000, 8, 0, deflated_zeros(2**26))),
        says="over the budget",
        max_bytes=2**24,
    ),
    Entry(
        "PNG that claims 100,000 × 100,000", stored(raw_png(100_000, 100_000, 8, 0, zlib.compress(b""))), says="over the budget"
    ),
    Entry(
        "PNG of 16 bits that claims 2 ** 31 - 1 a side",
        stored(raw_png(2**31 - 1, 2**31 - 1, 16, 6, b"")),
        says="over the budget",
    ),
    Entry("PNG that claims 0 × 5", stored(raw_png(0, 5, 8, 0, b"")), says="damaged"),
    Entry("PNG without pixels", stored(raw_png(93, 70, 8, 0, b"")), says="damaged"),
    Entry("PNG of 16 bits without pixels", stored(raw_png(93, 70, 16, 2, b"")), says="damaged"),
    Entry("JPEG that claims 65,500 × 65,500", stored(claims(SMOOTH, 65_500, 65_500), "a.jpg"), says="over the budget"),
    Entry("JPEG that claims 0 rows", stored(claims(SMOOTH, 93, 0), "a.jpg"), says="damaged"),
    Entry(
        "JPEG with an absurd orientation",
        stored(
            photo(
                PillowImage.fromarray(smooth()),
                "JPEG",
                quality=95,
                subsampling=0,
                exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x63\0\0\0\0\0\0\0",
            )
        ),
        smooth(),
        near=6,
    ),
    Entry(
        "JPEG with endless EXIF",
        stored(photo(PillowImage.fromarray(smooth()), "JPEG", quality=95, subsampling=0, exif=HUGE_EXIF)),
        smooth(),
        near=6,
    ),
]


# TIFF


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


def cut(name: str, whole: bytes, ending: str) -> list[Entry]:
    """Return a file cut after each kilobyte; what is left out is more than its last few bytes."""
    return [
        Entry(f"{name} cut at {size} bytes", stored(whole[:size], "a" + ending), says="damaged|empty|no image|none of them")
        for size in range(0, len(whole) - 20, 1024)
    ]


CUT = [
    *cut("PNG", PHOTO, ".png"),
    *cut("PNG of 16 bits", imagecodecs.png_encode(picture("uint16")), ".png"),
    *cut("JPEG", NOISE, ".jpg"),
    *cut("TIFF", tiff(picture()), ".tif"),
    *cut("TIFF, deflated", tiff(picture(), compression="zlib", rowsperstrip=9), ".tif"),
    *cut("GeoTIFF", GEOTIFF, ".tif"),
]


# What is no image, or no file


def loop(folder: Path) -> Path:
    """Make two links that name each other."""
    (folder / "a.png").symlink_to(folder / "b.png")
    (folder / "b.png").symlink_to(folder / "a.png")
    return folder / "a.png"


def pipe(folder: Path) -> Path:
    """Make a pipe into which nobody writes."""
    os.mkfifo(folder / "a.png")
    return folder / "a.png"


def directory(folder: Path) -> Path:
    """Make a folder with an image's name."""
    (folder / "a.png").mkdir()
    return folder / "a.png"


OTHERS = [
    Entry("empty file", stored(b""), says="is empty"),
    Entry("text named .png", stored(b"not an image\n"), says="expected a PNG, JPEG or TIFF"),
    Entry("GIF named .png", stored(b"GIF89a" + bytes(50)), says="expected a PNG, JPEG or TIFF"),
    Entry("zip archive named .tif", tif(b"PK\x03\x04" + bytes(50)), says="expected a PNG, JPEG or TIFF"),
    Entry("no such file", lambda folder: folder / "none.png", says="No such file"),
    Entry("name with a zero byte", lambda folder: folder / "a\0.png", says="cannot read"),
    Entry("name that is too long", lambda folder: folder / ("a" * 300 + ".png"), says="too long"),
    Entry("links in a circle", loop, says="symbolic links"),
    Entry("pipe", pipe, says="pipe or a device"),
    Entry("device without an end", lambda folder: Path("/dev/zero"), says="pipe or a device"),
    Entry("folder named .png", directory, says="cannot read|folder"),
]

ENTRIES = [*PHOTOS, *TIFFS, *BAD_TIFFS, *CUT, *OTHERS]
REFUSED = [entry for entry in ENTRIES if entry.pixels is None]


# Arrays, and what the verbs say of them


def scene(size: tuple[int, int] = (96, 112)) -> np.ndarray:
    """Return blobs of many sizes and tones on a gray ground, in 8 bits: something that each verb can answer on."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[: size[0], : size[1]]
    out = np.full(size, 60.0)
    for _ in range(size[0] * size[1] // 250):
        v, u, s, top = rng.uniform(0, size[0]), rng.uniform(0, size[1]), rng.uniform(2, 6), rng.uniform(50, 180)
        out = np.maximum(out, 60 + top * np.exp(-((y - v) ** 2 + (x - u) ** 2) / (2 * s * s)))
    return (out + rng.normal(0, 2, size)).clip(0, 255).astype(np.uint8)


def torn(value: float) -> np.ndarray:
    """Return the scene in floats with a corner that holds one value."""
    out = scene().astype(np.float32)
    out[:30, :40] = value
    return out


SAME = {  # arrays that show the same as the scene
    "uint16, 12 bits used": scene().astype(np.uint16) * 16,
    "signed": scene().astype(np.int16) * 100 - 12_000,
    "float64": scene().astype(np.float64) * 1e-6 + 1e-3,
    "big-endian": scene().astype(">u2"),
    "gray with alpha": np.stack([scene(), 255 - scene()], axis=2),
    "RGBA": np.dstack([scene()] * 3 + [255 - scene()]),
    "mirrored memory": np.ascontiguousarray(scene()[:, ::-1])[:, ::-1],
}

NO_ANSWER = {  # arrays of which no verb says anything
    "1 × 1": (np.full((1, 1), 3.0), "at least|constant|larger"),
    "1 × 10,000": (np.arange(10_000.0)[None], "at least|larger"),
    "all NaN": (np.full((96, 112), np.nan), "finite"),
    "all infinite": (np.full((96, 112), -np.inf), "finite"),
    "beyond float32": (np.full((96, 112), 1e300), "finite"),
    "five channels": (np.zeros((96, 112, 5), np.uint8), "channels"),
    "complex": (np.zeros((96, 112), complex), "real"),
    "text": (np.full((96, 112), "a"), "integers, floats"),
    "no pixels": (np.zeros((0, 4)), "none of them 0"),
    "four dimensions": (np.zeros((2, 2, 96, 112)), "H, W"),
}
