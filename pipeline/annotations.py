"""The truth that answers are measured by: COCO's `instances.json`, or LVIS's, read and checked.

What is wrong is said by its place in the file, before any model runs; pycocotools and its likes fail later, by a
KeyError, or count on with what they have.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, Literal

from pipeline.errors import StageError
from pipeline.masks import area
from pipeline.stages import RLE

Style = Literal["coco", "lvis", "lvis-fixed"]
Row = dict[str, Any]

_MOST_ID = 2**63 - 1
_MOST_SIDE = 1_000_000  # pixels; no image as large is taken
_BEYOND = 4  # longer sides of its image: how far from the corner a coordinate may be, for every pixel takes memory


class AnnotationError(ValueError):
    """The file is not COCO's; the message is a line that says where."""


@dataclass(frozen=True, slots=True)
class Truth:
    """Images and what is to be found in them, with COCO's names of fields and none that are not used.

    Attributes:
        images: `id`, `file_name`, `width`, `height`, in the order of the file; of LVIS, `neg_category_ids` and
            `not_exhaustive_category_ids` besides.
        categories: `id`, `name`, by id; of LVIS, `frequency` (`r`, `c`, `f`) besides.
        annotations: of those images: `id` (counted anew from 1: 0 would mean "none"), `image_id`, `category_id`,
            `bbox`, `area`, `iscrowd`, `segmentation` where there is one.
        unmasked: how many annotations have no `segmentation`.
    """

    images: tuple[Row, ...]
    categories: tuple[Row, ...]
    annotations: tuple[Row, ...]
    unmasked: int

    def first(self, count: int) -> Truth:
        """That of the first `count` images alone."""
        images = self.images[:count]
        ids = {image["id"] for image in images}
        annotations = tuple(one for one in self.annotations if one["image_id"] in ids)
        unmasked = sum("segmentation" not in one for one in annotations)
        return replace(self, images=images, annotations=annotations, unmasked=unmasked)

    def prompt(self, style: Style) -> list[str]:
        """What each category is asked for by: its name, with spaces for underscores. LVIS's lose what they have in
        parentheses, as in the published protocol: `bow_(weapon)` is asked for as `bow`."""
        names = (one["name"].replace("_", " ") for one in self.categories)
        if style != "coco":
            names = (re.sub(r"\(.*\)", "", name) for name in names)
        return [" ".join(name.split()) for name in names]


