"""Text -> classes -> captions within the detector's token budget -> the token span of each class."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import StageError
from pipeline.packing import pack
from pipeline.scalars import fraction
from pipeline.stages import TextClass

Prompt = str | Sequence[str | Mapping[str, Any]]
"""`"car, wheel"`, `["car", "wheel"]` or `[{"text": "car", "box_threshold": 0.4}, "wheel"]`."""

# What a refusal says of anything else.
ITEM_FORMS = "must be a string, or an object with text and, where wanted, box_threshold"
PROMPT_FORMS = "must be a string, or a list of strings and of objects with text and, where wanted, box_threshold"

MAX_CLASSES = 2_000
MAX_CHARACTERS = 200_000  # of one whole prompt: tokenising is linear, this bounds it to a fraction of a second
_SHOWN = 40  # characters of a label in an error
_MAX_WORD_CHARACTERS = 100  # BERT's own: a longer word is one [UNK]

_SEPARATORS = re.compile(r"[,.;\n\r]")
# GroundingDINO ends a class's attention block at each of [CLS] [SEP] . ?, so none may come from a caller's text.
_RESERVED = re.compile(r"[.?]|\[(?:CLS|SEP|PAD|UNK|MASK)\]", re.IGNORECASE)
_HALF_A_PAIR = re.compile("[\ud800-\udfff]")
# What BERT's normaliser throws away: control, format, private and unassigned characters, and combining accents.
_INVISIBLE = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Mn", "Zs", "Zl", "Zp"})


def normalise(text: str) -> str:
    """The text as it enters the caption: reserved signs and names become spaces, white space collapses, lower case.

    >>> normalise("  Traffic [SEP] Light. ")
    'traffic light'
    """
    return " ".join(_RESERVED.sub(" ", text).split()).lower()


def identity(normalised: str) -> str:
    """What two normalised texts share if they are one class: an accent composed or apart is one text, to people and to
    the model."""
    return unicodedata.normalize("NFC", normalised)


def parse_classes(
    prompt: Prompt,
    mode: Literal["classes", "phrase"] = "classes",
    param: str = "prompt",
    max_classes: int = MAX_CLASSES,
) -> tuple[TextClass, ...]:
    """Read a caller's prompt.

    Args:
        prompt: a string, split at `,` `.` `;` and newlines with empty pieces dropped; or a list, whose items are
            texts or mappings `{"text", "box_threshold"?}` and are never split.
        mode: in `phrase` a string is a list of one item, whatever separators it holds.
        param: the name of the field, for errors.
        max_classes: the largest number of items.

    Returns:
        Classes in the caller's order. Items whose normalised texts are equal are one class, with the lowest index
        and its threshold; so `class_id`s may have gaps.

    Raises:
        StageError: `invalid_value`, for an empty prompt or item, a wrong type, threshold or number. A fault of one
            class names it by its `class_id`: `prompt[3]`, `prompt[3].box_threshold`.
    """
    if mode not in ("classes", "phrase"):
        raise StageError("invalid_value", "must be 'classes' or 'phrase'", "mode")
    items: Sequence[object]
    if isinstance(prompt, str):
        items = [prompt] if mode == "phrase" else _SEPARATORS.split(_sound(prompt, param))
        items = [piece for piece in items if isinstance(piece, str) and piece.strip()]
    elif isinstance(prompt, Sequence) and not isinstance(prompt, (bytes, bytearray, memoryview)):
        items = prompt
    else:
        raise StageError("invalid_value", PROMPT_FORMS, param)
    if not items:
        raise StageError("invalid_value", "must name at least one class", param)
    if len(items) > max_classes:
        raise StageError("invalid_value", f"must name at most {max_classes} classes", param)

    classes: dict[str, TextClass] = {}
    characters = 0
    for class_id, item in enumerate(items):
        place = f"{param}[{class_id}]"
        text, threshold = _item(item, place)
        characters += len(text)
        if characters > MAX_CHARACTERS:
            raise StageError("invalid_value", f"must have at most {MAX_CHARACTERS} characters", param)
        normalised = normalise(_sound(text, place))
        if all(unicodedata.category(c) in _INVISIBLE for c in normalised):
            raise StageError("invalid_value", "has no text", place)
        classes.setdefault(identity(normalised), TextClass(class_id, text.strip(), normalised, threshold))
    return tuple(classes.values())


def _item(item: object, param: str) -> tuple[str, float | None]:
    """The text and the threshold of one list item, which is called `param`."""
    if isinstance(item, str):
        return item, None
    if not isinstance(item, Mapping) or not item.keys() <= {"text", "box_threshold"}:
        raise StageError("invalid_value", ITEM_FORMS, param)
    if not isinstance(item.get("text"), str):
        raise StageError("invalid_value", "must be a string", f"{param}.text")
    threshold = item.get("box_threshold")
    return item["text"], None if threshold is None else fraction(threshold, f"{param}.box_threshold")


def _sound(text: str, param: str) -> str:
    """The text, if it is short enough and real Unicode: half a surrogate pair has no UTF-8 form, thus no answer."""
    if len(text) > MAX_CHARACTERS:
        raise StageError("invalid_value", f"must have at most {MAX_CHARACTERS} characters", param)
    if _HALF_A_PAIR.search(text):
        raise StageError("invalid_value", "must be valid Unicode", param)
    return text


@dataclass(frozen=True, slots=True)
class Caption:
    """One text for the detector.

    Attributes:
        token_ids: `[CLS] car . wheel . [SEP]`, at most `max_tokens` of them.
        class_index: for each class in this caption, its index in the sequence given to `Tokenizer.captions`.
        spans: for each of those, the range `[start, end)` of its word pieces in `token_ids`, without the `.`.
    """

    token_ids: tuple[int, ...]
    class_index: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]


class Tokenizer:
    """The word pieces of bert-base-uncased, packed into captions. Thread-safe.

    Special tokens are added by id only: a text that spells `[SEP]` never becomes one.

    Args:
        vocab_path: a WordPiece vocabulary, one piece a line; the line number is the id.
        max_tokens: the length of the longest caption that the model takes.

    Raises:
        ValueError: the vocabulary lacks `[CLS]`, `[SEP]`, `[PAD]`, `[UNK]` or `.`, or `max_tokens` fits no class.
    """

    def __init__(self, vocab_path: Path, max_tokens: int) -> None:
        # Imported here: reading a prompt must work in the bare install, which has no tokenizers.
        from tokenizers import Tokenizer as WordPieces
        from tokenizers import models, normalizers, pre_tokenizers

        lines = vocab_path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        vocabulary = {piece: index for index, piece in enumerate(lines)}
        needed = ("[CLS]", "[SEP]", "[PAD]", "[UNK]", ".")
        missing = [piece for piece in needed if piece not in vocabulary]
        if missing:
            raise ValueError(f"the vocabulary {vocab_path.name} lacks {' '.join(missing)}")
        if max_tokens < 4:
            raise ValueError("max_tokens must be at least 4: [CLS], one word piece, '.', [SEP]")
        self.max_tokens = max_tokens
        self.cls_id, self.sep_id, self.pad_id, self.unk_id, self.dot_id = (vocabulary[piece] for piece in needed)
        self._pieces = WordPieces(
            models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=_MAX_WORD_CHARACTERS)
        )
        self._pieces.normalizer = normalizers.BertNormalizer(lowercase=True)
        self._pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()

    def encode(self, text: str) -> list[int]:
        """The word pieces of one class's normalised text, without special tokens."""
        return list(self._pieces.encode(text, add_special_tokens=False).ids)

    def captions(self, classes: Sequence[TextClass], param: str = "prompt") -> list[Caption]:
        """Pack classes into few captions: in their order where that needs no more, see `pipeline.packing.pack`.

        Raises:
            StageError: `invalid_value`, where one class alone exceeds the budget or has no word piece: `prompt[3]`.
        """
        pieces = [self.encode(item.text) for item in classes]
        for item, ids in zip(classes, pieces, strict=True):
            if ids and len(ids) + 3 <= self.max_tokens:  # [CLS] pieces . [SEP]
                continue
            fault = f"exceeds the model's {self.max_tokens} tokens" if ids else "has no text that the model can read"
            label = item.label if len(item.label) <= _SHOWN else item.label[: _SHOWN - 1] + "…"
            raise StageError("invalid_value", f"{label!r} {fault}", f"{param}[{item.class_id}]")
        bins = pack([len(ids) + 1 for ids in pieces], self.max_tokens - 2)
        return [self._caption(members, pieces) for members in bins]

    def _caption(self, members: Sequence[int], pieces: Sequence[Sequence[int]]) -> Caption:
        ids = [self.cls_id]
        spans = []
        for index in members:
            spans.append((len(ids), len(ids) + len(pieces[index])))
            ids += [*pieces[index], self.dot_id]
        return Caption((*ids, self.sep_id), tuple(members), tuple(spans))

    def unknown(self, classes: Sequence[TextClass]) -> tuple[TextClass, ...]:
        """The classes of which the vocabulary knows no word piece: the model cannot tell them apart."""
        return tuple(item for item in classes if set(self.encode(item.text)) <= {self.unk_id})
