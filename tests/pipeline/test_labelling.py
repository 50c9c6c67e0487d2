"""From token probabilities to labelled boxes, against GroundingDINO's own evaluation code and a plain reading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.labelling import Scores, candidates, criteria, merge
from pipeline.prompt import Caption, Prompt, Tokenizer, parse_classes
from pipeline.stages import Detections, DetectRequest
from tests.pipeline.judge import PublishedEvaluation, bert_tokenizer

VOCABULARY = Path(__file__).parents[2] / "pipeline" / "models" / "bert-base-uncased-vocab.txt"
SIZE = (120, 200)
QUERIES = 40

repeatable = settings(derandomize=True, deadline=None, max_examples=60)

NAMES = [
    "car",
    "car wheel",
    "t-shirt",
    "traffic light",
    "hippopotamus",
    "man's hat",
    "dining table",
    "tv",
    "naïve café",
]
prompts = st.lists(st.sampled_from(NAMES), min_size=1, max_size=9, unique=True)


def captions_of(request: DetectRequest, max_tokens: int = 256) -> list[Caption]:
    return Tokenizer(VOCABULARY, max_tokens).captions((*request.classes, *request.negatives))


def random_scores(captions: list[Caption], seed: int) -> list[Scores]:
    """No two probabilities alike; some boxes reach beyond the image."""
    rng = np.random.default_rng(seed)
    lengths = [len(caption.token_ids) for caption in captions]
    tokens = np.split(
        rng.permutation(QUERIES * sum(lengths)) / (QUERIES * sum(lengths)), np.cumsum(lengths)[:-1] * QUERIES
    )
    return [
        Scores(some.reshape(QUERIES, -1).astype(np.float32), rng.uniform(0.05, 0.6, (QUERIES, 4)).astype(np.float32))
        for some in tokens
    ]


def found(request: DetectRequest, captions: list[Caption], scores: list[Scores]) -> Detections:
    wanted = criteria(request, 0.3, 0.25)
    parts = [candidates(wanted, *pair, SIZE) for pair in zip(captions, scores, strict=True)]
    return merge(wanted, parts, ("a warning",))


# ---- raw mode


@pytest.fixture(scope="module")
def official_tokenizer() -> Any:
    return bert_tokenizer(VOCABULARY)


@repeatable
@given(names=prompts, seed=st.integers(0, 1000), share=st.sampled_from([0.01, 0.2, 1.0]))
def test_raw_mode_is_the_published_evaluation(
    official_tokenizer: Any, names: list[str], seed: int, share: float
) -> None:
    count = max(1, int(share * QUERIES * len(names)))
    request = DetectRequest(parse_classes(names), top_k=count)
    captions = captions_of(request)
    scores = random_scores(captions, seed)
    judge = PublishedEvaluation(official_tokenizer, [one.text for one in request.classes], count)
    assert captions[0].token_ids == judge.token_ids
    expected = judge(torch.from_numpy(scores[0].tokens), torch.from_numpy(scores[0].boxes), SIZE)
    answer = found(request, captions, scores)
    np.testing.assert_allclose(answer.scores, expected.scores, rtol=1e-5)
    np.testing.assert_array_equal(answer.text_scores, answer.scores)
    falls = np.diff(answer.scores) < -1e-5  # pairs within rounding of each other may change places, at the end too
    far = np.append(True, falls) & np.append(falls, False)
    np.testing.assert_array_equal(answer.class_ids[far], expected.class_ids[far])
    inside = expected.boxes.clip(0, [SIZE[1], SIZE[0]] * 2)  # ours are clipped to the image
    np.testing.assert_allclose(answer.boxes[far], inside[far], rtol=0, atol=1e-3)


@repeatable
@given(names=prompts, seed=st.integers(0, 1000), count=st.integers(1, 400), cut=st.integers(0, 5))
def test_raw_mode_takes_the_best_over_all_captions_whatever_the_parts(
    names: list[str], seed: int, count: int, cut: int
) -> None:
    request = DetectRequest(parse_classes(names), top_k=count)
    captions = captions_of(request, max_tokens=14)
    scores = random_scores(captions, seed)
    pairs = [
        (float(one.tokens[query, start:end].mean()), index)
        for caption, one in zip(captions, scores, strict=True)
        for index, (start, end) in zip(caption.class_index, caption.spans, strict=True)
        for query in range(QUERIES)
    ]
    best = sorted(pairs, key=lambda pair: -pair[0])[:count]
    whole = found(request, captions, scores)
    assert whole.scores.tolist() == [score for score, _ in best]
    assert whole.passes == len(captions)
    halves = [found(request, captions[part], scores[part]) for part in (slice(cut), slice(cut, None)) if captions[part]]
    parted = merge(criteria(request, 0.3, 0.25), halves, ("a warning",))
    for name in ("boxes", "scores", "class_ids"):
        np.testing.assert_array_equal(getattr(parted, name), getattr(whole, name))
    assert (parted.passes, parted.warnings) == (whole.passes, ("a warning",))


def test_raw_mode_knows_no_threshold() -> None:
    classes = parse_classes([{"text": "car", "box_threshold": 1.0}, "tv"])
    request = DetectRequest(classes, box_threshold=1.0, text_threshold=1.0, top_k=10**6)
    captions = captions_of(request)
    assert len(found(request, captions, random_scores(captions, 0))) == 2 * QUERIES


# ---- the label rule and the thresholds


def plain(
    request: DetectRequest, captions: list[Caption], scores: list[Scores], default: tuple[float, float]
) -> list[tuple[int, int, float]]:
    """`(query, class id, score)` of all that should be found, one query at a time; of a caption's negatives last."""
    everything: list[Any] = [(one, one.class_id) for one in request.classes]
    everything += [(one, -1 - one.class_id) for one in request.negatives]
    box, text = (
        own if own is not None else usual
        for own, usual in zip((request.box_threshold, request.text_threshold), default, strict=True)
    )
    rows = []
    for caption, one in zip(captions, scores, strict=True):
        named = [everything[index] for index in caption.class_index]
        for positive in (True, False):  # the classes among themselves, then the negatives
            places = [place for place, (_, class_id) in enumerate(named) if (class_id >= 0) is positive]
            for query in range(QUERIES) if places else ():
                spans = [one.tokens[query, start:end] for start, end in caption.spans]
                best = max(places, key=lambda place: spans[place].mean())
                own, class_id = named[best]
                least = np.float32(box if own.box_threshold is None else own.box_threshold)
                if spans[best].max() >= least and spans[best].mean() >= np.float32(text):
                    rows.append((query, class_id, float(spans[best].max())))
    return rows


