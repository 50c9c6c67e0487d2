"""How the router hears of a call's end. Needs ray, but no cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("ray")

from ray.serve._private.common import RequestMetadata

from deployments.stage_routers import UnaryCall


class Ref:
    """An object reference that is ready at once, with `value`."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def _on_ready(self, callback: Callable[[Any], Any]) -> None:
        callback(None)

    def _on_completed(self, callback: Callable[[Any], Any]) -> None:
        callback(self.value)


@pytest.mark.parametrize(
    ("location", "fetched"),
    [
        ({"object_size": 1_180_000, "node_ids": ["far"]}, False),  # an embedding
        ({"object_size": 500, "node_ids": []}, True),
        ({"object_size": None}, True),  # what failed has no size
        ({"node_ids": []}, True),
        (None, True),  # the look-up failed
    ],
)
def test_the_end_of_a_call_is_told_without_its_answer_where_that_is_large(
    location: dict[str, Any] | None, fetched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(refs: list[Any]) -> dict[Any, Any]:
        return {refs[0]: location} if location is not None else {}

    monkeypatch.setattr("deployments.stage_routers.get_local_object_locations", found)
    told: list[Any] = []
    ref: Any = Ref("the answer")
    UnaryCall(ref, RequestMetadata("request", "internal")).add_done_callback(told.append)
    assert told == ["the answer" if fetched else None]
