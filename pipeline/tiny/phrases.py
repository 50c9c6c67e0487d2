"""Texts about scenes: which classes a caption names and which objects each class means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.tiny.scenes import COLOUR_NAMES, HELD_OUT, SHAPES

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?")
PLURALS = tuple(f"{shape}es" if shape == "cross" else f"{shape}s" for shape in SHAPES)
ANYTHING = ("object", "shape", "objects", "shapes")
ARTICLES = ("a", "an", "the")
VOCABULARY: tuple[str, ...] = (*SPECIAL, *COLOUR_NAMES, *SHAPES, *PLURALS, *ANYTHING, *ARTICLES)
TOKEN_IDS: dict[str, int] = {word: number for number, word in enumerate(VOCABULARY)}


@dataclass(frozen=True, slots=True)
class Phrase:
    """One class of a caption. None means any colour, any shape; `known` False is a word the model has never seen."""

    colour: int | None
    shape: int | None
    words: tuple[str, ...]
    known: bool = True

    def matches(self, colours: np.ndarray, shapes: np.ndarray) -> np.ndarray:
        """Which objects, given as index arrays `(N,)`, this phrase means: `(N,)` bool."""
        if not self.known:
            return np.zeros(len(colours), dtype=bool)
        fits = np.ones(len(colours), dtype=bool)
        if self.colour is not None:
            fits &= colours == self.colour
        if self.shape is not None:
            fits &= shapes == self.shape
        return fits


_HELD = {(COLOUR_NAMES.index(colour), SHAPES.index(shape)) for colour, shape in HELD_OUT}


def phrase(colour: int | None, shape: int | None, rng: np.random.Generator | None = None) -> Phrase:
    """The phrase for a colour and a shape, now and then (with `rng`) in another wording."""
    words = [] if colour is None else [COLOUR_NAMES[colour]]
    varied = rng is not None and rng.random() < 0.12
    if shape is not None:
        words.append(PLURALS[shape] if varied and rng is not None and rng.random() < 0.5 else SHAPES[shape])
    elif colour is None or varied:
        words.append(ANYTHING[0] if rng is None else ANYTHING[rng.integers(len(ANYTHING))])
    if varied and rng is not None and rng.random() < 0.5:
        words.insert(0, ARTICLES[rng.integers(len(ARTICLES))])
    return Phrase(colour, shape, tuple(words))


def _unknown(rng: np.random.Generator) -> Phrase:
    colour = int(rng.integers(len(COLOUR_NAMES))) if rng.random() < 0.4 else None
    words = ("[UNK]",) if colour is None else (COLOUR_NAMES[colour], "[UNK]")
    return Phrase(colour, None, words, known=False)


def _near_miss(colour: int, shape: int, rng: np.random.Generator) -> tuple[int, int]:
    if rng.random() < 0.5:
        return int(rng.integers(len(COLOUR_NAMES))), shape
    return colour, int(rng.integers(len(SHAPES)))


def sample(colours: np.ndarray, shapes: np.ndarray, rng: np.random.Generator, most: int = 15) -> list[Phrase]:
    """A caption's classes for one training scene: pairs, shapes, colours or a mixture; present, near misses, absent.

    Args:
        colours, shapes: `(N,)` of the objects that are there.
        most: no more classes than this.
    """
    style = rng.choice(4, p=[0.34, 0.42, 0.07, 0.17])
    wanted = int(rng.integers(1, 5)) if rng.random() < 0.3 else int(rng.integers(4, most + 1))
    absent_only = rng.random() < 0.06
    chosen: dict[tuple[int | None, int | None], Phrase] = {}
    extra: list[Phrase] = []
    for _ in range(wanted):
        kind = style if style < 3 else rng.integers(3)
        use_object = len(colours) > 0 and not absent_only and rng.random() < 0.5
        if len(colours) > 0 and (use_object or rng.random() < 0.65):
            pick = int(rng.integers(len(colours)))
            colour, shape = int(colours[pick]), int(shapes[pick])
            if not use_object:
                colour, shape = _near_miss(colour, shape, rng)
        else:
            colour, shape = int(rng.integers(len(COLOUR_NAMES))), int(rng.integers(len(SHAPES)))
        if rng.random() < 0.03:
            extra.append(_unknown(rng))
            continue
        key = (colour if kind != 1 else None, shape if kind != 2 else None)
        if rng.random() < 0.01:
            key = (None, None)
        if key in _HELD or (absent_only and phrase(*key).matches(colours, shapes).any()):
            continue
        chosen[key] = phrase(*key, rng)
    classes = [*chosen.values(), *extra] or [_unknown(rng)]
    return [classes[i] for i in rng.permutation(len(classes))]


def caption(classes: Sequence[Phrase]) -> tuple[tuple[int, ...], list[tuple[int, int]]]:
    """Token ids `[CLS] red star . ring . [SEP]` and each class's span `[start, end)` without the `.`."""
    ids = [TOKEN_IDS["[CLS]"]]
    spans = []
    for one in classes:
        start = len(ids)
        ids += [TOKEN_IDS[word] for word in one.words]
        spans.append((start, len(ids)))
        ids.append(TOKEN_IDS["."])
    return (*ids, TOKEN_IDS["[SEP]"]), spans