thresholds = st.none() | st.sampled_from([0.0, 0.3, 0.5, 0.8, 0.95, 1.0])
own = st.none() | st.sampled_from([0.0, 0.6, 0.9, 1.0])


@repeatable
@given(
    names=st.lists(st.tuples(st.sampled_from(NAMES), own), min_size=1, max_size=6, unique_by=lambda item: item[0]),
    negatives=st.lists(
        st.tuples(st.sampled_from(["dog", "black cat"]), own), max_size=2, unique_by=lambda item: item[0]
    ),
    box=thresholds,
    text=thresholds,
    max_tokens=st.sampled_from([12, 256]),
    seed=st.integers(0, 1000),
)
def test_labels_and_thresholds(
    names: list[Any], negatives: list[Any], box: float | None, text: float | None, max_tokens: int, seed: int
) -> None:
    """Classes and negatives alike: each has its own box threshold or the request's, and the one text threshold."""

    def prompt(items: list[Any]) -> Prompt:
        return [{"text": name} if least is None else {"text": name, "box_threshold": least} for name, least in items]

    request = DetectRequest(
        parse_classes(prompt(names)), parse_classes(prompt(negatives)) if negatives else (), box, text
    )
    captions = captions_of(request, max_tokens)
    scores = random_scores(captions, seed)
    answer = found(request, captions, scores)
    expected = plain(request, captions, scores, (0.3, 0.25))
    assert answer.class_ids.tolist() == [class_id for _, class_id, _ in expected]
    assert answer.scores.tolist() == [score for _, _, score in expected]
    assert answer.passes == len(captions)


def test_an_empty_box_is_no_detection_but_a_pair() -> None:
    request = DetectRequest(parse_classes("car"))
    (caption,) = captions_of(request)
    boxes = np.array([[0.5, 0.5, 0.2, 0.2], [0.5, 0.5, 0.0, 0.2], [1.0, 0.5, 0.0, 0.2]], np.float32)
    scores = Scores(np.full((3, len(caption.token_ids)), 0.9, np.float32), boxes)
    np.testing.assert_allclose(found(request, [caption], [scores]).boxes, [[80, 48, 120, 72]], atol=1e-4)
    assert len(found(DetectRequest(request.classes, top_k=9), [caption], [scores])) == 3


@pytest.mark.parametrize("top_k", [0, -1])
def test_bad_top_k(top_k: int) -> None:
    with pytest.raises(Exception, match="max_detections"):
        DetectRequest(parse_classes("car"), top_k=top_k)
