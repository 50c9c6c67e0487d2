"""Large images by tiles: where the tiles lie, and which of them answers for what lies in several.

An object in an overlap is seen by two tiles or more, and a tile's border may cut it. Each box is left to the tile that
sees it deepest: a cut one has no depth, so the tile that sees the object whole answers, whatever it says of it. Only an
object that no tile sees whole comes in pieces; `pipeline.seams` unites those.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.errors import StageError
from pipeline.scalars import integer
from pipeline.selection import SelectionOptions, cap, drop_negatives, suppress
from pipeline.stages import Detections, DetectRequest, Float32Array, Region

MIN_SIZE, MAX_SIZE, MIN_OVERLAP = 64, 4096, 16
MAX_TILES = 256
MAX_CLASS_TILES = 20_000  # classes times tiles: 2,000 classes in 10 tiles, 78 in 256
MAX_PIECES = 5_000  # masks made for one image before they are merged and `max_detections` applies

TILE_FORMS = "must be 'auto', or an object with the integers size and overlap"
"""What a refusal says of anything else."""

_AUTO_SIDE, _AUTO_OVERLAP, _AUTO_TILES = 640, 0.4, 100
_MARGIN = 0.02  # of a tile's side: boxes are not more exact than that


@dataclass(frozen=True, slots=True)
class TileSize:
    """Side and least overlap of square tiles, in pixels of the upright image.

    Raises:
        StageError: `invalid_value`, naming the field, for another type or a number out of range.
    """

    size: int
    overlap: int

    def __post_init__(self) -> None:
        for name in ("size", "overlap"):
            object.__setattr__(self, name, integer(getattr(self, name), f"tile.{name}"))
        if not MIN_SIZE <= self.size <= MAX_SIZE:
            raise StageError("invalid_value", f"must be from {MIN_SIZE} to {MAX_SIZE}", "tile.size")
        if not MIN_OVERLAP <= self.overlap <= self.size // 2:
            raise StageError("invalid_value", f"must be from {MIN_OVERLAP} to half of the size", "tile.overlap")


def parse_tile(tile: object) -> Literal["auto"] | TileSize:
    """`"auto"`, or `{"size", "overlap"}` in pixels. Raises StageError `invalid_value` for anything else."""
    if isinstance(tile, str) and tile == "auto":
        return "auto"
    if isinstance(tile, Mapping) and set(tile) == {"size", "overlap"}:
        return TileSize(tile["size"], tile["overlap"])
    raise StageError("invalid_value", TILE_FORMS, "tile")


@dataclass(frozen=True, slots=True)
class Admitted:
    """What one tile contributes, in its own frame.

    Attributes:
        kept: at most `max_detections`, best first.
        left: boxes `(M, 4)` that were left to tiles that see them deeper.
        removed: how many detections each step removed. Of those that several tiles see only the first of the deepest
            counts, so that over all tiles each counts once.
    """

    kept: Detections
    left: Float32Array
    removed: dict[str, int]


@dataclass(frozen=True, slots=True)
class Tiling:
    """An image and its tiles, which are all of one size, lie inside it, and together cover it.

    Attributes:
        image_size: `(height, width)`.
        regions: row by row.
    """

    image_size: tuple[int, int]
    regions: tuple[Region, ...]

    @property
    def margin(self) -> float:
        """How near a tile's border a box may end, in pixels, and still count as cut by it."""
        x0, y0, x1, y1 = self.regions[0]
        return _MARGIN * max(x1 - x0, y1 - y0)

    def depth(self, boxes: Float32Array) -> Float32Array:
        """How far each box `(N, 4)`, in the image's frame, is from being cut by each tile: `(N, tiles)` pixels.

        The least distance of a box's side from the tile's own. Where a tile ends with the image nothing is cut, so that
        side does not count; negative where the box is not within the tile.
        """
        height, width = self.image_size
        tiles = np.array(self.regions, np.float32)
        inside = np.concatenate((boxes[:, None, :2] - tiles[:, :2], tiles[:, 2:] - boxes[:, None, 2:]), axis=2)
        ends = np.concatenate((tiles[:, :2] == 0, tiles[:, 2:] == (width, height)), axis=1)
        depth: Float32Array = np.where(ends, np.float32(np.inf), inside).min(axis=2)
        return depth

    def admit(self, found: Detections, number: int, options: SelectionOptions) -> Admitted:
        """What tile `number` contributes: negatives and NMS within the tile, then the boxes that no other sees deeper.

        Two tiles that see a box about equally deep both keep it: else each could leave it to the other.

        Args:
            found: the detector's answer, in the tile's frame.
        """
        offset = np.array(self.regions[number][:2] * 2, np.float32)

        def count(some: Detections) -> int:
            return int((self.depth(some.boxes + offset).argmax(axis=1) == number).sum())

        positive = found.take(found.class_ids >= 0)
        clear = drop_negatives(found, options.negative_iou)
        apart = suppress(clear, options.nms, options.nms_threshold)
        depth = self.depth(apart.boxes + offset)
        home = depth.max(axis=1) <= depth[:, number] + np.float32(self.margin)
        best = cap(apart.take(home), options.max_detections)
        counts = [count(some) for some in (positive, clear, apart, apart.take(home), best)]
        removed = {"negatives": counts[0] - counts[1], "nms": counts[1] - counts[2], "cap": counts[3] - counts[4]}
        return Admitted(best, apart.boxes[~home], removed)


