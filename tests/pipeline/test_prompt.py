from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import StageError
from pipeline.prompt import MAX_CHARACTERS, Prompt, Tokenizer, normalise, parse_classes
from pipeline.stages import TextClass

VOCABULARY = Path(__file__).parents[2] / "pipeline" / "models" / "bert-base-uncased-vocab.txt"

repeatable = settings(derandomize=True, deadline=None, max_examples=200)

words = st.sampled_from(
    [
        "car",
        "Car",
        "wheel",
        "car wheel",
        "t-shirt",
        "man's hat",
        "café",
        "cafe\u0301",
        "猫",
        "naïve 3D",
        "Ünïcödé",
        "x2",
        "🚗",
    ]
)
noise = st.sampled_from(
    [" ", ".", "?", ",", ";", "\n", "\t", "[SEP]", "[cls]", "[Mask]", "[pad]", "[UNK]", "-", "#", "##ing"]
)
texts = st.one_of(st.text(max_size=40), st.lists(st.one_of(words, noise), max_size=10).map("".join))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(VOCABULARY, max_tokens=256)


def classes_of(*labels: str) -> tuple[TextClass, ...]:
    return parse_classes(list(labels))


# ---- normalise


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("car", "car"),
        ("  Red \t Car\n", "red car"),
        ("car.", "car"),
        ("st. bernard?", "st bernard"),
        ("[SEP]car[sep]wheel[Pad]", "car wheel"),
        ("[CLS] [UNK] [MASK]", ""),
        ("[c[CLS]ls]", "[c ls]"),  # what a removal leaves behind is no name again
        ("[MAS\u212a]", ""),  # the Kelvin sign is a k in lower case
        ("car, wheel; door", "car, wheel; door"),  # separators are the parser's business
        ("T-Shirt o'neill #1", "t-shirt o'neill #1"),
        ("\u00a0car\u3000wheel\u2028", "car wheel"),
    ],
)
def test_normalise(text: str, expected: str) -> None:
    assert normalise(text) == expected


@repeatable
@given(texts)
def test_normalise_is_idempotent_and_leaves_nothing_reserved(text: str) -> None:
    result = normalise(text)
    assert normalise(result) == result
    assert result == result.strip()
    assert "  " not in result
    assert not set(".?\n\t") & set(result)
    assert not re.search(r"\[(cls|sep|pad|unk|mask)\]", result)


# ---- parse_classes


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("car", [(0, "car", "car")]),
        ("car, wheel", [(0, "car", "car"), (1, "wheel", "wheel")]),
        ("car. wheel.", [(0, "car", "car"), (1, "wheel", "wheel")]),
        ("car;wheel\nroad\r\nsky", [(0, "car", "car"), (1, "wheel", "wheel"), (2, "road", "road"), (3, "sky", "sky")]),
        (",, car ,;. , Wheel ,", [(0, "car", "car"), (1, "Wheel", "wheel")]),  # dropped before counting
        ("Car, wheel, CAR, sky", [(0, "Car", "car"), (1, "wheel", "wheel"), (3, "sky", "sky")]),
        ("car wheel, car", [(0, "car wheel", "car wheel"), (1, "car", "car")]),  # a class inside another
        (["car, wheel", "sky"], [(0, "car, wheel", "car, wheel"), (1, "sky", "sky")]),  # items are not split
        (["St. Bernard", " st bernard "], [(0, "St. Bernard", "st bernard")]),
        (("[SEP] Dog?",), [(0, "[SEP] Dog?", "dog")]),
        ([{"text": "car"}, "sky"], [(0, "car", "car"), (1, "sky", "sky")]),
    ],
)
def test_parse_classes(prompt: Prompt, expected: list[tuple[int, str, str]]) -> None:
    assert [(c.class_id, c.label, c.text) for c in parse_classes(prompt)] == expected


def test_phrase_is_one_item_whatever_it_holds() -> None:
    (only,) = parse_classes("the man, left of\nthe car. Seated; alone", mode="phrase")
    assert only == TextClass(0, "the man, left of\nthe car. Seated; alone", "the man, left of the car seated; alone")
    assert parse_classes(["a, b", "c"], mode="phrase") == parse_classes(["a, b", "c"])


def test_a_duplicate_keeps_the_lowest_index_and_its_threshold() -> None:
    prompt: Prompt = [{"text": "Car", "box_threshold": 0.4}, "sky", {"text": "car.", "box_threshold": 0.9}, "SKY"]
    assert parse_classes(prompt) == (TextClass(0, "Car", "car", 0.4), TextClass(1, "sky", "sky", None))


