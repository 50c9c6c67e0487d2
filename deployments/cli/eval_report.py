"""What an evaluation came to: the protocol in words, tables for people, JSON for programs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from deployments.cli.complaints import console, printable
from pipeline.annotations import Style, Truth
from pipeline.evaluation import MOST_OF_CATEGORY, MOST_OF_IMAGE, Figures, Kind

KINDS: dict[Kind, str] = {"bbox": "box", "segm": "mask"}
_STYLES: dict[Style, str] = {
    "coco": "COCO: the best 100 detections of an image and class count",
    "lvis": f"LVIS, federated: the best {MOST_OF_IMAGE} detections of an image count",
    "lvis-fixed": f"LVIS, federated, fixed AP: the best {MOST_OF_CATEGORY:,} detections of a class count",
}


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that a run came to.

    Attributes:
        model: that answered.
        where: it ran.
        asked: how images were asked about, in words.
        options: of the command, as they count.
        failed: images without an answer, by the code of the reason.
        found: detections of each category.
    """

    truth: Truth
    style: Style
    model: str
    where: str
    asked: str
    options: Mapping[str, Any]
    failed: Mapping[str, int]
    found: Mapping[int, int]
    figures: Mapping[Kind, Figures]

    def protocol(self) -> list[str]:
        """Sentences; a figure means nothing without them."""
        truth = self.truth
        lines = [
            f"{self.model}, {self.where}; {len(truth.images):,} images, {len(truth.annotations):,} annotations, "
            f"{len(truth.categories):,} classes, all asked for of every image",
            self.asked,
            f"{_STYLES[self.style]}. AP: the mean over IoU 0.50 to 0.95 and over classes that are there; sizes: of the "
            "annotated area, below 32² pixels, below 96², above",
        ]
        if self.failed:
            reasons = ", ".join(f"{count} {code}" for code, count in sorted(self.failed.items()))
            lines.append(
                f"{sum(self.failed.values()):,} images have no answer ({reasons}). They count as images in which "
                "nothing was found, which lowers every figure"
            )
        if "segm" not in self.figures and truth.unmasked:
            lines.append(f"boxes alone: {truth.unmasked:,} annotations have no segmentation")
        return lines

    def show(self) -> None:
        """The tables on standard output, times 100 as papers have it."""
        for line in self.protocol():
            console.print(f"{printable(line)}.", highlight=False, markup=False)
        names = [*next(iter(self.figures.values())).overall]
        for part in (names[:6], names[6:]):
            table = _table("", (name.replace("_", " ") for name in part))
            for kind, figures in self.figures.items():
                table.add_row(KINDS[kind], *(_points(figures.overall[name]) for name in part))
            console.print(table)
        shown = [(kind, name) for kind in self.figures for name in ("AP", "AP50")]
        table = _table("class", ["annotated", "found", *(f"{KINDS[kind]} {name}" for kind, name in shown)])
        for row in self._classes():
            values = (_points(row[KINDS[kind]][name]) for kind, name in shown)
            table.add_row(printable(row["name"]), str(row["annotated"]), str(row["found"]), *values)
        console.print(table)

    def to_json(self) -> dict[str, Any]:
        """All figures, 0 to 1, null where there is nothing to find."""
        return {
            "protocol": self.protocol(),
            "model": self.model,
            **self.options,
            "images": len(self.truth.images),
            "failed": dict(self.failed),
            **{KINDS[kind]: figures.overall for kind, figures in self.figures.items()},
            "classes": self._classes(),
        }

    def _classes(self) -> list[dict[str, Any]]:
        annotated: dict[int, int] = {}
        for one in self.truth.annotations:
            annotated[one["category_id"]] = annotated.get(one["category_id"], 0) + 1
        return [
            {
                "id": one["id"],
                "name": one["name"],
                "annotated": annotated.get(one["id"], 0),
                "found": self.found.get(one["id"], 0),
                **{KINDS[kind]: figures.classes[one["id"]] for kind, figures in self.figures.items()},
            }
            for one in self.truth.categories
        ]


def _table(first: str, columns: Iterable[str]) -> Table:
    table = Table(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _points(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
