"""Encoded bytes -> an upright RGB array, with limits that are checked before anything is allocated."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO

import numpy as np
from PIL import Image, ImageFile, ImageOps, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from pipeline.errors import StageError
from pipeline.image_header import Format, Header, read_header
from pipeline.stages import ImageSource, Region, UInt8Array

# The plugins are called directly, not through Image.open: that checks PIL's own process-wide pixel limit, with a
# warning that cannot be silenced for one thread, and makes a multi-picture file of a phone's JPEG.
_PLUGINS: dict[Format, type[ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
}

# EXIF orientation -> what makes the stored image upright (EXIF 2.32, 4.6.4 A).
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """The largest image that is taken.

    Attributes:
        max_bytes: of the encoded file.
        max_pixels: height times width.
        max_side: the longer side, in pixels.
    """

    max_bytes: int = 32 * 2**20
    max_pixels: int = 50_000_000
    max_side: int = 32_768


_DEFAULT_LIMITS = ImageLimits()


def read_size(data: bytes, limits: ImageLimits = _DEFAULT_LIMITS) -> tuple[int, int]:
    """`(height, width)` of the upright image, from the header alone: no pixel is decoded.

    Raises:
        StageError: `image_too_large`, `image_format_not_allowed`, or `image_undecodable` for a broken header. A file
            that is broken further on passes here, and fails in `decode`.
    """
    return _checked_header(data, limits).upright_size


def decode(source: ImageSource, limits: ImageLimits = _DEFAULT_LIMITS) -> UInt8Array:
    """Decode an image.

    The EXIF orientation is applied; transparency is composited on white; 16-bit samples are scaled to 8 bits; grey,
    palette and CMYK become RGB. Of an animation the first frame counts. Embedded colour profiles are not applied.

    Args:
        source: encoded JPEG, PNG or WebP; or an upright `HxWx3` uint8 RGB array, which is returned as it is.
        limits: what to refuse; an array is not measured against them.

    Returns:
        `HxWx3` uint8, RGB, C-contiguous where decoded.

    Raises:
        StageError: `image_too_large`, `image_format_not_allowed`, `image_undecodable`; `invalid_value` for an array
            of another shape or type. The texts are fixed: PIL's own are never shown.
    """
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or source.size == 0:
            raise StageError("invalid_value", "an image array must be HxWx3 of uint8", "image")
        return source
    header = _checked_header(source, limits)
    try:
        return _decode(source, header)
    except MemoryError:
        raise  # ours, not the file's
    except Exception:
        # PIL raises OSError, SyntaxError, ValueError, EOFError, struct.error and others for broken files, and
        # documents no common class. Truncation is OSError, unless someone set ImageFile.LOAD_TRUNCATED_IMAGES.
        raise StageError("image_undecodable", "the image is truncated or corrupt", "image") from None


def from_pil(image: Image.Image) -> UInt8Array:
    """A PIL image, of any mode and EXIF orientation, as an upright `HxWx3` uint8 RGB array; transparency on white."""
    return np.array(_rgb(ImageOps.exif_transpose(image), 8))


def crop(image: UInt8Array, region: Region | None) -> UInt8Array:
    """The pixels of a region, as a view; the whole image for None.

    Raises:
        StageError: `invalid_value`, for a region that is empty or not wholly inside the image.
    """
    if region is None:
        return image
    x0, y0, x1, y1 = region
    if not (0 <= x0 < x1 <= image.shape[1] and 0 <= y0 < y1 <= image.shape[0]):
        raise StageError("invalid_value", "must lie within the image", "region")
    return image[y0:y1, x0:x1]


def decode_region(source: ImageSource, region: Region | None) -> UInt8Array:
    """`crop(decode(source), region)`, perhaps read-only. Raises as they do.

    The tiles of a large image come one after another, each with the same bytes: so the last two images of which a
    region was wanted are remembered decoded, up to 150 MB each.
    """
    if region is None or not isinstance(source, bytes):
        return crop(decode(source), region)
    return crop(_remembered(source), region)


@lru_cache(maxsize=2)
def _remembered(source: bytes) -> UInt8Array:
    pixels = decode(source)
    pixels.setflags(write=False)
    return pixels


def _checked_header(data: bytes, limits: ImageLimits) -> Header:
    if not isinstance(data, bytes):
        raise StageError("invalid_value", "an image must be encoded bytes", "image")
    if len(data) > limits.max_bytes:
        raise StageError("image_too_large", f"the file is larger than {limits.max_bytes} bytes", "image")
    header = read_header(data)
    height, width = header.size
    if height * width > limits.max_pixels:
        raise StageError("image_too_large", f"the image has more than {limits.max_pixels} pixels", "image")
    if max(height, width) > limits.max_side:
        raise StageError("image_too_large", f"a side is longer than {limits.max_side} pixels", "image")
    return header


def _decode(data: bytes, header: Header) -> UInt8Array:
    image: Image.Image
    with _PLUGINS[header.format](BytesIO(data)) as file:
        if (file.height, file.width) != header.size:
            raise ValueError("two headers: PIL believes the last, the limits saw the first")
        file.load()
        image = _rgb(file, header.depth)
    if header.orientation in UPRIGHT:
        image = image.transpose(UPRIGHT[header.orientation])
    return np.array(image)  # a copy: PIL's own buffer is read-only, which torch warns of


def _rgb(image: Image.Image, depth: int) -> Image.Image:
    """Any of PIL's modes -> RGB, transparency on white."""
    transparency = image.info.get("transparency")
    if image.mode == "I;16":
        # PIL's own conversions clip at 255. Its 16-bit colour keeps the high byte of each sample, and offers no
        # documented way to the low one; so grey does the same, and a grey picture looks alike in either form.
        values = np.asarray(image)
        grey = (values >> 8).astype(np.uint8)
        if transparency is not None:
            grey[values == transparency] = 255
        return Image.fromarray(grey).convert("RGB")
    if transparency is not None and image.mode in ("L", "RGB"):
        image.info["transparency"] = _scaled(transparency, depth)
    if transparency is None and not image.has_transparency_data:
        # A CMYK JPEG is taken as inverted, as Adobe writes it and as PIL and the browsers assume of all.
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(rgba, mask=rgba.getchannel("A"))
    return white


def _scaled(key: int | tuple[int, ...], depth: int) -> int | tuple[int, ...]:
    """A PNG's transparent colour at 8 bits a sample: PIL scales the pixels of other depths, but not this key."""
    if isinstance(key, tuple):
        return tuple(value >> 8 if depth == 16 else value & 255 for value in key)
    largest = (1 << depth) - 1
    return (key & largest) * 255 // largest