@pytest.mark.parametrize("threshold", [0, 1, 0.0, 0.35, None, np.float32(0.3), np.float64(0.3), np.int64(1)])
def test_threshold_of_an_item(threshold: float | None) -> None:
    assert parse_classes([{"text": "car", "box_threshold": threshold}])[0].box_threshold == threshold


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "  ",
        ", . ;\n",
        [],
        [""],
        ["car", " "],
        ["car", "[SEP] . ?"],
        "car, [SEP]",  # a piece with text, of which nothing is left
        ["\u200b"],  # a zero-width space: the word pieces of it are none
        ["\u0301"],
        ["\x00\x07"],
        "half a pair \ud83d",
        ["\udc00"],
        [None],
        [3],
        [["car"]],
        [{"text": 3}],
        [{}],
        [{"text": "car", "threshold": 0.3}],
        [{"text": "car", "box_threshold": "0.3"}],
        [{"text": "car", "box_threshold": True}],
        [{"text": "car", "box_threshold": float("nan")}],
        [{"text": "car", "box_threshold": float("inf")}],
        [{"text": "car", "box_threshold": -0.01}],
        [{"text": "car", "box_threshold": 1.01}],
        None,
        7,
        b"car",
        {"text": "car"},
        "x" * (MAX_CHARACTERS + 1),
        ["x" * (MAX_CHARACTERS // 2), "y" * (MAX_CHARACTERS // 2 + 1)],
    ],
)
def test_refused(prompt: object) -> None:
    with pytest.raises(StageError) as caught:
        parse_classes(prompt, param="negative_prompt")  # type: ignore[arg-type]
    assert caught.value.code == "invalid_value"
    assert caught.value.param is not None
    assert caught.value.param.partition("[")[0] == "negative_prompt"


@pytest.mark.parametrize(
    ("item", "where"),
    [
        ("", ""),
        ("[SEP] ?", ""),
        ("\udc00", ""),
        (None, ""),
        (["car"], ""),
        ({"text": "car", "threshold": 0.3}, ""),
        ({"box_threshold": 0.3}, ".text"),
        ({"text": 3}, ".text"),
        ({"text": "car", "box_threshold": "0.3"}, ".box_threshold"),
    ],
)
def test_a_faulty_item_is_named(item: object, where: str) -> None:
    with pytest.raises(StageError) as caught:
        parse_classes(["car", "car", item, "sky"])  # type: ignore[list-item]
    assert caught.value.param == f"prompt[2]{where}"


def test_a_faulty_piece_of_a_string_is_named_by_its_class_id() -> None:
    with pytest.raises(StageError) as caught:
        parse_classes("car,, [SEP], sky")  # the empty piece does not count
    assert caught.value.param == "prompt[1]"


def test_of_another_form_all_forms_are_named() -> None:
    for prompt, forms in ((5, ("string", "list", "text", "box_threshold")), ([5], ("string", "text", "box_threshold"))):
        with pytest.raises(StageError) as caught:
            parse_classes(prompt)  # type: ignore[arg-type]
        assert all(form in caught.value.message for form in forms)


def test_unknown_mode_is_refused() -> None:
    with pytest.raises(StageError) as caught:
        parse_classes("car", mode="words")  # type: ignore[arg-type]
    assert (caught.value.code, caught.value.param) == ("invalid_value", "mode")


def test_number_of_classes_is_limited_at_the_limit() -> None:
    names = [f"class {i}" for i in range(2000)]
    assert len(parse_classes(names)) == len(parse_classes(",".join(names) + ",,")) == 2000
    for prompt in ([*names, "car"], [*names, names[0]], ",".join([*names, "car"])):
        with pytest.raises(StageError):
            parse_classes(prompt)
    with pytest.raises(StageError):
        parse_classes("a, b, c", max_classes=2)


@repeatable
@given(st.lists(texts, min_size=1, max_size=8))
def test_any_list_gives_its_own_texts_back_or_is_refused(items: list[str]) -> None:
    try:
        classes = parse_classes(items)
    except StageError as error:
        assert error.code == "invalid_value"  # noqa: PT017 - either outcome is right, a third is not
        return
    assert [c.class_id for c in classes] == sorted({c.class_id for c in classes})
    for c in classes:
        assert c.label == items[c.class_id].strip()
        assert c.text == normalise(items[c.class_id])
        assert c.text not in {normalise(item) for item in items[: c.class_id]}
    assert {c.text for c in classes} == {normalise(item) for item in items}


# ---- Tokenizer


@repeatable
@given(text=texts)
def test_word_pieces_equal_those_of_transformers(tokenizer: Tokenizer, reference: object, text: str) -> None:
    text = normalise(text)
    assert tokenizer.encode(text) == reference(text, add_special_tokens=False)["input_ids"]  # type: ignore[operator]


@pytest.fixture(scope="module")
def reference() -> object:
    from transformers import BertTokenizer

    return BertTokenizer(vocab=str(VOCABULARY), do_lower_case=True)


