"""docs/reference/ says what the code says, and the code says why each setting and each field exists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from docs.generate.__main__ import FOLDER, PAGES

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", PAGES)
def test_page_is_up_to_date(name: str) -> None:
    if name == "python.md":  # its signatures are those of the models' classes
        pytest.importorskip("torch")
    if name in ("python.md", "settings.md"):
        pytest.importorskip("ray")
    written = (FOLDER / name).read_text(encoding="utf-8")
    assert written == PAGES[name](), "run `make reference` and commit what it wrote"


def test_there_is_no_other_page() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(PAGES)


def test_every_setting_says_why() -> None:
    rows = [
        line.strip("| ").split(" | ")
        for line in (FOLDER / "settings.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| `")
    ]
    assert len(rows) > 50
    assert [row[0] for row in rows if len(row) < 4] == []


def test_what_an_entry_of_a_list_holds_is_a_setting_too() -> None:
    page = (FOLDER / "settings.md").read_text(encoding="utf-8")
    for name in ("detectors[].deployment", "segmenters[].image_encoder", "segmenters[].mask_decoder"):
        assert f"| `{name}` | section |" in page


def test_every_field_of_a_request_says_what_it_is_for() -> None:
    schemas: dict[str, Any] = json.loads((ROOT / "openapi.json").read_text(encoding="utf-8"))["components"]["schemas"]
    for name in ("SegmentRequest", "DetectRequest", "MasksRequest"):
        silent = [field for field, one in schemas[name]["properties"].items() if not _described(one, schemas)]
        assert silent == [], name


def _described(field: dict[str, Any], schemas: dict[str, Any]) -> bool:
    target = schemas[field["$ref"].rpartition("/")[2]] if "$ref" in field else {}
    return bool(field.get("description") or target.get("description"))