def plan(
    image_size: tuple[int, int], tile: Literal["auto"] | TileSize | None, short_side: int, request: DetectRequest
) -> Tiling | None:
    """The tiles of an image, or None where it is left whole: it fits into one, or `tile` is None.

    `"auto"` takes the detector's own input (its shorter side), but at least 640 px, with an overlap of two fifths. An
    image of up to twice that on its longer side is left whole; a tile grows where there would be more than 100.

    Args:
        image_size: `(height, width)`.
        tile: side and least overlap.
        short_side: to which the detector resizes an image's shorter side.
        request: what is looked for.

    Raises:
        StageError: `invalid_value`, for too many tiles, for too many classes in so many tiles, or for raw mode.
    """
    if tile is not None and request.top_k is not None:
        raise StageError("invalid_value", "raw mode is of whole images", "tile")
    if tile == "auto":
        tile = _auto(image_size, short_side)
    count = 1 if tile is None else _count(image_size, tile)
    if tile is None or count == 1:
        return None
    if count > MAX_TILES:
        raise StageError("invalid_value", f"makes {count} tiles of this image; at most {MAX_TILES} are allowed", "tile")
    classes = len(request.classes) + len(request.negatives)
    if count * classes > MAX_CLASS_TILES:
        raise StageError(
            "invalid_value", f"makes {count} tiles: too many for {classes} classes; use larger tiles", "tile"
        )
    height, width = (min(tile.size, length) for length in image_size)
    rows, columns = (_spread(length, tile) for length in image_size)
    return Tiling(image_size, tuple((x, y, x + width, y + height) for y in rows for x in columns))


def _auto(image_size: tuple[int, int], short_side: int) -> TileSize | None:
    side = max(_AUTO_SIDE, short_side)
    if max(image_size) <= 2 * side:
        return None
    tile = TileSize(side, int(side * _AUTO_OVERLAP))
    while _count(image_size, tile) > _AUTO_TILES and side + 16 <= MAX_SIZE:
        side += 16
        tile = TileSize(side, int(side * _AUTO_OVERLAP))
    return tile


def _along(length: int, tile: TileSize) -> int:
    return 1 if tile.size >= length else math.ceil((length - tile.size) / (tile.size - tile.overlap)) + 1


def _count(image_size: tuple[int, int], tile: TileSize) -> int:
    return _along(image_size[0], tile) * _along(image_size[1], tile)


def _spread(length: int, tile: TileSize) -> list[int]:
    """Where tiles begin along one side: evenly spread, so that the overlaps share what is left over."""
    last = _along(length, tile) - 1
    return [number * (length - tile.size) // last for number in range(last + 1)] if last else [0]
