"""The registry says what the publishers say, and official files are found where the documentation says."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.models.architectures import ARCHITECTURES, DetectorArchitecture
from pipeline.models.registry import CHECKPOINTS, BundleError, find, folders, locate, names

# Typed in once more from the published lists, so that a slip of the keyboard in the registry shows.
PUBLISHED = {
    "groundingdino_swint_ogc.pth": "3b3ca2563c77c69f651d7bd133e97139c186df06231157a64c507099c52bc799",
    "groundingdino_swinb_cogcoor.pth": "46270f7a822e6906b655b729c90613e48929d0f2bb8b9b76fd10a856f3ac6ab7",
    "sam_vit_b_01ec64.pth": "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    "sam_vit_l_0b3195.pth": "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    "sam_vit_h_4b8939.pth": "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
}


def test_hashes_are_the_published_ones() -> None:
    assert {checkpoint.file: checkpoint.sha256 for checkpoint in CHECKPOINTS.values()} == PUBLISHED


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_entries_are_whole(name: str) -> None:
    checkpoint = CHECKPOINTS[name]
    is_detector = isinstance(ARCHITECTURES[checkpoint.architecture], DetectorArchitecture)
    assert checkpoint.name == name
    assert is_detector == (checkpoint.kind == "detector")
    assert checkpoint.url.startswith("https://")
    assert checkpoint.url.endswith("/" + checkpoint.file)
    assert checkpoint.licence == "Apache-2.0"


def test_names_by_kind() -> None:
    assert names("detector") == ["tiny", "swint", "swinb"]
    assert names("segmenter") == ["tiny", "vit_b", "vit_l", "vit_h"]
    assert names() == ["tiny", "swint", "swinb", "vit_b", "vit_l", "vit_h"]


def test_folders_own_one_first_then_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert folders() == [tmp_path / "cache" / "text2mask"]
    monkeypatch.setenv("TEXT2MASK_CHECKPOINTS", str(tmp_path / "own"))
    assert folders() == [tmp_path / "own", tmp_path / "cache" / "text2mask"]
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folders()[1] == tmp_path / ".cache" / "text2mask"


def test_find_goes_through_the_folders_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TEXT2MASK_CHECKPOINTS", str(tmp_path / "own"))
    checkpoint = CHECKPOINTS["vit_b"]
    assert find(checkpoint) is None
    for folder in reversed(folders()):
        folder.mkdir(parents=True)
        (folder / checkpoint.file).touch()
        assert find(checkpoint) == locate(checkpoint) == folder / checkpoint.file


def test_a_missing_file_says_where_it_was_looked_for_and_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(BundleError) as caught:
        locate(CHECKPOINTS["vit_b"])
    assert str(tmp_path / "text2mask" / "sam_vit_b_01ec64.pth") in str(caught.value)
    assert "text2mask download vit_b" in str(caught.value)
    assert "TEXT2MASK_CHECKPOINTS" in str(caught.value)
