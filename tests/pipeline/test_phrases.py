"""Training texts: what they mean, and that the trainer's captions are those that the tokenizer makes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.prompt import Tokenizer, parse_classes
from pipeline.tiny import phrases, scenes

VOCABULARY = Path(phrases.__file__).parent / "detector" / "vocab.txt"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(VOCABULARY, 48)


def test_vocabulary_file_is_the_trained_one() -> None:
    assert tuple(VOCABULARY.read_text().split()) == phrases.VOCABULARY


def test_captions_equal_the_tokenizers(tokenizer: Tokenizer) -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        classes = phrases.sample(np.array([0, 3]), np.array([1, 7]), rng)
        ids, spans = phrases.caption(classes)
        if any("[UNK]" in one.words for one in classes):
            continue
        texts = [" ".join(one.words) for one in classes]
        if len(set(texts)) < len(texts):
            continue
        (caption,) = tokenizer.captions(parse_classes(texts))
        assert (caption.token_ids, list(caption.spans)) == (ids, spans)


def test_meaning() -> None:
    colours, shapes = np.array([0, 0, 4]), np.array([0, 3, 3])
    red, star = scenes.COLOUR_NAMES.index("red"), scenes.SHAPES.index("star")
    assert phrases.phrase(red, star).matches(colours, shapes).tolist() == [False, True, False]
    assert phrases.phrase(red, None).matches(colours, shapes).tolist() == [True, True, False]
    assert phrases.phrase(None, star).matches(colours, shapes).tolist() == [False, True, True]
    assert phrases.phrase(None, None).matches(colours, shapes).all()
    assert not phrases.Phrase(red, None, ("red", "[UNK]"), known=False).matches(colours, shapes).any()


def test_samples_hold_present_and_absent_but_never_held_out_pairs() -> None:
    rng = np.random.default_rng(1)
    held = {(scenes.COLOUR_NAMES.index(c), scenes.SHAPES.index(s)) for c, s in scenes.HELD_OUT}
    colours, shapes = np.array([0, 4, 5]), np.array([0, 3, 2])
    present = absent = 0
    for _ in range(500):
        classes = phrases.sample(colours, shapes, rng)
        assert 1 <= len(classes) <= 15
        assert len(phrases.caption(classes)[0]) <= 64
        for one in classes:
            assert (one.colour, one.shape) not in held
            found = bool(one.matches(colours, shapes).any())
            present, absent = present + found, absent + (not found)
    assert 0.3 < present / (present + absent) < 0.7
