"""Names and folders become bundles; what is wrong with them is refused with words that help."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.bundle import Bundle, BundleError, resolve, split_model_name
from pipeline.models import bundle_file
from pipeline.models.architectures import ARCHITECTURES
from pipeline.models.registry import CHECKPOINTS, EMBEDDED, Kind, names

SHA = "0123456789abcdef" * 4
SEGMENTER: dict[str, Any] = {"kind": "segmenter", "architecture": "sam-vit-b", "weights": "model.pth", "sha256": SHA}
DETECTOR: dict[str, Any] = SEGMENTER | {"kind": "detector", "architecture": "groundingdino-swint-ogc"}


def make_bundle(folder: Path, content: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bundle.json").write_text(json.dumps(content))
    (folder / "model.pth").touch()
    (folder / "words.txt").touch()
    return folder


@pytest.mark.parametrize(
    ("model", "parts"),
    [("tiny", ("tiny", "tiny")), ("swint+vit_b", ("swint", "vit_b")), ("tiny+/data/own", ("tiny", "/data/own"))],
)
def test_split_model_name(model: str, parts: tuple[str, str]) -> None:
    assert split_model_name(model) == parts


@pytest.mark.parametrize("model", ["", "+", "swint", "swint+", "+vit_b", "swint+vit_b+vit_l", "vit_b", "tyny"])
def test_split_refuses_other_forms(model: str) -> None:
    with pytest.raises(BundleError, match="does not name a model"):
        split_model_name(model)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_registry_name_means_the_registry_hash_wherever_the_file_lies(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = CHECKPOINTS[name]
    file = tmp_path / checkpoint.file
    file.write_bytes(b"other weights under the published name")
    monkeypatch.setenv("TEXT2MASK_CHECKPOINTS", str(tmp_path))
    by_name = resolve(name, checkpoint.kind)
    assert by_name.weights == file
    assert by_name.sha256 == checkpoint.sha256
    assert by_name.architecture == checkpoint.architecture
    assert by_name.licence == checkpoint.licence
    assert (by_name.vocabulary is not None) == (checkpoint.kind == "detector")
    assert resolve(file, checkpoint.kind) == resolve(str(file), checkpoint.kind) == by_name


def test_official_detector_defaults(tmp_path: Path) -> None:
    (tmp_path / CHECKPOINTS["swint"].file).touch()
    bundle = resolve(tmp_path / CHECKPOINTS["swint"].file, "detector")
    assert (bundle.box_threshold, bundle.text_threshold) == (0.3, 0.25)
    assert (bundle.label_rule, bundle.max_tokens) == ("span_mean", 256)
    assert bundle.vocabulary is not None
    words = bundle.vocabulary.read_text(encoding="utf-8").splitlines()
    assert len(words) == 30522
    assert (words[101], words[102], words[1012]) == ("[CLS]", "[SEP]", ".")


def test_a_folder_beside_does_not_shadow_a_registry_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_bundle(tmp_path / "vit_b", SEGMENTER | {"name": "mine"})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(BundleError, match="text2mask download vit_b"):
        resolve("vit_b", "segmenter")
    assert resolve("./vit_b", "segmenter").name == resolve(Path("vit_b"), "segmenter").name == "mine"


@pytest.mark.parametrize(
    ("spec", "kind", "message"),
    [
        ("vit_b", "detector", "'vit_b' is a segmenter; the detectors are tiny, swint, swinb"),
        ("swint", "segmenter", "'swint' is a detector"),
        ("swimt", "detector", "did you mean 'swint'"),
        ("vit_x", "segmenter", "did you mean 'vit_"),
        ("", "detector", "neither a detector's name nor the folder"),
        ("/no/such/folder", "segmenter", "neither a segmenter's name nor the folder"),
    ],
)
def test_names_that_do_not_fit(spec: str, kind: Kind, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        resolve(spec, kind)


def test_a_stray_file_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "finetuned.pth").touch()
    with pytest.raises(BundleError, match="not one of the published files"):
        resolve(tmp_path / "finetuned.pth", "detector")
    with pytest.raises(BundleError, match=r"holds no bundle\.json"):
        resolve(tmp_path, "detector")


def test_everything_that_a_bundle_can_say(tmp_path: Path) -> None:
    folder = make_bundle(
        tmp_path / "own",
        DETECTOR
        | {
            "sha256": SHA.upper(),
            "name": "shelf-v2",
            "vocabulary": "words.txt",
            "box_threshold": 0.4,
            "text_threshold": 0,
            "label_rule": "span_mean",
            "max_tokens": 64,
            "licence": "MIT",
        },
    )
    assert resolve(folder, "detector") == Bundle(
        name="shelf-v2",
        kind="detector",
        architecture="groundingdino-swint-ogc",
        weights=folder / "model.pth",
        sha256=SHA,
        vocabulary=folder / "words.txt",
        box_threshold=0.4,
        text_threshold=0,
        label_rule="span_mean",
        max_tokens=64,
        licence="MIT",
    )


def test_the_least_that_a_bundle_must_say(tmp_path: Path) -> None:
    bundle = resolve(make_bundle(tmp_path / "my-sam", SEGMENTER), "segmenter")
    assert bundle == Bundle("my-sam", "segmenter", "sam-vit-b", tmp_path / "my-sam" / "model.pth", SHA)
    with pytest.raises(BundleError, match="is a segmenter, and a detector is wanted"):
        resolve(tmp_path / "my-sam", "detector")
    with pytest.raises(BundleError, match="give bundle.json a 'name'"):
        resolve(make_bundle(tmp_path / "my sam", SEGMENTER), "segmenter")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": "model.pth"}, "'weight' is not a key of a bundle; did you mean 'weights'"),
        ({"license": "MIT"}, "did you mean 'licence'"),
        ({"zzz": 1}, "the keys are kind, architecture"),
        ({"kind": "segmentor"}, "'kind' must be one of 'detector', 'segmenter'"),
        ({"architecture": "vit_b"}, "'architecture' must be one of"),
        ({"architecture": "sam-vit-b"}, "'sam-vit-b' is not the architecture of a detector"),
        ({"sha256": SHA[:-1]}, "64 hex digits"),
        ({"sha256": SHA + "\n"}, "64 hex digits"),
        ({"box_threshold": 1.01}, "a number from 0 to 1"),
        ({"box_threshold": "0.3"}, "a number from 0 to 1"),
        ({"text_threshold": True}, "a number from 0 to 1"),
        ({"text_threshold": float("nan")}, "a number from 0 to 1"),
        ({"max_tokens": 257}, "an integer from 4 to 256"),
        ({"max_tokens": 64.0}, "an integer from 4 to 256"),
        ({"label_rule": "best"}, "'label_rule' must be one of 'span_mean'"),
        ({"name": "a/b"}, "'name' must be letters"),
        ({"name": "swint"}, "the name 'swint' is taken"),
        ({"weights": "../model.pth"}, "leads out of the bundle's folder"),
        ({"weights": "/etc/hostname"}, "leads out of the bundle's folder"),
        ({"weights": "link.pth"}, "leads out of the bundle's folder"),
        ({"vocabulary": "../words.txt"}, "leads out of the bundle's folder"),
        ({"weights": "absent.pth"}, "there is no such file"),
        ({"weights": "."}, "there is no such file"),
        ({"weights": "a\0b"}, "there is no such file"),
        ({"weights": "x" * 5000}, "there is no such file"),
        ({"weights": "words.txt"}, "must end in .safetensors or .pth"),
        ({"architecture": "groundingdino-tiny"}, "lacks vocabulary"),
        ({"architecture": "groundingdino-tiny", "vocabulary": "words.txt", "max_tokens": 65}, "at most 64"),
    ],
)
def test_faults_in_bundle_json(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "own", DETECTOR | change)
    (tmp_path / "model.pth").touch()
    (tmp_path / "words.txt").touch()
    (folder / "link.pth").symlink_to(tmp_path / "model.pth")
    with pytest.raises(BundleError, match=message):
        resolve(folder, "detector")


@pytest.mark.parametrize("key", SEGMENTER)
def test_required_keys(key: str, tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "own", {name: value for name, value in SEGMENTER.items() if name != key})
    with pytest.raises(BundleError, match=f"lacks {key}"):
        resolve(folder, "segmenter")


def test_a_segmenter_has_no_thresholds(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="box_threshold mean nothing for a segmenter"):
        resolve(make_bundle(tmp_path / "own", SEGMENTER | {"box_threshold": 0.3}), "segmenter")


@pytest.mark.parametrize("kind", ["detector", "segmenter"])
def test_embedded_bundles(kind: Kind, tmp_path: Path) -> None:
    bundle = resolve("tiny", kind)
    assert (bundle.name, bundle.kind, bundle.weights.parent) == ("tiny", kind, EMBEDDED[kind])
    # Its name is its own, too: a copy with other weights must be called something else.
    content = json.loads((EMBEDDED[kind] / "bundle.json").read_text()) | {"name": "tiny", "sha256": SHA}
    with pytest.raises(BundleError, match="the name 'tiny' is taken"):
        resolve(make_bundle(tmp_path / "copy", content), kind)


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\xff\xfe", b'{"kind": 1, "kind": 1}', b"9" * 5000, b"[" * 100_000])
def test_bundle_json_that_is_not_json(raw: bytes, tmp_path: Path) -> None:
    (tmp_path / "bundle.json").write_bytes(raw)
    with pytest.raises(BundleError, match=r"bundle\.json"):
        resolve(tmp_path, "segmenter")


def test_the_page_names_every_key_architecture_and_model() -> None:
    page = (Path(__file__).parents[2] / "docs" / "bundles.md").read_text(encoding="utf-8")
    for word in [*bundle_file.CHECKS, *ARCHITECTURES, *names(), *(known.file for known in CHECKPOINTS.values())]:
        assert f"`{word}`" in page, word


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=3)
)


@settings(max_examples=200, deadline=None)
@given(change=st.dictionaries(st.sampled_from([*DETECTOR, "name", "vocabulary", "max_tokens", "licence"]), JSON))
def test_any_values_end_in_a_bundle_or_a_bundle_error(
    change: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = make_bundle(tmp_path_factory.getbasetemp() / "any", DETECTOR | change)
    try:
        bundle = resolve(folder, "detector")
    except BundleError:
        return
    assert bundle.weights.is_relative_to(folder.resolve())
