"""The three forms of a mask in JSON: COCO run lengths, polygons, and a PNG."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping
from io import BytesIO
from typing import Any, Literal, get_args

import numpy as np

from pipeline.masks import decode, encode
from pipeline.polygon_fill import fill
from pipeline.polygons import trace
from pipeline.stages import RLE

MaskForm = Literal["rle", "polygon", "png"]
_MAX_SIDE = 2**31  # so that places in a mask fit 64 bits
AnswerForm = Literal[MaskForm, "none"]
"""What an answer may be asked for: a form of its masks, or none of them."""


def check_form(form: AnswerForm) -> None:
    """Raises ValueError for what is no `AnswerForm`. An answer without masks must not hide a misspelt one."""
    if not isinstance(form, str) or form not in (*get_args(MaskForm), "none"):
        raise ValueError(f"{form!r} is no form of an answer's masks; take 'rle', 'polygon', 'png' or 'none'")


def mask_json(rle: RLE, form: MaskForm = "rle") -> dict[str, Any]:
    """A mask as JSON.

    Args:
        rle: the mask, of the size of the upright image.
        form: `"rle"`: `{"format", "size", "counts"}`, COCO's compressed run lengths as ASCII.
            `"polygon"`: `{"format", "size", "polygons"}`, of each connected part the exterior and its holes as
            `[[x, y], ...]` in pixel corners; see `pipeline.polygons`.
            `"png"`: `{"format", "size", "data"}`, base64 of a PNG of the image's size, 8 bits, 0 or 255.

    Raises:
        ValueError: there is no such form.
        StageError: `invalid_value`, where the mask must be read and its run lengths are malformed.
    """
    size = list(rle.size)
    if form == "rle":
        return {"format": form, "size": size, "counts": rle.counts}
    if form == "polygon":
        polygons = [[ring.tolist() for ring in part] for part in trace(rle)]
        return {"format": form, "size": size, "polygons": polygons}
    if form == "png":
        return {"format": form, "size": size, "data": b64encode(png(rle)).decode("ascii")}
    raise ValueError(f"{form!r} is no form of a mask; take 'rle', 'polygon' or 'png'")


def read_mask(mask: Mapping[str, Any]) -> RLE:
    """The mask that `mask_json` wrote, in any form; the same to the pixel.

    Run lengths are taken as they are: that they are sound shows when the mask is decoded.

    Raises:
        ValueError, KeyError, TypeError: it is of none of the forms. StageError: its polygons are malformed.
    """
    try:
        height, width = (int(side) for side in mask["size"])
    except OverflowError:  # JSON's 1e999 is infinite in Python
        raise ValueError("a mask's sides must be finite") from None
    if not 0 <= min(height, width) <= max(height, width) <= _MAX_SIDE:
        raise ValueError(f"a mask's sides must be from 0 to {_MAX_SIDE}")
    if mask["format"] == "rle":
        if not isinstance(mask["counts"], str):  # COCO's uncompressed form is a list
            raise TypeError("a mask's run lengths must be text")
        return RLE((height, width), mask["counts"])
    if mask["format"] == "polygon":
        return fill(mask["polygons"], (height, width))
    if mask["format"] == "png":
        return _read_png(b64decode(mask["data"], validate=True), (height, width))
    raise ValueError(f"there is no form {mask['format']!r} of a mask")


def png(rle: RLE) -> bytes:
    """The mask as a PNG of one 8-bit channel: 255 inside, 0 elsewhere. Raises like `pipeline.masks.decode`."""
    from PIL import Image  # here, since run lengths and polygons need no PIL

    file = BytesIO()
    Image.fromarray(decode(rle).view(np.uint8) * np.uint8(255)).save(file, "PNG")
    return file.getvalue()


def _read_png(data: bytes, size: tuple[int, int]) -> RLE:
    from PIL import Image

    try:
        with Image.open(BytesIO(data), formats=["PNG"]) as image:
            if (image.height, image.width) != size:  # before anything is decoded
                raise ValueError("a mask's PNG is not of the size that it claims")
            return encode(np.asarray(image.convert("L")) >= 128)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError("a mask's PNG cannot be read") from error
