"""The stored size and the EXIF orientation of a JPEG, PNG or WebP, read from its structure alone.

No pixel is decoded and nothing is allocated that grows with the picture. PIL is not asked: opening a WebP there
already allocates the whole canvas, and a PNG's trailing EXIF is found only by decoding it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal

from pipeline.errors import StageError

Format = Literal["JPEG", "PNG", "WEBP"]

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MAX_PARTS = 100_000  # segments or chunks of a file; real ones have a few thousand at most
_MAX_JUNK = 65_536  # bytes between JPEG segments, which PIL skips one by one in Python

_ORIENTATION = 0x0112
_EXIF_PREFIX = b"Exif\0\0"


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself.

    Attributes:
        format: the container.
        size: `(height, width)` as stored, before the orientation is applied.
        orientation: EXIF orientation, 1 to 8; 1 where there is none.
        depth: bits a sample.
    """

    format: Format
    size: tuple[int, int]
    orientation: int = 1
    depth: int = 8

    @property
    def upright_size(self) -> tuple[int, int]:
        """`(height, width)` of the upright image: orientations 5 to 8 swap the sides."""
        height, width = self.size
        return (width, height) if self.orientation >= 5 else (height, width)


def read_header(data: bytes) -> Header:
    """Read the header of an encoded image.

    Raises:
        StageError: `image_format_not_allowed` for anything but JPEG, PNG or WebP; `image_undecodable` where the
            header is truncated or makes no sense.
    """
    try:
        if data.startswith(b"\xff\xd8\xff"):
            return _jpeg(data)
        if data.startswith(_PNG_SIGNATURE):
            return _png(data)
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return _webp(data)
    except (struct.error, IndexError, ValueError):
        raise _undecodable() from None
    if len(data) < 12 and (b"\xff\xd8\xff".startswith(data) or _PNG_SIGNATURE.startswith(data) or data[:4] == b"RIFF"):
        raise _undecodable()  # nothing, or too little to tell
    raise StageError("image_format_not_allowed", "the image must be a JPEG, PNG or WebP", "image")


def _undecodable() -> StageError:
    return StageError("image_undecodable", "the image is truncated or corrupt", "image")


def _header(format: Format, size: tuple[int, int], exif: bytes, depth: int = 8) -> Header:
    if min(size) <= 0:
        raise ValueError("no size")
    return Header(format, size, _orientation(exif), depth)


def _jpeg(data: bytes) -> Header:
    """Walk the segments up to the start of the scan (ITU-T T.81, annex B)."""
    size, depth, exif = (0, 0), 8, bytearray()
    position, junk = 2, 0
    for _ in range(_MAX_PARTS):
        start = data.index(b"\xff", position)
        marker = data[start + 1]
        junk += start - position
        if junk > _MAX_JUNK:
            break
        if marker == 0xFF or marker <= 0x01 or 0xD0 <= marker <= 0xD8:  # fill bytes and markers without a body
            position = start + (1 if marker == 0xFF else 2)
            junk += position - start
            continue
        if marker == 0xDA:
            return _header("JPEG", size, bytes(exif), depth)
        (length,) = struct.unpack_from(">H", data, start + 2)
        if marker == 0xD9 or length < 2:
            break
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame; not DHT, JPG, DAC
            depth, *size_ = struct.unpack_from(">BHH", data, start + 4)
            size = (size_[0], size_[1])
        elif marker == 0xE1 and data.startswith(_EXIF_PREFIX, start + 4):
            # A long EXIF goes on in the next APP1.
            exif += data[start + 4 + len(_EXIF_PREFIX) : start + 2 + length]
        position = start + 2 + length
    raise ValueError("no scan")


def _png(data: bytes) -> Header:
    """Walk the chunks to the end: EXIF may stand behind the pixels (PNG, third edition, 5.6)."""
    length, kind, width, height, depth = struct.unpack_from(">L4sLLB", data, 8)
    if length != 13 or kind != b"IHDR":
        raise ValueError("no IHDR")
    position, exif = 33, b""
    for _ in range(_MAX_PARTS):
        if position + 8 > len(data):  # a truncated file still has a header; decoding it will tell
            return _header("PNG", (height, width), exif, depth)
        length, kind = struct.unpack_from(">L4s", data, position)
        if kind == b"IEND":
            return _header("PNG", (height, width), exif, depth)
        if kind == b"eXIf" and not exif:
            exif = data[position + 8 : position + 8 + length]
        position += 12 + length
    raise ValueError("too many chunks")


def _webp(data: bytes) -> Header:
    """Walk the RIFF chunks (RFC 9649, 2.3 to 2.7)."""
    first = data[12:16]
    if first == b"VP8X":  # the canvas, less one, in 24 bits each
        width = int.from_bytes(data[24:27], "little") + 1
        height = int.from_bytes(data[27:30], "little") + 1
    elif first == b"VP8L" and data[20] == 0x2F:
        (bits,) = struct.unpack_from("<L", data, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif first == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        raise ValueError("no size")
    if len(data) < 30:
        raise ValueError("truncated")
    position = 12
    for _ in range(_MAX_PARTS):
        if first != b"VP8X" or position + 8 > len(data):  # only the extended form carries EXIF
            return _header("WEBP", (height, width), b"")
        kind, length = struct.unpack_from("<4sL", data, position)
        if kind == b"EXIF":
            return _header("WEBP", (height, width), data[position + 8 : position + 8 + length])
        position += 8 + length + length % 2
    raise ValueError("too many chunks")


def _orientation(exif: bytes) -> int:
    """The orientation in the first directory of an EXIF block; 1 if it has none or is corrupt (TIFF 6.0, section 2)."""
    tiff = exif.removeprefix(_EXIF_PREFIX)
    try:
        order = {b"II": "<", b"MM": ">"}[tiff[:2]]
        (directory,) = struct.unpack_from(order + "L", tiff, 4)
        (entries,) = struct.unpack_from(order + "H", tiff, directory)
        for entry in range(directory + 2, directory + 2 + 12 * entries, 12):
            tag, kind, count = struct.unpack_from(order + "HHL", tiff, entry)
            if tag == _ORIENTATION:
                width = {1: "B", 3: "H", 4: "L"}[kind]  # a SHORT; some writers use BYTE or LONG
                (value,) = struct.unpack_from(order + width, tiff, entry + 8)
                return int(value) if count == 1 and 1 <= value <= 8 else 1
    except (struct.error, KeyError):
        pass
    return 1
