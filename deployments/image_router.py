"""Which replica of an image encoder a call goes to: the one that keeps the image."""

from __future__ import annotations

from typing import Any

from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter


class ImageRouter(ConsistentHashRouter):
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
