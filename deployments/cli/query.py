"""What to look for and what to keep: the options for it, and the query that they make.

The same for every command that asks for instances; each option is a field of `POST /v1/segment`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from deployments.cli.complaints import UsageError
from pipeline.errors import StageError
from pipeline.prompt import Prompt, parse_classes
from pipeline.query import read_query
from pipeline.tiling import parse_tile

WORDS, KEPT, LARGE = "What to look for", "What to keep", "Large pictures"
SHARE = "N"

PromptFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        rich_help_panel=WORDS,
        help="Long lists of classes: one a line, commas and all; then every argument is a picture. A file that ends "
        'in .json holds the list as the HTTP API takes it, such as \\[{"text": "car", "box_threshold": 0.4}].',
    ),
]
Mode = Annotated[
    Literal["classes", "phrase"],
    typer.Option(
        rich_help_panel=WORDS, help="phrase: the prompt is one expression, as in 'the dog, left of the tree'."
    ),
]
NegativePrompt = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        rich_help_panel=WORDS,
        help="What the classes are confused with: 'picture of a dog' removes the weaker dogs that it overlaps.",
    ),
]
BoxThreshold = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        metavar=SHARE,
        rich_help_panel=KEPT,
        help="Least score. Higher finds less, and surer. Unset: the model's own. docs/thresholds.md chooses one.",
    ),
]
TextThreshold = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        metavar=SHARE,
        rich_help_panel=KEPT,
        help="Least text score. Raise it where 'red star' finds stars of any colour. Unset: the model's own.",
    ),
]
NegativeIou = Annotated[
    float,
    typer.Option(
        min=0, max=1, metavar=SHARE, rich_help_panel=KEPT, help="From which overlap on a negative removes a box."
    ),
]
Nms = Annotated[
    Literal["class", "agnostic", "off"],
    typer.Option(rich_help_panel=KEPT, help="Two boxes on one thing, one goes: if of one class, of any, or never."),
]
NmsThreshold = Annotated[
    float,
    typer.Option(
        min=0,
        max=1,
        metavar=SHARE,
        rich_help_panel=KEPT,
        help="Overlap above which it goes. Raise it for things in rows.",
    ),
]
MinArea = Annotated[
    float,
    typer.Option(min=0, max=1, metavar=SHARE, rich_help_panel=KEPT, help="Least share of the picture: drops specks."),
]
MaxArea = Annotated[
    float,
    typer.Option(
        min=0,
        max=1,
        metavar=SHARE,
        rich_help_panel=KEPT,
        help="Largest share: 0.9 drops boxes around the whole picture.",
    ),
]
MaxDetections = Annotated[
    int,
    typer.Option(
        min=1, metavar="N", rich_help_panel=KEPT, help="The best so many of a picture. Raise it for crowds and tiles."
    ),
]
Multimask = Annotated[
    bool,
    typer.Option("--multimask", rich_help_panel=KEPT, help="The best of SAM's three masks: where its one is a part."),
]
Raw = Annotated[
    bool,
    typer.Option(
        "--raw",
        rich_help_panel=KEPT,
        help="As in published evaluations: the best --max-detections, without thresholds and NMS.",
    ),
]
Tile = Annotated[
    str | None,
    typer.Option(
        metavar="auto|SIZE|SIZE:OVERLAP",
        rich_help_panel=LARGE,
        help="Look piece by piece, so that small things are seen. SIZE in pixels: several times the largest thing; "
        "OVERLAP: as large as most things, two fifths of SIZE unless given. docs/tiling.md.",
    ),
]


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked of every picture.

    Attributes:
        prompt: as `TextToMask.predict` and the HTTP API take it.
        fields: all else that both take, by the same names; thresholds are left out where they are the model's own.
        labels: of the classes, in order: COCO's categories.
    """

    prompt: Prompt
    fields: dict[str, Any]
    labels: tuple[str, ...]


def read(prompt: Prompt, *, tile: str | None, **fields: Any) -> Query:
    """The query that options make. Raises UsageError where the models would refuse it whatever the picture."""
    fields = {name: value for name, value in fields.items() if value is not None}
    multimask = fields.pop("multimask")
    try:
        if tile is not None:
            size = _tile(tile)
            parse_tile(size)
        request, _ = read_query(prompt, **fields)
    except StageError as error:
        option = None if error.param is None else f"--{error.param.partition('.')[0].replace('_', '-')}"
        where = "the prompt: " if error.param is None or error.param.startswith("prompt") else f"{option}: "
        raise UsageError(f"{where}{error.message}") from None
    if tile is not None:
        if fields["raw"]:
            raise UsageError("--tile and --raw exclude each other: raw mode is of whole pictures")
        fields["tile"] = size
    return Query(prompt, {**fields, "multimask": multimask}, tuple(one.label for one in request.classes))


def read_prompt_file(path: Path) -> Prompt:
    """The list of classes in a file. Raises UsageError where there is none."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(f"--prompt-file {path} cannot be read: {why}") from None
    if path.suffix.lower() != ".json":
        return [line for line in text.splitlines() if line.strip()]
    try:
        prompt: Prompt = json.loads(text)
        parse_classes(prompt)
    except (ValueError, RecursionError):
        raise UsageError(f"--prompt-file {path} is not JSON") from None
    except StageError as error:
        raise UsageError(f"--prompt-file {path}: {error}") from None
    return prompt


def _tile(text: str) -> Any:
    if text == "auto":
        return text
    size, colon, overlap = text.partition(":")
    if not size.isdecimal() or (colon and not overlap.isdecimal()):
        raise UsageError(f"--tile {text!r} must be auto, SIZE or SIZE:OVERLAP in pixels, such as 640:256")
    return {"size": int(size), "overlap": int(overlap) if colon else int(size) * 2 // 5}