def test_known_ids(tokenizer: Tokenizer) -> None:
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.dot_id) == (
        0,
        100,
        101,
        102,
        1012,
    )
    assert tokenizer.encode("car wheel") == [2482, 5217]
    (caption,) = tokenizer.captions(classes_of("Car", "wheel"))
    assert caption.token_ids == (101, 2482, 1012, 5217, 1012, 102)
    assert caption.spans == ((1, 2), (3, 4))
    assert caption.class_index == (0, 1)


@repeatable
@given(text=texts)
def test_no_text_makes_a_special_token(tokenizer: Tokenizer, text: str) -> None:
    question_mark = 1029
    special = {tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id, tokenizer.dot_id, question_mark}
    assert not special & set(tokenizer.encode(normalise(text)))


@repeatable
@given(
    labels=st.lists(
        words.flatmap(lambda w: st.integers(1, 6).map(lambda n: " ".join([w] * n))), min_size=1, max_size=40
    ),
    max_tokens=st.integers(28, 64),
)
def test_captions_hold_every_class_once_within_the_budget(labels: list[str], max_tokens: int) -> None:
    tokenizer = small_tokenizer(max_tokens)
    classes = parse_classes(labels)
    captions = tokenizer.captions(classes)
    assert sorted(i for caption in captions for i in caption.class_index) == list(range(len(classes)))
    for caption in captions:
        assert len(caption.token_ids) <= max_tokens
        rebuilt = [tokenizer.cls_id]
        for index, (start, end) in zip(caption.class_index, caption.spans, strict=True):
            assert list(caption.token_ids[start:end]) == tokenizer.encode(classes[index].text)
            rebuilt += [*caption.token_ids[start:end], tokenizer.dot_id]
        assert list(caption.token_ids) == [*rebuilt, tokenizer.sep_id]


def test_captions_keep_the_order_where_it_costs_nothing() -> None:
    tokenizer = small_tokenizer(16)  # 14 for classes, each with its "."
    labels = ["car wheel door", "car", "wheel", "door", "sky road", "road"]  # 4 + 2 + 2 + 2 + 3 | 2
    first, second = tokenizer.captions(classes_of(*labels))
    assert (first.class_index, second.class_index) == ((0, 1, 2, 3, 4), (5,))
    labels = [" ".join(["car"] * 7), " ".join(["wheel"] * 7), " ".join(["sky"] * 5), " ".join(["road"] * 5)]
    first, second = tokenizer.captions(classes_of(*labels))  # 8, 8, 6, 6: in order it would be three
    assert (first.class_index, second.class_index) == ((0, 2), (1, 3))


_small: dict[int, Tokenizer] = {}


def small_tokenizer(max_tokens: int) -> Tokenizer:
    if max_tokens not in _small:
        _small[max_tokens] = Tokenizer(VOCABULARY, max_tokens)
    return _small[max_tokens]


def test_a_class_at_the_budget_fits_and_one_token_more_is_refused() -> None:
    tokenizer = Tokenizer(VOCABULARY, max_tokens=16)
    (caption,) = tokenizer.captions(classes_of(" ".join(["car"] * 13)))
    assert len(caption.token_ids) == 16
    with pytest.raises(StageError) as caught:
        tokenizer.captions(classes_of("wheel", "wheel", " ".join(["car"] * 14), "sky"), param="negative_prompt")
    assert (caught.value.code, caught.value.param) == ("invalid_value", "negative_prompt[2]")
    assert caught.value.message == "'car car car car car car car car car car…' exceeds the model's 16 tokens"


def test_two_thousand_classes(tokenizer: Tokenizer) -> None:
    classes = parse_classes([f"kind {i} of thing" for i in range(2000)])
    captions = tokenizer.captions(classes)
    assert sum(len(caption.spans) for caption in captions) == 2000
    assert max(len(caption.token_ids) for caption in captions) <= 256


def test_no_class_no_caption(tokenizer: Tokenizer) -> None:
    assert tokenizer.captions(()) == []


def test_a_class_without_word_pieces_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(StageError) as caught:
        tokenizer.captions(classes_of("car", "\ufffd", "sky"))
    assert caught.value.param == "prompt[1]"
    assert caught.value.message == "'\ufffd' has no text that the model can read"


def test_unknown_words(tokenizer: Tokenizer) -> None:
    classes = classes_of("car", "🦄", "🦄 horse", "x" * 101)
    assert [c.class_id for c in tokenizer.unknown(classes)] == [1, 3]


def test_bad_vocabularies(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\ncar\n")
    with pytest.raises(ValueError, match="lacks ."):
        Tokenizer(path, 16)
    path.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n.\ncar\n")
    assert Tokenizer(path, 16).encode("car bus") == [5, 1]
    with pytest.raises(ValueError, match="max_tokens"):
        Tokenizer(path, 3)
