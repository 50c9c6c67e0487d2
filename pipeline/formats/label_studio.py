"""Results as Label Studio's pre-annotations: a task with one prediction, to import and correct.

Coordinates are percent of the image's width and height. A brush is the mask itself, in Label Studio's own run lengths;
polygons have no holes there, so each part is one region, and a hole is reached by a bridge: a line from the outline,
there and back.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.formats.answer import number
from pipeline.masks import area, row_runs
from pipeline.polygons import trace_bridged
from pipeline.stages import RLE, UInt8Array

if TYPE_CHECKING:
    from pipeline.result import Result

_LENGTH_BITS = (3, 4, 8, 16)  # a run's length takes one of these
_LONGEST = 2**16
_WORD_BITS = 8


def to_label_studio(
    result: Result, image: str, *, brush: str | None, polygon: str | None, rectangle: str | None, to_name: str
) -> dict[str, Any]:
    """A task of Label Studio's JSON.

    Every region carries its `score`; the prediction's is their mean, and left out where nothing was found. An instance
    without a mask pixel is in the rectangles only.

    Args:
        result: of the image.
        image: its address as Label Studio reaches it, for `<Image name="image" value="$image"/>`.
        brush, polygon, rectangle: the names of the project's `BrushLabels`, `PolygonLabels` and `RectangleLabels`;
            regions of a kind without a name are left out. If no name at all is given: brushes named `"label"`, or
            rectangles of that name where no masks were asked for.
        to_name: the name of the project's `Image`.

    Raises:
        ValueError: brushes or polygons are wanted, and the result has no masks.
    """
    if brush is None and polygon is None and rectangle is None:
        brush, rectangle = (None, "label") if result.rles is None else ("label", None)
    if result.rles is None and (brush is not None or polygon is not None):
        raise ValueError("this result has no masks: none were asked for")
    height, width = result.image_size
    kinds = (
        ("brushlabels", brush, _brush),
        ("polygonlabels", polygon, _polygons),
        ("rectanglelabels", rectangle, _box),
    )
    regions = [
        {
            "id": f"{kind}-{index}-{part}",
            "type": kind,
            "from_name": from_name,
            "to_name": to_name,
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "score": number(result.scores[index]),
            "value": {**value, kind: [label]},
        }
        for index, label in enumerate(result.labels)
        for kind, from_name, values in kinds
        if from_name is not None
        for part, value in enumerate(values(result, index))
    ]
    score = {"score": float(result.scores.mean(dtype=np.float64))} if len(result) else {}
    return {"data": {"image": image}, "predictions": [{"model_version": result.model, **score, "result": regions}]}


def brush_rle(rle: RLE) -> UInt8Array:
    """A mask as Label Studio's run lengths: of an RGBA picture, row by row, all channels 255 inside and 0 elsewhere.

    The bytes equal those of Label Studio's own converter. They are bits, highest first: 32 for the number of words
    (bytes of the picture), 5 for the bits of a word less 1, four times 4 for the bits of a length less 1. Then the
    runs: a 1, two bits for which of the four, the length less 1, the word. At the end 1 to 8 zeros fill a byte.

    Args:
        rle: of less than a gigapixel.

    Raises:
        StageError: `invalid_value`, for counts that are malformed or do not fill the size.
    """
    words = 4 * row_runs(rle)
    inside = np.arange(len(words)) % 2 == 1
    inside, words = inside[words > 0], words[words > 0]
    # A run that is too long is cut. All its pieces have as many bits.
    size = np.searchsorted([8, 16, 256], words)
    pieces = -(-words // _LONGEST)
    lengths = np.full(pieces.sum(), _LONGEST)
    lengths[np.cumsum(pieces) - 1] = words - (pieces - 1) * _LONGEST
    size, inside = np.repeat(size, pieces), np.repeat(inside, pieces)

    bits = np.array(_LENGTH_BITS)[size]
    code = (((4 + size) << bits) + lengths - 1 << _WORD_BITS) + 255 * inside
    width = 1 + 2 + bits + _WORD_BITS
    places = np.unpackbits((code << 32 - width).astype(">u4").view(np.uint8).reshape(-1, 4), axis=1)
    runs = places[np.arange(32) < width[:, None]]

    header = f"{4 * rle.size[0] * rle.size[1]:032b}{_WORD_BITS - 1:05b}"
    header += "".join(f"{bits - 1:04b}" for bits in _LENGTH_BITS)
    stream = np.concatenate([np.array(list(header), np.uint8), runs])
    return np.packbits(np.append(stream, np.zeros(8 - len(stream) % 8, np.uint8)))


def _brush(result: Result, index: int) -> Iterator[dict[str, Any]]:
    assert result.rles is not None
    if area(result.rles[index]):
        yield {"format": "rle", "rle": brush_rle(result.rles[index]).tolist()}


def _polygons(result: Result, index: int) -> Iterator[dict[str, Any]]:
    assert result.rles is not None
    height, width = result.image_size
    for ring in trace_bridged(result.rles[index]):
        yield {"points": (100 * ring / [width, height]).tolist(), "closed": True}


def _box(result: Result, index: int) -> Iterator[dict[str, Any]]:
    height, width = result.image_size
    x0, y0, x1, y1 = (number(side) for side in result.boxes[index])
    shares = {"x": x0 / width, "y": y0 / height, "width": (x1 - x0) / width, "height": (y1 - y0) / height}
    yield {name: 100 * share for name, share in shares.items()} | {"rotation": 0}
