"""Callers' texts on the real word pieces. The judges: transformers' tokenizer, GroundingDINO's own span code."""

from __future__ import annotations

import unicodedata
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import StageError
from pipeline.prompt import Caption, Tokenizer, normalise, parse_classes
from pipeline.stages import TextClass

VOCABULARY = Path(__file__).parents[2] / "pipeline" / "models" / "bert-base-uncased-vocab.txt"
BUDGET = 256

repeatable = settings(derandomize=True, deadline=None, max_examples=100)

NAMES = [
    "car",
    "car wheel",  # a class inside another, at its start and at its end
    "wheel",
    "the wheel of a car",
    "Red Double-Decker Bus",
    "t-shirt",
    "man's hat",
    "o'neill",
    "rock 'n' roll",
    "3D printer",
    "boeing 747",
    "2x4",
    "#1",
    "café",
    "cafe\u0301s",
    "naïve Ünïcödé",
    "İSTANBUL tramı",
    "Straße",
    "STRASSE",
    "ΟΔΟΣ",
    "猫",
    "赤い車",
    "한국어",
    "🚗 car",
    "woman 👩🏽\u200d🔬",
    "hippopotamus antidisestablishmentarianism",
    "a",
    "##ing",
    "[MASKED]",
    "person (left)",
    "R&D lab",
    "e = mc²",
    "10% off!",
]
names = st.lists(st.sampled_from(NAMES), min_size=1, max_size=12, unique_by=normalise)
anything = st.lists(st.text(min_size=1, max_size=12) | st.sampled_from(NAMES), min_size=1, max_size=12)
reserved = st.sampled_from([".", "?", "...", "[SEP]", "[sep]", "[Cls]", "[PAD]", "[unk]", "[Mask]", "[\u017fEP]"])


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(VOCABULARY, BUDGET)


@pytest.fixture(scope="module")
def judge() -> Any:
    return import_module("transformers").BertTokenizerFast(vocab=str(VOCABULARY), do_lower_case=True)


# ---- from a caller's prompt to classes


@repeatable
@given(data=st.data(), items=st.lists(st.sampled_from(NAMES), min_size=1, max_size=8))
def test_every_separator_splits_and_empty_pieces_do_not_count(data: st.DataObject, items: list[str]) -> None:
    blank = st.text(" \t\u00a0", max_size=2)
    gap = st.lists(st.tuples(blank, st.sampled_from(list(",.;\n\r")), blank).map("".join), min_size=1, max_size=4)
    prompt = "".join(data.draw(gap.map("".join)) + item for item in items) + data.draw(gap.map("".join))
    assert parse_classes(prompt) == parse_classes(items)
    assert [one.label for one in parse_classes(items)] == [items[one.class_id] for one in parse_classes(items)]


@repeatable
@given(data=st.data(), bases=st.lists(st.sampled_from(NAMES), min_size=1, max_size=5, unique_by=normalise))
def test_a_repeated_class_is_the_first_with_its_threshold(data: st.DataObject, bases: list[str]) -> None:
    """Every item is a base in disguise: which one is known by construction."""
    fill = st.lists(st.sampled_from([" ", "\t", ".", "?", "[SEP]", "[pad]"]), max_size=3).map("".join)
    threshold = st.none() | st.floats(0, 1)
    chosen = data.draw(st.lists(st.sampled_from(bases), min_size=1, max_size=10))
    items: list[dict[str, Any]] = []
    for base in chosen:
        form = data.draw(st.sampled_from([base, base.title(), unicodedata.normalize("NFD", base)]))
        text = data.draw(fill) + " " + form + " " + data.draw(fill)
        items.append({"text": text, "box_threshold": data.draw(threshold)})
    first = {base: chosen.index(base) for base in chosen}
    found = parse_classes(items)
    assert [one.class_id for one in found] == sorted(first.values())
    for one in found:
        assert one.label == items[one.class_id]["text"].strip()
        assert one.box_threshold == items[one.class_id]["box_threshold"]


