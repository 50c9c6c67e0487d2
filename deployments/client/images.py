"""What a caller may give as an image -> what is sent: bytes, or a reference to what the service can get itself."""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from os import PathLike
from stat import S_ISREG

import numpy as np
from PIL import Image

from deployments.image_ids import ImageId, ImageUrl
from pipeline.errors import StageError
from pipeline.image import decode, from_pil
from pipeline.stages import UInt8Array

AnyImage = str | PathLike[str] | bytes | Image.Image | UInt8Array | ImageUrl | ImageId
"""A path; encoded bytes; a PIL image; an upright `HxWx3` uint8 RGB array; or, by reference, `ImageUrl` and `ImageId`.

Pixels are sent as a PNG, so nothing is lost. A PIL image is what a viewer shows of it: its EXIF orientation is applied,
transparency is on white, as `pipeline.TextToMask` has it. Of a photograph's file give the path: its pixels as a PNG are
several times as long, and may exceed what the service takes."""

_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Upload:
    """Encoded bytes, and the digest by which their id is remembered."""

    data: bytes
    digest: bytes


def read_image(image: object) -> Upload | ImageUrl | ImageId:
    """What to send for `image`. Reads files, encodes pixels: not for an event loop.

    Raises:
        OSError: the file cannot be read, or is none but a pipe or a device.
        StageError: an array of another shape or type.
        ValueError: a URL that is not an `ImageUrl`. TypeError: anything else.
    """
    match image:
        case ImageUrl() | ImageId():
            return image
        case bytes() | bytearray() | memoryview():
            data = bytes(image)
        case str() | PathLike():
            data = _file(image)
        case Image.Image():
            data = _png(from_pil(image))
        case np.ndarray():
            data = _png(decode(image))
        case _:
            raise TypeError(
                f"an image is a path, bytes, a PIL image, an array or an ImageUrl, not {type(image).__name__}"
            )
    return Upload(data, sha256(data).digest())


def _file(path: str | PathLike[str]) -> bytes:
    if _URL.match(str(path)):
        raise ValueError("this is a URL: give ImageUrl(...) to have the service fetch it")
    with open(path, "rb", opener=_at_once) as file:
        if not S_ISREG(os.fstat(file.fileno()).st_mode):  # a pipe may never end, a device never does
            raise OSError(errno.EINVAL, "not a file", str(path))
        return file.read()


def _at_once(path: str, flags: int) -> int:
    """Opens without waiting for the other end of a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _png(pixels: UInt8Array) -> bytes:
    buffer = BytesIO()
    try:
        Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)  # three times as fast as the default level
    except (ValueError, OSError):
        raise StageError("image_too_large", "the picture cannot be written as a PNG", "image") from None
    return buffer.getvalue()
