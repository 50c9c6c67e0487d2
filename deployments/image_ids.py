"""By what name a caller asks for an image, and where its embedding is kept."""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass

from pipeline.errors import StageError

_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ImageId:
    """An image that the caller has sent before, by the id of an answer."""

    value: str


@dataclass(frozen=True, slots=True)
class ImageUrl:
    """Where an image is to be had, for the service to fetch; nobody has asked there yet."""

    value: str


class ImageIds:
    """Ids are HMAC-SHA-256 over tenant and content: nobody can tell from one what it stands for, or make one up.

    Args:
        secret: shared by all ingress replicas, or an id of one is unknown to the others.
    """

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()

    def of(self, image: bytes, tenant: str) -> str:
        """64 lower-case hex digits. Takes a while for large images: not for the event loop."""
        content = hashlib.sha256(image).digest()
        return hmac.new(self._secret, tenant.encode() + b"\0" + content, hashlib.sha256).hexdigest()

    @staticmethod
    def well_formed(value: str) -> bool:
        return _ID.fullmatch(value) is not None


def not_cached() -> StageError:
    """However an image was lost, the caller's remedy is the same."""
    return StageError("image_not_cached", "this image is not kept here any more; send its bytes", "image.value")


def cache_key(image_id: str, tenant: str) -> str:
    """Under which an image encoder keeps an image: another tenant that has got hold of the id finds nothing."""
    return hmac.new(tenant.encode(), image_id.encode(), hashlib.sha256).hexdigest()