def test_composed_and_decomposed_letters_are_one_class() -> None:
    (only,) = parse_classes(["caf\u00e9", "cafe\u0301", "CAFE\u0301."])
    assert (only.class_id, only.label) == (0, "caf\u00e9")
    assert [one.class_id for one in parse_classes(["\u212bngstr\u00f6m", "\u00e5ngstro\u0308m", "cafe"])] == [0, 2]


# ---- from classes to captions


@repeatable
@given(data=st.data(), parts=st.lists(st.sampled_from(NAMES), min_size=1, max_size=4))
def test_reserved_names_and_signs_are_spaces(
    tokenizer: Tokenizer, judge: Any, data: st.DataObject, parts: list[str]
) -> None:
    marks = [data.draw(st.lists(reserved, min_size=1, max_size=2).map("".join)) for _ in range(len(parts) + 1)]
    text = marks[0] + "".join(part + mark for part, mark in zip(parts, marks[1:], strict=True))
    expected = judge(" ".join(parts).lower(), add_special_tokens=False)["input_ids"]
    assert tokenizer.encode(normalise(text)) == expected


def spans_in(judge: Any, texts: list[str]) -> tuple[list[int], list[tuple[int, int]]]:
    """The ids of `"car . wheel ."` and the tokens of each class, found by where they stand in that string."""
    caption = "".join(f"{text} . " for text in texts).strip()
    tokens = judge(caption, return_offsets_mapping=True)
    spans, at = [], 0
    for text in texts:
        end = at + len(text)
        mine = [i for i, (a, b) in enumerate(tokens["offset_mapping"]) if at <= a < b <= end]
        assert mine == list(range(mine[0], mine[-1] + 1))
        spans.append((mine[0], mine[-1] + 1))
        at = end + 3
    return tokens["input_ids"], spans


def check(judge: Any, classes: tuple[TextClass, ...], captions: list[Caption], budget: int) -> None:
    """Each class stands in one caption; each caption, its spans too, is what the judge makes of its text."""
    assert sorted(i for caption in captions for i in caption.class_index) == list(range(len(classes)))
    for caption in captions:
        assert len(caption.token_ids) <= budget
        ids, spans = spans_in(judge, [classes[i].text for i in caption.class_index])
        assert list(caption.token_ids) == ids
        assert list(caption.spans) == spans


@repeatable
@given(items=anything, budget=st.integers(64, 90))
def test_captions_are_those_of_the_official_tokenizer(judge: Any, items: list[str], budget: int) -> None:
    try:
        classes = parse_classes(items)
    except StageError:
        return
    check(judge, classes, Tokenizer(VOCABULARY, budget).captions(classes), budget)


@repeatable
@given(
    items=names.filter(lambda items: "한국어" not in items)
)  # of a syllable, the official code takes the first piece
def test_spans_are_those_of_the_official_evaluation(tokenizer: Tokenizer, judge: Any, items: list[str]) -> None:
    official = import_module("groundingdino.util.vl_utils")
    classes = parse_classes([item for item in items if normalise(item)])
    (caption,) = tokenizer.captions(classes)
    text, spans = official.build_captions_and_token_span([one.text for one in classes], True)
    positive = official.create_positive_map_from_span(judge(text), [spans[one.text] for one in classes])
    for row, (start, end) in zip(positive, caption.spans, strict=True):
        assert row.nonzero().flatten().tolist() == list(range(start, end))


def test_many_words(tokenizer: Tokenizer, judge: Any) -> None:
    classes = parse_classes([" ".join(["the", name] * 12) for name in NAMES[:6]] + ["car"] + NAMES[1:])
    captions = tokenizer.captions(classes)
    assert len(captions) > 1
    check(judge, classes, captions, BUDGET)


@pytest.mark.parametrize("text", ["🦄", "🦄 🦄", "x" * 101, "☃\ufe0f"])
def test_classes_of_unknown_pieces(tokenizer: Tokenizer, judge: Any, text: str) -> None:
    known = parse_classes([text + " car", "unicorn"])
    assert set(judge(text, add_special_tokens=False)["input_ids"]) == {judge.unk_token_id}
    assert tokenizer.unknown((*known, *parse_classes([text]))) == parse_classes([text])
