"""Which replica of a stage a call goes to, and how it gets there.

Serve's routers ask for a stream of two answers: first whether the replica takes the call, then the result. That is for
replicas that are to refuse what exceeds `max_ongoing_requests`, and costs a quarter of a request's CPU time outside the
models. A stage queues what it is sent and drops what is late, and the ingress admits so much and no more; so here a
call is one message and one answer. An ingress replica then knows of its own calls only: by them it tells which stage
replica is less busy or full, and several of them may together send one more than the limit, which waits there, in order
of arrival. A replica that is gone meanwhile fails the call, and the ingress repeats it (`deployments.retry`).
"""

from __future__ import annotations

from typing import Any

from ray.serve._private.request_router.pow_2_router import PowerOfTwoChoicesRequestRouter
from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter
from ray.serve.request_router import RequestRouter, RunningReplica


class UnaryReplica(RunningReplica):
    """A replica that is not asked first."""

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
    """Consistent hashing by `session_id`, which is the image's key; a replica that is full passes on to the next.

    Ray's router tells waiting calls apart by their internal id. Calls that one HTTP request makes at the same time,
    such as those for the tiles of an image, share that id, and all but one of them would never be sent. They share the
    image too, so a replica that was chosen for one of them serves whichever waits.
    """

    def _get_pending_request_matching_internal_request_id(self, request_metadata: Any = None) -> Any:
        if request_metadata is None:
            return None
        wanted = (request_metadata.internal_request_id, request_metadata.session_id)
        for pending in self._pending_requests_to_fulfill:
            metadata = pending.metadata
            if not pending.future.done() and (metadata.internal_request_id, metadata.session_id) == wanted:
                return pending
        return None
