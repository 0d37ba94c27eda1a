"""The files that every reader, verb and command is tried on, each with what is expected of it: its pixels, or a refusal.

An entry is written into a folder when a test asks for it. Truth is known by construction: pixels are drawn, then stored.
"""

import os
import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
from hostile_parts import ROTATED, SIZE, SMOOTH, Entry, claims, deflated_zeros, photo, picture, smooth, stored
from hostile_tiffs import BAD_TIFFS, GEOTIFF, TIFFS, tif, tiff
from PIL import Image as PillowImage

# PNG and JPEG


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


PHOTO = png(picture())
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
        np.full((1, 1), 5, np.uint8),
    ),
    Entry(
        "PNG whose text unpacks to 64 MiB",
        stored(raw_png(1, 1, 8, 0, zlib.compress(b"\0\5"), chunk(b"zTXt", b"t\0\0" + deflated_zeros(2**26)))),
        np.full((1, 1), 5, np.uint8),
    ),
    Entry(
        "PNG whose EXIF unpacks to 64 MiB",
        stored(
            raw_png(1, 1, 8, 0, zlib.compress(b"\0\5"), chunk(b"zTXt", b"Raw profile type exif\0\0" + deflated_zeros(2**26)))
        ),
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
