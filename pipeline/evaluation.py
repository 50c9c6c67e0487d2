"""How right answers are: COCO's and LVIS's average precision of results, by boxes and by masks.

The counting is faster-coco-eval's, which gives pycocotools' numbers; here is what goes in and what comes out. Three
styles:

- `coco`: every category is looked for in every image; the best 100 detections of each image and category count.
- `lvis`: federated. An image knows which categories are surely not in it (`neg_category_ids`) and which are there
  without all being marked (`not_exhaustive_category_ids`). Detections of any other category, unless it is annotated in
  the image, are dropped; of a category that is not exhaustive, surplus ones are ignored. The best 300 detections of an
  image count, over all its categories.
- `lvis-fixed`: "fixed AP" (Dave et al., 2021), which papers on open vocabularies give: federated too, but no limit for
  an image; the best 10,000 of each category in the whole set count. The limit of 300 makes categories compete for
  places, so that a worse ranking between categories can raise AP; the fixed figures are higher.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.annotations import Row, Style, Truth
from pipeline.formats.answer import number
from pipeline.prompt import identity, normalise

if TYPE_CHECKING:
    from pipeline.result import Result

Kind = Literal["bbox", "segm"]
MOST_OF_IMAGE, MOST_OF_CATEGORY = 300, 10_000  # of LVIS, and of its fixed AP

_AT_A_TIME = 50_000  # detections that the judge gets, in whole categories
_SIZES = ("small", "medium", "large")  # below 32² pixels of mask, below 96², above
_FREQUENCIES = {"r": "APr", "c": "APc", "f": "APf"}


class Found:
    """Detections of many images, as COCO counts them: 56 bytes each, and for a mask 41 and its run lengths.

    Args:
        truth: of whose categories the results are; a result's `class_id` is the index in `truth.prompt(…)`.
        style: as for `truth.prompt`.
    """

    def __init__(self, truth: Truth, style: Style = "coco") -> None:
        self._sizes = {image["id"]: [image["height"], image["width"]] for image in truth.images}
        texts = [identity(normalise(text)) for text in truth.prompt(style)]
        # Two categories of one text are one class to the detector; what it finds counts for both, as it would if they
        # were asked for apart.
        self._categories = [
            [one["id"] for one, other in zip(truth.categories, texts, strict=True) if other == text] for text in texts
        ]
        self._images, self._ids = array("q"), array("q")
        self._scores, self._boxes = array("d"), array("d")
        self._counts: list[bytes] = []
        self._style = style

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, image_id: int, result: Result) -> range:
        """One image's detections, best first as in every result; the numbers of their rows."""
        begin = len(self)
        for index, class_id in enumerate(result.class_ids.tolist()):
            x0, y0, x1, y1 = (number(side) for side in result.boxes[index])
            for category in self._categories[class_id]:
                if self._style == "lvis" and len(self) - begin == MOST_OF_IMAGE:
                    break
                self._images.append(image_id)
                self._ids.append(category)
                self._scores.append(number(result.scores[index]))
                self._boxes.extend((x0, y0, x1 - x0, y1 - y0))
                if result.rles is not None:
                    self._counts.append(result.rles[index].counts.encode("ascii"))
        return range(begin, len(self))

    def rows(self, kind: Kind, wanted: Sequence[int] | None = None) -> Iterator[Row]:
        """COCO's results, of boxes or of masks, not both: given both, pycocotools takes the box's area for the mask's.

        Args:
            wanted: the numbers of the rows; all where None.
        """
        for at in range(len(self)) if wanted is None else wanted:
            image = self._images[at]
            row: Row = {"image_id": image, "category_id": self._ids[at], "score": self._scores[at]}
            if kind == "bbox":
                yield row | {"bbox": self._boxes[4 * at : 4 * at + 4].tolist()}
            else:
                yield row | {"segmentation": {"size": self._sizes[image], "counts": self._counts[at].decode()}}

    def of_each_category(self) -> Counter[int]:
        """How many detections each category has."""
        return Counter(self._ids)

    def of_categories(self, ids: Iterable[int], most: int | None = None) -> list[int]:
        """The numbers of these categories' rows, rising; of each only its best `most` in the whole set, if given."""
        own = np.frombuffer(self._ids, np.int64)
        picked = []
        for category in ids:
            rows = np.flatnonzero(own == category)
            scores = np.frombuffer(self._scores)[rows]
            picked.append(rows if most is None else rows[np.argsort(-scores, kind="stable")[:most]])
        wanted: list[int] = np.sort(np.concatenate(picked)).tolist()
        return wanted


