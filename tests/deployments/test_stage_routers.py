"""Which replica an image's calls go to, and how the router hears of a call's end. Needs ray, but no cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray")

from ray.serve._private.common import DeploymentID, ReplicaID, RequestMetadata
from ray.serve._private.request_router.common import PendingRequest, ReplicaQueueLengthCache

from deployments.stage_routers import SPREAD, ImageRouter, UnaryCall


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

    # Not by the module's name: whoever imports it anew in between would leave this class with the real one, which
    # crashes on what is no reference of Ray's.
    monkeypatch.setitem(UnaryCall.add_done_callback.__globals__, "get_local_object_locations", found)
    told: list[Any] = []
    ref: Any = Ref("the answer")
    UnaryCall(ref, RequestMetadata("request", "internal")).add_done_callback(told.append)
    assert told == ["the answer" if fetched else None]


IDS = [ReplicaID(name, DeploymentID("image-encoder")) for name in ("a", "b", "c", "d")]


def router(calls: dict[str, int]) -> ImageRouter:
    """Of four replicas with so many calls under way, by name."""
    made = ImageRouter.__new__(ImageRouter)  # its constructor wants a running Serve
    made._deployment_id = IDS[0].deployment_id
    made._num_virtual_nodes, made._num_fallback_replicas = 100, 2
    made._replica_queue_len_cache = ReplicaQueueLengthCache()
    made._replicas = {one: SimpleNamespace(replica_id=one) for one in IDS}  # type: ignore[misc]
    made._rebuild_ring(frozenset(IDS))
    for one in IDS:
        made._replica_queue_len_cache.update(one, calls.get(one.unique_id, 0))
    return made


def ranked(calls: dict[str, int], key: str, method: str = "encode") -> list[str]:
    """The replicas that a call about the image is tried with, one after another."""

    async def choose() -> list[str]:
        metadata = RequestMetadata("request", "internal", call_method=method, session_id=key)
        pending = PendingRequest(args=[], kwargs={}, metadata=metadata)
        chosen = router(calls)
        ranks = await chosen.choose_replicas(list(chosen._replicas.values()), pending)
        return [one.replica_id.unique_id for rank in ranks for one in rank]

    return asyncio.run(choose())


def test_an_image_goes_home_until_a_batch_more_waits_there_than_elsewhere() -> None:
    keys = [f"{number:064x}" for number in range(40)]
    homes = {key: ranked({}, key) for key in keys}
    assert {ranks[0] for ranks in homes.values()} == {"a", "b", "c", "d"}
    for key, ranks in homes.items():
        home, *others = ranks
        assert ranked({home: SPREAD}, key) == ranks
        busy = {home: SPREAD + 3, others[0]: 1, others[1]: 2}
        (rest,) = {"a", "b", "c", "d"} - set(ranks)
        assert ranked(busy, key) == [rest, *ranks]
        assert ranked(busy | {rest: 3}, key) == [others[0], *ranks]  # 1 of its own: SPREAD and 2 more are too many
        assert ranked(dict.fromkeys("abcd", 50) | {home: 50 + SPREAD}, key) == ranks
        assert ranked(busy, key, "recall") == ranks  # nobody else has it
