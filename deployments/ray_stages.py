"""The three stages behind Serve handles, and what Ray's exceptions mean for a request."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import suppress
from typing import Any, Generic, TypeVar

import ray
from ray import exceptions
from ray.serve.exceptions import DeploymentUnavailableError, RayServeException, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle, DeploymentResponse

from deployments.logs import LOGGER
from deployments.refusals import meant, raised
from deployments.retry import StageLostError
from pipeline.errors import StageError
from pipeline.stages import DecodeOptions, Detections, DetectRequest, Embedding, MaskPrompts, Masks, Region

logger = logging.getLogger(LOGGER)
T = TypeVar("T")

_INLINE_BYTES = 64 * 1024  # Ray puts arguments above 100 KiB into the object store, once for each call
_LOST = (
    exceptions.RayActorError,  # died, or cannot be reached
    exceptions.ObjectLostError,  # and its owner's death
    exceptions.WorkerCrashedError,
    exceptions.NodeDiedError,
    DeploymentUnavailableError,  # its replicas do not come up
    ReplicaUnavailableError,
)
_NO_ROOM = (exceptions.ObjectStoreFullError, exceptions.OutOfDiskError)


class RayCall(Generic[T]):
    """A `DeploymentResponse` whose refusals, which are values, and failures are `StageError` or `StageLostError`."""

    def __init__(self, response: Any) -> None:  # typed so that handles, which do not know their methods, fit
        self.response: DeploymentResponse[T] = response

    def __await__(self) -> Generator[Any, None, T]:
        return self._value().__await__()

    async def _value(self) -> T:
        try:
            value = await self.response
        except Exception as error:
            raise meaning(error) from None
        return raised(value)

    async def ready(self) -> None:
        """Wait for the value's presence: Ray then tells this process where it is, and does not send it."""
        try:
            await (await self.response._to_object_ref())._ready()
        except Exception as error:
            raise meaning(error) from None

    def cancel(self) -> None:
        with suppress(Exception):  # of a call that has failed, `cancel` raises the failure
            self.response.cancel()


class RayStages:
    """Calls to the three deployments, by reference."""

    def __init__(
        self,
        detector: DeploymentHandle[Any],
        image_encoder: DeploymentHandle[Any],
        mask_decoder: DeploymentHandle[Any],
    ) -> None:
        # By reference whatever the cluster's default is: over gRPC an embedding exceeds the 4 MiB message limit.
        self._detector = detector.options(_by_reference=True)
        self._image_encoder = image_encoder.options(_by_reference=True)
        self._mask_decoder = mask_decoder.options(_by_reference=True)

    def hold(self, image: bytes) -> Any:
        """A small image travels inside the calls; the object store would cost each of them more than the copy.

        Raises:
            StageError: there is no room for it.
        """
        try:
            return image if len(image) <= _INLINE_BYTES else ray.put(image)
        except _NO_ROOM as error:
            raise meaning(error) from None

    def detect(self, image: Any, request: DetectRequest, deadline: float | None) -> RayCall[Detections]:
        return RayCall(self._detector.detect.remote(image, request, deadline))

    def encode(self, image: Any, key: str | None, region: Region | None, deadline: float | None) -> RayCall[Embedding]:
        return RayCall(self._encoder_of(key).encode.remote(image, key, region, deadline))

    def recall(self, key: str) -> RayCall[bytes]:
        return RayCall(self._encoder_of(key).recall.remote(key))

    def decode(
        self, embedding: RayCall[Embedding], prompts: MaskPrompts, options: DecodeOptions, deadline: float | None
    ) -> RayCall[Masks]:
        return RayCall(self._mask_decoder.decode.remote(embedding.response, prompts, options, deadline))

    def _encoder_of(self, key: str | None) -> DeploymentHandle[Any]:
        """The handle whose calls reach the replica that keeps what `key` names."""
        return self._image_encoder if key is None else self._image_encoder.options(session_id=key)


def meaning(error: BaseException) -> BaseException:
    """`error` of a handle call as `StageError` or `StageLostError`, or itself where it is neither.

    A stage's exception arrives inside a `RayTaskError`, and inside another one for each stage that it then
    reached as an argument. The router wraps the death of an argument's maker in a bare `RayServeException`.
    """
    found: BaseException | None = error
    depth = 0
    while True:
        if isinstance(found, exceptions.RayTaskError):
            found = found.cause
        elif type(found) is RayServeException and found.__cause__ is not None:
            found = found.__cause__
        else:
            break
        depth += 1
    if isinstance(found, StageError):
        return meant(StageError(found.code, found.message, found.param))
    if isinstance(found, _LOST):
        return StageLostError(input_lost=depth > 0 or isinstance(found, exceptions.ObjectLostError))
    if isinstance(found, exceptions.TaskCancelledError):
        return StageError("cancelled", "the service gave this request up; try again soon")
    if isinstance(found, _NO_ROOM):
        where = "a stage's node" if depth else "this node"
        logger.error("No room in the object store of %s: %s.", where, type(found).__name__)
        return StageError("cancelled", "the service has no room for this request at the moment; try again soon")
    return error
