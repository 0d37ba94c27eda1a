"""Decode the chunks of a Zarr array from a folder that nobody vouches for.

Nothing is read from outside the array's folder, and no chunk is decoded that would unpack to more than it should.
"""

import math
import struct
import zlib
from typing import Any

import imagecodecs
import zarr
from zarr.abc.store import RangeByteRequest
from zarr.storage import LocalStore

from fiducial.images.omezarr import Stored

_DEFLATE = 1032  # no byte of a deflated stream unpacks to more than these
_SLACK = 2**16  # bytes by which what does not compress may be larger than it was
_ENTRY = struct.Struct("<QQ")  # of a shard's index: offset and length of a part
_NOTHING = 2**64 - 1  # stands in both for a part that is not stored


class GuardedStore(LocalStore):  # type: ignore[misc]  # zarr's types are not followed
    """A folder of chunks, read only."""

    def __init__(self, stored: Stored, max_bytes: int) -> None:
        super().__init__(stored.folder, read_only=True)
        self.stored, self.max_bytes = stored, max_bytes
        self.real_root = stored.folder.resolve()

    def with_read_only(self, read_only: bool = False) -> "GuardedStore":
        """Return the same store; it is never written to."""
        return self

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:  # noqa: ANN401 (zarr's own types)
        """Return the bytes of a file; raises ValueError for what must not be read or decoded."""
        path = self.root / key
        if not path.resolve().is_relative_to(self.real_root):
            raise ValueError(f"{key} leads out of the folder")
        if not path.is_file():
            return None
        if key.endswith(("zarr.json", ".zarray", ".zattrs", ".zgroup")):
            return await super().get(key, prototype, byte_range)
        if path.stat().st_size > 2 * _bytes_of(self.stored, self.stored.chunks) + _SLACK:
            raise ValueError(f"{key} holds more than a chunk")
        data = await super().get(key, prototype, byte_range)
        self._check(key, data.to_bytes(), byte_range)
        return data

    def _check(self, key: str, data: bytes, byte_range: object) -> None:
        """Refuse what would unpack to more than a chunk holds."""
        most = _bytes_of(self.stored, self.stored.parts)
        if not self.stored.index:
            parts = [data]
        elif byte_range is None:
            parts = _parts(data, self.stored)
        elif isinstance(byte_range, RangeByteRequest) and not (self.stored.index == "start" and byte_range.start == 0):
            parts = [data]
        else:
            parts = []  # the index itself
        if any(_unpacks_to_more(part, self.stored.codec, most, self.max_bytes) for part in parts):
            raise ValueError(f"{key} unpacks to more than a chunk of {most:,} bytes")


def open_array(stored: Stored, max_bytes: int) -> Any:  # noqa: ANN401 (zarr's own types)
    """Open an array for reading."""
    return zarr.open_array(GuardedStore(stored, max_bytes), mode="r")


def _bytes_of(stored: Stored, shape: tuple[int, ...]) -> int:
    return stored.dtype.itemsize * math.prod(shape)


def _parts(shard: bytes, stored: Stored) -> list[bytes]:
    """Return the parts of a shard that its index names."""
    count = math.prod(whole // part for whole, part in zip(stored.chunks, stored.parts, strict=True))
    length, end = _ENTRY.size * count, len(shard) - stored.checksum
    index = shard[:length] if stored.index == "start" else shard[max(0, end - length) : end]
    if len(index) < length:
        raise ValueError("a shard is shorter than its index")
    entries = [entry for entry in _ENTRY.iter_unpack(index) if entry[0] != _NOTHING]
    if all(start + n <= len(shard) for start, n in entries):
        return [shard[start : start + n] for start, n in entries]
    raise ValueError("the index of a shard is damaged")


def _unpacks_to_more(data: bytes, codec: str | None, most: int, max_bytes: int) -> bool:
    """Say whether a compressed chunk would unpack to more than `most` bytes; deflated ones are counted where they might."""
    if codec in ("blosc", "lz4"):
        stated = data[4:8] if codec == "blosc" else data[:4]
        return int.from_bytes(stated, "little") > most
    if codec == "zstd":
        try:
            imagecodecs.zstd_decode(data, out=most)
        except imagecodecs.ZstdError:
            return True
    if codec in ("gzip", "zlib") and _DEFLATE * len(data) > max_bytes:
        stream = zlib.decompressobj(wbits=47)  # either header
        return len(stream.decompress(data, most + 1)) > most or bool(stream.unused_data)
    return False
