"""Which replica of a stage a call goes to, and how it gets there.

Serve's routers ask for a stream of two answers: first whether the replica takes the call, then the result. That is for
replicas that are to refuse what exceeds `max_ongoing_requests`, and costs a quarter of a request's CPU time outside the
models. A stage queues what it is sent and drops what is late, and the ingress admits so much and no more; so here a
call is one message and one answer. An ingress replica then knows of its own calls only: by them it tells which stage
replica is less busy or full, and several of them may together send one more than the limit, which waits there, in order
of arrival. A replica that is gone meanwhile fails the call, and the ingress repeats it (`deployments.retry`).
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

from ray.experimental import get_local_object_locations
from ray.serve._private.replica_result import ActorReplicaResult
from ray.serve._private.request_router.common import PendingRequest
from ray.serve._private.request_router.pow_2_router import PowerOfTwoChoicesRequestRouter
from ray.serve._private.request_router.replica_wrapper import ActorReplicaWrapper
from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter
from ray.serve.request_router import RequestRouter, RunningReplica

SPREAD = 8
"""Calls that an image's own replica may have beyond the least busy one: a batch."""

_INLINE_BYTES = 100 * 1024  # smaller answers, and all that Ray itself fails with, come inside the message


class UnaryCall(ActorReplicaResult):
    """A call under way. Whoever waits for its end, as Serve's router does, fetches no answer for that.

    Ray's own callback hands over the value: each embedding would so come to the ingress's node.
    """

    def add_done_callback(self, callback: Callable[[Any], Any]) -> None:
        """Serve's: `callback` gets the answer or the exception; None for an answer that is kept on some node."""
        ref: Any = self._obj_ref

        def ready(_: object) -> None:
            try:
                size = get_local_object_locations([ref])[ref].get("object_size")
            except Exception:  # nobody knows, and the router must not wait for ever
                size = None
            if size is not None and size > _INLINE_BYTES:
                callback(None)
            else:  # it is here: a small answer, or what the call failed with
                ref._on_completed(callback)

        ref._on_ready(ready)


class UnaryCaller(ActorReplicaWrapper):
    """Makes calls of a replica."""

    def send_request_python(self, pr: PendingRequest, *, with_rejection: bool) -> ActorReplicaResult:
        """Serve's. `with_rejection` is never asked for."""
        sent = self._actor_handle.handle_request.remote(pickle.dumps(pr.metadata), *pr.args, **pr.kwargs)
        return UnaryCall(sent, pr.metadata)


class UnaryReplica(RunningReplica):
    """A replica that is not asked first."""

    def __init__(self, replica_info: Any) -> None:
        super().__init__(replica_info)
        caller: Any = UnaryCaller
        self._actor_replica_wrapper = caller(self._actor_handle)

    @property
    def is_cross_language(self) -> bool:
        """Serve's router asks this for one thing only: those of another language cannot be asked first."""
        return True


class UnaryCalls(RequestRouter):
    """The part of both routers that makes calls so."""

    def create_replica_wrapper(self, replica_info: Any) -> RunningReplica:
        return UnaryReplica(replica_info)


class LoadRouter(UnaryCalls, PowerOfTwoChoicesRequestRouter):
    """To the less busy of two replicas, by this process's own calls."""


class ImageRouter(UnaryCalls, ConsistentHashRouter):
    """Consistent hashing by `session_id`, which is the image's key; a replica that is busy or full passes on.

    Busy is one with more than `SPREAD` calls beyond those of the least busy one: else what a crowd has piled up before
    one replica would hold up each new image that falls to it, while replicas that were added for the crowd rest.
    (Compare Mirrokni, Thorup and Zadimoghaddam, Consistent Hashing with Bounded Loads, 2018.) What a replica keeps,
    only that one can be asked for.

    Ray's router tells waiting calls apart by their internal id. Calls that one HTTP request makes at the same time,
    such as those for the tiles of an image, share that id, and all but one of them would never be sent. They share the
    image too, so a replica that was chosen for one of them serves whichever waits.
    """

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Serve's: replicas to try, one after another."""
        ranks: list[list[RunningReplica]] = await super().choose_replicas(candidate_replicas, pending_request)
        if pending_request is None or len(ranks) < 2 or pending_request.metadata.call_method == "recall":
            return ranks
        least = min(self._replicas.values(), key=self._calls)
        [home] = ranks[0]
        return [[least], *ranks] if self._calls(home) > self._calls(least) + SPREAD else ranks

    def _calls(self, replica: RunningReplica) -> int:
        """Under way from this process."""
        return self.replica_queue_len_cache.get(replica.replica_id) or 0

    def _get_pending_request_matching_internal_request_id(self, request_metadata: Any = None) -> Any:
        if request_metadata is None:
            return None
        wanted = (request_metadata.internal_request_id, request_metadata.session_id)
        for pending in self._pending_requests_to_fulfill:
            metadata = pending.metadata
            if not pending.future.done() and (metadata.internal_request_id, metadata.session_id) == wanted:
                return pending
        return None