def read_truth(text: bytes, style: Style = "coco") -> Truth:
    """Read a file of annotations.

    Raises:
        AnnotationError: it is not JSON, or not what COCO, or LVIS, says it is.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise AnnotationError("it is not JSON") from None
    if not isinstance(data, Mapping):
        raise AnnotationError("it is no object with images, annotations and categories")
    federated = style != "coco"
    images = [_image(row, where, federated) for row, where in _rows(data, "images")]
    categories = [_category(row, where, federated) for row, where in _rows(data, "categories")]
    sizes = _by_id(images, "images", lambda one: (one["height"], one["width"]))
    known = _by_id(categories, "categories", lambda one: one["name"])
    if not images or not categories:
        raise AnnotationError("it has no images" if not images else "it has no categories")
    annotations: list[Row] = []
    for row, where in _rows(data, "annotations"):
        annotations.append({"id": len(annotations) + 1, **_annotation(row, where, sizes, known)})
    unmasked = sum("segmentation" not in one for one in annotations)
    ordered = sorted(categories, key=lambda one: int(one["id"]))
    return Truth(tuple(images), tuple(ordered), tuple(annotations), unmasked)


def _rows(data: Mapping[str, Any], name: str) -> Iterator[tuple[Mapping[str, Any], str]]:
    rows = data.get(name)
    if not isinstance(rows, list):
        raise AnnotationError(f"it has no list of {name}")
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise AnnotationError(f"{name}[{number}] is no object")
        yield row, f"{name}[{number}]"


def _by_id(rows: list[Row], name: str, value: Any) -> dict[int, Any]:
    found = {row["id"]: value(row) for row in rows}
    if len(found) < len(rows):
        raise AnnotationError(f"two of its {name} have one id")
    return found


def _image(row: Mapping[str, Any], where: str, federated: bool) -> Row:
    size = {side: _whole(row, side, where) for side in ("width", "height")}
    if min(size.values()) < 1 or max(size.values()) > _MOST_SIDE:
        raise AnnotationError(f"{where}: width and height must be at least 1 and at most {_MOST_SIDE}")
    name, url = row.get("file_name"), row.get("coco_url")
    if not isinstance(name, str) and isinstance(url, str):  # LVIS: below a folder with train2017 and val2017
        name = "/".join(url.split("/")[-2:])
    if not isinstance(name, str) or not name:
        raise AnnotationError(f"{where} has no file_name")
    if ".." in PurePosixPath(name).parts or name.startswith("/"):
        raise AnnotationError(f"{where}.file_name {name!r} leads out of the folder of images")
    image: Row = {"id": _id(row, "id", where), "file_name": name, **size}
    for field in ("neg_category_ids", "not_exhaustive_category_ids") if federated else ():
        ids = row.get(field)
        if not isinstance(ids, list) or not all(isinstance(one, int) and 0 <= one <= _MOST_ID for one in ids):
            raise AnnotationError(f"{where} has no list {field}, which every image of LVIS has")
        image[field] = ids
    return image


def _category(row: Mapping[str, Any], where: str, federated: bool) -> Row:
    name = row.get("name")
    if not isinstance(name, str) or not name.strip():
        raise AnnotationError(f"{where} has no name")
    category: Row = {"id": _id(row, "id", where), "name": name}
    if federated:
        if row.get("frequency") not in ("r", "c", "f"):
            raise AnnotationError(f"{where} has no frequency r, c or f, which every category of LVIS has")
        category["frequency"] = row["frequency"]
    return category


def _annotation(
    row: Mapping[str, Any], where: str, sizes: Mapping[int, tuple[int, int]], known: Mapping[int, str]
) -> Row:
    image, category = _id(row, "image_id", where), _id(row, "category_id", where)
    if image not in sizes:
        raise AnnotationError(f"{where}: there is no image {image}")
    if category not in known:
        raise AnnotationError(f"{where}: there is no category {category}")
    box, most = row.get("bbox"), _BEYOND * max(sizes[image])
    if not isinstance(box, list) or len(box) != 4 or not _numbers(box, most) or min(box[2:]) < 0:
        raise AnnotationError(f"{where}.bbox must be x, y, width and height in pixels, {most} at most")
    if not _numbers([row.get("area")], most**2):
        raise AnnotationError(f"{where} has no area in pixels, {most**2} at most")
    if row.get("iscrowd", 0) not in (0, 1):
        raise AnnotationError(f"{where}.iscrowd must be 0 or 1")
    crowd = int(row.get("iscrowd", 0))
    read: Row = {"image_id": image, "category_id": category, "bbox": box, "area": row["area"], "iscrowd": crowd}
    if row.get("segmentation"):
        read["segmentation"] = _segmentation(row["segmentation"], f"{where}.segmentation", sizes[image])
    return read


def _segmentation(given: Any, where: str, size: tuple[int, int]) -> Any:
    """Polygons or run lengths, sound: the C code that reads them next does not check."""
    if isinstance(given, list):
        most = _BEYOND * max(size)
        if all(isinstance(one, list) and len(one) >= 6 and len(one) % 2 == 0 and _numbers(one, most) for one in given):
            return given
        raise AnnotationError(f"{where}: a polygon must be x, y of three points or more, {most} pixels at most")
    counts = given.get("counts") if isinstance(given, Mapping) else None
    if counts is None or given.get("size") != [*size]:
        raise AnnotationError(f"{where} must be polygons, or run lengths of the image's size {[*size]}")
    if isinstance(counts, str):
        try:
            area(RLE(size, counts))
        except StageError as error:
            raise AnnotationError(f"{where}: {error.message}") from None
    elif not isinstance(counts, list) or not all(isinstance(one, int) and one >= 0 for one in counts):
        raise AnnotationError(f"{where}.counts must be text or a list of lengths")
    elif sum(counts) != size[0] * size[1]:
        raise AnnotationError(f"{where}: its run lengths do not fill the image")
    return {"size": [*size], "counts": counts}


def _whole(row: Mapping[str, Any], name: str, where: str) -> int:
    value = row.get(name)
    if isinstance(value, str) and value.isdecimal() and len(value) <= len(str(_MOST_ID)):  # as some programs write ids
        return int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise AnnotationError(f"{where} has no whole number {name}")
    return value


def _id(row: Mapping[str, Any], name: str, where: str) -> int:
    value = _whole(row, name, where)
    if not 0 <= value <= _MOST_ID:
        raise AnnotationError(f"{where}.{name} must be from 0 to {_MOST_ID}")
    return value


def _numbers(values: list[Any], most: int) -> bool:
    """Whether all are numbers from -most to most, so none is infinite or no number."""
    return all(isinstance(one, (int, float)) and not isinstance(one, bool) and abs(one) <= most for one in values)
