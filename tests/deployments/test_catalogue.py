"""Which models an app offers, and what they are called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deployments.catalogue import Catalogue, catalogue
from deployments.settings import SettingsError, resolve
from pipeline.bundle import BundleError
from tests.deployments.bundles import bundle_copy


def offered(**values: Any) -> Catalogue:
    return catalogue(resolve(yaml=values, environ={}))


def test_without_lists_there_is_one_pair() -> None:
    offer = offered()
    assert [pair.name for pair in offer.pairs] == ["tiny+tiny"]
    assert offer.pairs[0].aliases == ("tiny",)
    assert offer.pairs[0].card["detector"]["box_threshold"] == 0.3
    assert [*offer.detectors, *offer.segmenters] == ["tiny", "tiny"]


def test_each_detector_serves_each_segmenter(tmp_path: Path) -> None:
    offer = offered(
        detectors=[{"model": "tiny"}, {"model": str(bundle_copy("detector", "other", tmp_path))}],
        segmenters=[
            {"model": "tiny", "mask_decoder": {"num_replicas": 3}},
            {"model": str(bundle_copy("segmenter", "small", tmp_path))},
        ],
        aliases={"fast": "other+small"},
        mask_decoder={"num_replicas": 2},
    )
    assert [pair.name for pair in offer.pairs] == ["tiny+tiny", "tiny+small", "other+tiny", "other+small"]
    assert [pair.aliases for pair in offer.pairs] == [("tiny",), (), (), ("fast",)]
    assert [one.mask_decoder.num_replicas for one in offer.segmenters.values()] == [3, 2]


def test_what_an_entry_leaves_out_is_as_in_the_common_section() -> None:
    common = {"max_batch_size": 2, "device": "cuda", "num_gpus": 1, "autoscaling": {"max_replicas": 3}}
    offer = offered(
        detector=common,
        detectors=[{"model": "tiny", "deployment": {"num_cpus": 0.3, "autoscaling": {"min_replicas": 0}}}],
    )
    found = offer.detectors["tiny"].deployment
    assert (found.max_batch_size, found.device, found.num_gpus, found.num_cpus) == (2, "cuda", 1, 0.3)
    assert found.autoscaling is not None
    assert (found.autoscaling.min_replicas, found.autoscaling.max_replicas) == (0, 3)


def test_an_entry_that_does_not_fit_the_common_section_is_refused() -> None:
    with pytest.raises(SettingsError, match="max_ongoing_requests must be at least"):
        offered(
            mask_decoder={"max_batch_size": 32},
            segmenters=[{"model": "tiny", "mask_decoder": {"max_ongoing_requests": 40}}],
        )


def test_an_alias_may_hold_a_dot() -> None:
    assert offered(aliases={"v1.0": "tiny+tiny"}).pairs[0].aliases == ("tiny", "v1.0")


@pytest.mark.parametrize("default", ["tiny+small", "fast"])
def test_the_default_comes_first(tmp_path: Path, default: str) -> None:
    segmenters = [{"model": "tiny"}, {"model": str(bundle_copy("segmenter", "small", tmp_path))}]
    offer = offered(model=default, detectors=[{"model": "tiny"}], segmenters=segmenters, aliases={"fast": "tiny+small"})
    assert [pair.name for pair in offer.pairs] == ["tiny+small", "tiny+tiny"]


def test_a_list_of_one_kind_leaves_the_other_to_model(tmp_path: Path) -> None:
    offer = offered(segmenters=[{"model": str(bundle_copy("segmenter", "small", tmp_path))}, {"model": "tiny"}])
    assert [pair.name for pair in offer.pairs] == ["tiny+small", "tiny+tiny"]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"aliases": {"fast": "tiny+other"}}, "aliases.fast: 'tiny+other' is none of tiny+tiny"),
        ({"aliases": {"tiny+tiny": "tiny+tiny"}}, "a pair's own name"),
        ({"detectors": [{"model": "tiny"}, {"model": "tiny"}]}, "detectors: two of them are called 'tiny'"),
        (
            {"detectors": [{"model": "tiny"}], "segmenters": [{"model": "tiny"}], "model": "tiny+x"},
            "model: 'tiny+x' is none of tiny+tiny",
        ),
        ({"detectors": [{"model": "tiny", "device": "cpu"}]}, "device: there is no such setting; known here"),
        ({"segmenters": [{"model": "tiny", "mask_decodr": {}}]}, "did you mean mask_decoder?"),
        ({"segmenters": [{}]}, "segmenters.0.model"),
    ],
)
def test_what_does_not_fit_is_refused(values: dict[str, Any], text: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        offered(**values)
    assert text in str(refusal.value)


def test_a_model_that_is_not_here_is_refused() -> None:
    with pytest.raises(BundleError, match="vit_h"):
        offered(segmenters=[{"model": "tiny"}, {"model": "vit_h"}])
