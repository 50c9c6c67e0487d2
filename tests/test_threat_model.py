"""Each defence on docs/threat-model.md has a test, and the test is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
ATTACKS = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| attack |")]
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)))


def test_every_attack_has_a_test() -> None:
    assert len(ATTACKS) >= 25
    for attack in ATTACKS:
        assert re.search(r"`tests/[\w/]+\.py::\w+`", attack), attack


@pytest.mark.parametrize(("file", "test"), NAMED)
def test_the_test_is_there(file: str, test: str) -> None:
    assert re.search(rf"^(async )?def {test}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
