"""Results as COCO: a dataset to annotate or train with, and a list of detections to evaluate.

Boxes are `[x, y, width, height]` in pixels, the detector's. Masks are compressed run lengths with `counts` as ASCII, so
that the whole is JSON. Numbers of categories, images and annotations start at 1: COCO's evaluation takes 0 for "none".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pipeline.formats.answer import number

if TYPE_CHECKING:
    from pipeline.result import Result


def to_coco(result: Result, file_name: str, image_id: int, classes: Sequence[str] | None) -> dict[str, Any]:
    """A dataset of one image. Without `classes`, the categories are those found, numbered by `class_id + 1`.

    Raises:
        ValueError: a label is not among `classes`.
    """
    if classes is None:
        found = zip(result.labels, result.class_ids.tolist(), strict=True)
        categories = dict(sorted(((label, class_id + 1) for label, class_id in found), key=lambda item: item[1]))
    else:
        categories = _categories(classes)
    return _dataset([(image_id, file_name, result)], categories)


def coco_dataset(items: Iterable[tuple[str, Result]], classes: Sequence[str]) -> dict[str, Any]:
    """A dataset of many images: `info`, `licenses`, `images`, `annotations`, `categories`.

    Each annotation carries `score` besides COCO's own fields. Where no masks were asked for, `segmentation` is empty
    and `area` is the box's.

    Args:
        items: file name and result of each image.
        classes: all labels; the category of the first is 1. Results are matched by their labels, so they may come from
            different prompts.

    Raises:
        ValueError: a label is not among `classes`.
    """
    numbered = ((number, *item) for number, item in enumerate(items, 1))
    return _dataset(numbered, _categories(classes))


def coco_results(
    items: Iterable[tuple[int, Result]], classes: Sequence[str], kind: Literal["segm", "bbox"] = "segm"
) -> list[dict[str, Any]]:
    """Detections as `pycocotools.coco.COCO.loadRes` takes them. (It refuses an empty list.)

    Args:
        items: the image's number in the dataset, and the result.
        classes: as in `coco_dataset`.
        kind: masks or boxes. One of them only: given both, pycocotools takes the box's area for the mask's.

    Raises:
        ValueError: a label is not among `classes`, or a result has no masks to give.
    """
    if kind not in ("segm", "bbox"):
        raise ValueError(f"{kind!r} is no kind of COCO results; take 'segm' or 'bbox'")
    categories = _categories(classes)
    found = []
    for image_id, result in items:
        if kind == "segm" and len(result) and result.rles is None:
            raise ValueError("this result has no masks: none were asked for")
        for annotation in coco_annotations(result, categories):
            kept = {"category_id": annotation["category_id"], "score": annotation["score"]}
            field = "segmentation" if kind == "segm" else "bbox"
            found.append({"image_id": image_id, **kept, field: annotation[field]})
    return found


def _dataset(items: Iterable[tuple[int, str, Result]], categories: Mapping[str, int]) -> dict[str, Any]:
    images: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    models: dict[str, None] = {}
    for image_id, file_name, result in items:
        height, width = result.image_size
        models[result.model] = None
        images.append({"id": image_id, "file_name": file_name, "width": width, "height": height})
        for annotation in coco_annotations(result, categories):
            found.append({"id": len(found) + 1, "image_id": image_id, **annotation})
    return {
        "info": {"description": f"made with text2mask: {', '.join(models)}" if models else "made with text2mask"},
        "licenses": [],
        "images": images,
        "annotations": found,
        "categories": [{"id": number, "name": name, "supercategory": ""} for name, number in categories.items()],
    }


def coco_annotations(result: Result, categories: Mapping[str, int]) -> Iterable[dict[str, Any]]:
    """COCO's annotations of one result, without their own numbers and the image's.

    Args:
        categories: the number of each label.

    Raises:
        ValueError: a label is not among them.
    """
    for index, label in enumerate(result.labels):
        if label not in categories:
            raise ValueError(f"the label {label!r} is not among the classes")
        x0, y0, x1, y1 = (number(side) for side in result.boxes[index])
        box = [x0, y0, x1 - x0, y1 - y0]
        rle = None if result.rles is None else result.rles[index]
        yield {
            "category_id": categories[label],
            "bbox": box,
            "area": box[2] * box[3] if result.areas is None else int(result.areas[index]),
            "iscrowd": 0,
            "segmentation": [] if rle is None else {"size": list(rle.size), "counts": rle.counts},
            "score": number(result.scores[index]),
        }


def _categories(classes: Sequence[str]) -> dict[str, int]:
    categories: dict[str, int] = {}
    for index, name in enumerate(classes):
        categories.setdefault(name, index + 1)
    return categories
