"""Which pictures a command means."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from deployments.cli.complaints import UsageError
from deployments.cli.inputs import find_pictures


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def put(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def shown(*named: str, listed: Sequence[str] = (), recursive: bool = False, apart: Path | None = None) -> list[str]:
    return [one.shown for one in find_pictures(named, listed, recursive=recursive, apart=apart)]


def refusal(*named: str, recursive: bool = False) -> str:
    with pytest.raises(UsageError) as caught:
        find_pictures(named, recursive=recursive)
    return str(caught.value)


def test_a_folder_gives_its_pictures_sorted() -> None:
    put("p/b.PNG", "p/a.jpeg", "p/c.webp", "p/d.txt", "p/e", "p/.hidden.png", "p/deep/z.jpg", "p/.git/y.jpg")
    assert shown("p") == ["p/a.jpeg", "p/b.PNG", "p/c.webp"]
    assert shown("p", recursive=True) == ["p/a.jpeg", "p/b.PNG", "p/c.webp", "p/deep/z.jpg"]


def test_what_is_named_outright_is_taken_in_order_whatever_it_is_called() -> None:
    put("z.png", "a.png", ".hidden.png", "no_ending", "photo[1].png", "photo1.png")
    named = ("z.png", "a.png", ".hidden.png", "no_ending", "photo[1].png", "-")
    assert shown(*named) == list(named)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.png", ["a.png"]),
        ("p/*", ["p/b.png", "p/c.jpg"]),
        ("p/[c-z].jpg", ["p/c.jpg"]),
        ("**/*.png", ["a.png", "p/b.png", "p/q/d.png"]),
        ("**", ["a.png", "p/b.png", "p/c.jpg", "p/q/d.png"]),
        ("p/**/d.png", ["p/q/d.png"]),
        ("**/p/**/*.png", ["p/b.png", "p/q/d.png"]),
        ("*/*/d.*", ["p/q/d.png"]),
        ("p/q/../?.jpg", ["p/q/../c.jpg"]),
        ("./*.png", ["./a.png"]),
        ("p/.h*", ["p/.hid.png"]),
    ],
)
def test_patterns_are_what_a_shell_makes_of_them(pattern: str, expected: list[str]) -> None:
    put("a.png", "p/b.png", "p/c.jpg", "p/q/d.png", "p/n.txt", "p/.hid.png", "p/.h/e.png")
    assert shown(pattern) == expected


def test_an_absolute_pattern(tmp_path: Path) -> None:
    put("p/a.png")
    assert shown(f"{tmp_path}/**/*.png") == [f"{tmp_path}/p/a.png"]


def test_a_picture_comes_once_however_often_it_is_meant() -> None:
    put("p/a.png", "p/b.png")
    os.symlink("a.png", "p/z.png")
    assert shown("p/b.png", "p", "p/../p/a.png", "**/*.png", listed=["p/b.png"]) == ["p/b.png", "p/a.png"]


def test_links_do_not_lead_out_of_a_folder_or_round_in_it() -> None:
    put("outside/secret.png", "p/a.png", "p/q/b.png")
    os.symlink(os.path.abspath("outside/secret.png"), "p/link.png")
    os.symlink(os.path.abspath("outside"), "p/folder")
    os.symlink("..", "p/q/round")
    os.symlink("nowhere.png", "p/dangling.png")
    assert shown("p", recursive=True) == ["p/a.png", "p/q/b.png"]
    assert shown("p/**") == ["p/a.png", "p/link.png", "p/q/b.png"]  # a pattern names the link itself
    assert shown("p/link.png") == ["p/link.png"]


def test_outputs_of_an_earlier_run_are_no_pictures() -> None:
    put("p/a.png", "p/out/a.png.overlay.png")
    out = Path("p/out")
    assert shown("p", recursive=True, apart=out) == shown("p/**/*.png", apart=out) == ["p/a.png"]


def test_places_are_below_what_was_named_and_differ() -> None:
    put("p/a/x.png", "p/b/x.png", "y.png")
    places = {one.shown: str(one.name) for one in find_pictures(["p"], recursive=True)}
    assert places == {"p/a/x.png": "a/x.png", "p/b/x.png": "b/x.png"}
    assert [str(one.name) for one in find_pictures(["p/a/../a/x.png", "p/b/x.png", "-"])] == [
        "a/x.png",
        "b/x.png",
        "stdin",
    ]
    assert [str(one.name) for one in find_pictures(["p/a/*.png"], ["y.png", "gone.png"])] == [
        "p/a/x.png",
        "y.png",
        "gone.png",
    ]


def test_a_place_does_not_move_when_pictures_are_added() -> None:
    put("p/a/x.png")
    (before,) = find_pictures(["p"], recursive=True)
    put("p/b/x.png")
    assert find_pictures(["p"], recursive=True)[0] == before


def test_what_is_not_there_is_said() -> None:
    put("p/n.txt", "q/deep/a.png")
    assert re.search("no file or folder 'gone.png'", refusal("p/n.txt", "gone.png"))
    assert "no JPEG, PNG or WebP" in refusal("p", recursive=True)
    assert "--recursive" in refusal("q")
    assert "--recursive" not in refusal("p", recursive=True)
    assert "matches no" in refusal("none/*.png")
    assert "matches no" in refusal("p/*")
    assert "curl" in refusal("https://images.example/a.png")