@dataclass(frozen=True, slots=True)
class Figures:
    """Average precision and recall, 0 to 1; None where there is nothing to find.

    Attributes:
        overall: `AP` (the mean over IoU 0.50 to 0.95), `AP50`, `AP75`, `AP_small` and so on; `AR` by the number of
            detections that count (`AR1`, `AR10`, `AR100`, or `AR300` of LVIS) and by size; of LVIS `APr`, `APc`, `APf`
            besides, of rare, common and frequent categories. COCO's are its 12 numbers, in its order.
        classes: of each category, by id: `AP`, `AP50`, `AP75`.
    """

    overall: dict[str, float | None]
    classes: dict[int, dict[str, float | None]]


def evaluate(truth: Truth, found: Found, kind: Kind, style: Style = "coco") -> Figures:
    """Figures of all detections against the truth. Needs faster-coco-eval, of the extra `jobs`.

    An image without detections is one in which nothing was found.
    """
    limits = {"coco": [1, 10, 100], "lvis": [MOST_OF_IMAGE], "lvis-fixed": [max(1, len(found))]}[style]
    groups = [_group(truth, found, categories, kind, style, limits) for categories in _groups(truth, found)]
    precision = np.concatenate([one for one, _ in groups], 2)
    recall = np.concatenate([one for _, one in groups], 1)
    frequencies = [one.get("frequency") for one in truth.categories]
    return Figures(
        _overall(precision, recall, [None] if style == "lvis-fixed" else limits, frequencies),
        {one["id"]: _precisions(precision[:, :, at, 0, -1]) for at, one in enumerate(truth.categories)},
    )


def _groups(truth: Truth, found: Found) -> Iterator[list[Row]]:
    """The categories, in order, as many at a time as have few detections: the judge takes 2 to 4 KB for each, and no
    category's figures depend on another's."""
    counts = found.of_each_category()
    group: list[Row] = []
    total = 0
    for category in truth.categories:
        total += counts[category["id"]]
        if group and total > _AT_A_TIME:
            yield group
            group, total = [], counts[category["id"]]
        group.append(category)
    yield group


def _group(
    truth: Truth, found: Found, categories: list[Row], kind: Kind, style: Style, limits: list[int]
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Precision and recall of some categories, as `_overall` takes them."""
    from faster_coco_eval import COCO, COCOeval_faster

    ids = {one["id"] for one in categories}
    wanted = found.of_categories(ids, MOST_OF_CATEGORY if style == "lvis-fixed" else None)
    # Boxes get an empty mask, in place of the polygon that loadRes would make of each.
    rows = [row | {"segmentation": ()} if kind == "bbox" else row for row in found.rows(kind, wanted)]
    annotations = [dict(one) for one in truth.annotations if one["category_id"] in ids]
    marked = COCO({"images": [*truth.images], "annotations": annotations, "categories": categories})
    judge = COCOeval_faster(marked, marked.loadRes(rows), kind, lvis_style=style != "coco")
    judge.params.maxDets = limits
    judge.evaluate()
    judge.accumulate()
    return judge.eval["precision"], judge.eval["recall"]


def _overall(
    precision: npt.NDArray[Any], recall: npt.NDArray[Any], limits: Sequence[int | None], frequencies: list[str | None]
) -> dict[str, float | None]:
    """`precision`: threshold x recall x category x size x limit; `recall`: the same without recall; -1: no truth."""
    overall = _precisions(precision[:, :, :, 0, -1])
    overall |= {f"AP_{size}": _mean(precision[:, :, :, at, -1]) for at, size in enumerate(_SIZES, 1)}
    overall |= {f"AR{limit or ''}": _mean(recall[:, :, 0, at]) for at, limit in enumerate(limits)}
    overall |= {f"AR_{size}": _mean(recall[:, :, at, -1]) for at, size in enumerate(_SIZES, 1)}
    members: dict[str, list[int]] = defaultdict(list)
    for at, frequency in enumerate(frequencies):
        if frequency is not None:
            members[frequency].append(at)
    for frequency, name in _FREQUENCIES.items() if members else ():
        overall[name] = _mean(precision[:, :, members[frequency], 0, -1])
    return overall


def _precisions(precision: npt.NDArray[Any]) -> dict[str, float | None]:
    return {"AP": _mean(precision), "AP50": _mean(precision[0]), "AP75": _mean(precision[5])}


def _mean(values: npt.NDArray[Any]) -> float | None:
    """Over those that are there."""
    there = values[values > -1]
    return float(there.mean()) if len(there) else None
