"""`Client`: the service's API for plain Python.

The work is `AsyncClient`'s. `Client` runs it on an event loop in a thread of its own: so a deadline ends a call at any
point of it, which a thread that waits for a socket could not be made to do.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Coroutine, Generator, Iterable
from threading import Lock
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import httpx

from deployments.client import many
from deployments.client.asynchronous import DEFAULT_URL, MAX_ANSWER_BYTES, AsyncClient
from deployments.client.background import Background
from deployments.client.exchange import ClientStats
from deployments.client.fields import DetectOptions, MasksOptions, Prompt, SegmentOptions
from deployments.client.images import AnyImage
from deployments.client.many import Answer
from pipeline.mask_result import MaskResult
from pipeline.result import Result

T = TypeVar("T")


class Client:
    """Asks a running service. Threads may share one; `close` it, or use it in `with`.

    Each call has one deadline, `timeout_s`, which covers its attempts and the waits between them; the service is told
    how much of it is left. What may pass is asked again: 429 and 503, 502 and 504 of a proxy, and connections that
    break. Every attempt of a call carries the same `x-request-id`.

    Methods raise `ClientError` on the service's account; `OSError`, `pipeline.StageError`, `ValueError` or `TypeError`
    where an image or an option cannot be sent at all.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        key: str | None = None,
        timeout_s: float = 60.0,
        attempts: int = 6,
        reuse_ids: bool = True,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        http: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """
        Args:
            url: where the service is; a path before its own is kept. Loopback addresses are asked directly, others
                through the environment's proxy (`HTTPS_PROXY`, `NO_PROXY`, …), if it names one.
            key: None: that of the environment, TEXT2MASK_KEY; `""`: none. It goes to this host alone: redirects are
                not followed.
            timeout_s: seconds for a call, retries and waits included.
            attempts: at most so many for a call.
            reuse_ids: ask by `image.id` for bytes that this client has sent before, as long as the service keeps them.
            max_answer_bytes: longer answers are an error.
            http: another transport, such as `httpx.AsyncHTTPTransport(verify=…)` for certificates of your own. Its
                connections cannot be shared with a forked process, which makes a client of its own.

        Raises:
            ValueError: an argument cannot be used.
        """

        def connect() -> AsyncClient:
            return AsyncClient(
                url,
                key=key,
                timeout_s=timeout_s,
                attempts=attempts,
                reuse_ids=reuse_ids,
                max_answer_bytes=max_answer_bytes,
                http=http,
            )

        self._connect = connect
        self._forks = http is None
        self._client = connect()  # here, for its ValueErrors
        self._background: Background | None = None
        self._stop: Callable[[], object] | None = None
        self._closed = False
        self._lock = Lock()

    def __repr__(self) -> str:
        return repr(self._client).replace("AsyncClient", type(self).__name__, 1)

    @property
    def stats(self) -> ClientStats:
        """Calls, attempts and resends so far."""
        return self._client.stats

    def segment(self, image: AnyImage, prompt: Prompt, **options: Unpack[SegmentOptions]) -> Result:
        """One mask, box, label and score for each instance that `prompt` names. Options: see `SegmentOptions`."""
        return self._run(lambda client: client.segment(image, prompt, **options))

    def detect(self, image: AnyImage, prompt: Prompt, **options: Unpack[DetectOptions]) -> Result:
        """The same without masks. Options: see `DetectOptions`."""
        return self._run(lambda client: client.detect(image, prompt, **options))

    def masks(self, image: AnyImage, **options: Unpack[MasksOptions]) -> MaskResult:
        """One mask for each box, or set of points. Options: see `MasksOptions`."""
        return self._run(lambda client: client.masks(image, **options))

    def overlay(self, image: AnyImage, prompt: Prompt, **options: Unpack[SegmentOptions]) -> bytes:
        """The picture with masks, boxes and labels drawn in, as PNG."""
        return self._run(lambda client: client.overlay(image, prompt, **options))

    def segment_many(
        self,
        images: Iterable[AnyImage],
        prompt: Prompt,
        *,
        concurrency: int = 8,
        ordered: bool = True,
        **options: Unpack[SegmentOptions],
    ) -> Generator[Answer, None, None]:
        """`segment` for any number of images, with an `Answer` for each; one that fails does not stop the others.

        `images` is read as it is worked on. Leaving the loop, or closing the generator, cancels what is under way.

        Args:
            concurrency: images under way, or done and not taken yet, at most.
            ordered: answers come as the images do; False: as they are ready.
            options: of `segment`; `timeout_s` is that of each image.
        """
        checked = many.checked_concurrency(concurrency)
        client, background = self._running()
        return many.from_afar(background.submit, client.answer_each(prompt, options), images, checked, ordered)

    def models(self, *, timeout_s: float | None = None) -> list[dict[str, Any]]:
        """The models on offer, the default one among them, with licences, thresholds and limits."""
        return self._run(lambda client: client.models(timeout_s=timeout_s))

    def ready(self, *, timeout_s: float = 5.0) -> bool:
        """Whether the service says that all its parts are up. Asks once; False also where nobody answers."""
        return self._run(lambda client: client.ready(timeout_s=timeout_s))

    def close(self) -> None:
        """End connections and thread; what is under way is cancelled."""
        with self._lock:
            self._closed = True
            stop, self._stop = self._stop, None
        if stop is not None:
            stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, work: Callable[[AsyncClient], Coroutine[Any, Any, T]]) -> T:
        client, background = self._running()
        return background.run(work(client))

    def _running(self) -> tuple[AsyncClient, Background]:
        with self._lock:
            if self._closed:
                raise RuntimeError("this client is closed")
            if self._background is not None and not self._background.is_mine:
                if not self._forks:
                    raise RuntimeError(
                        "a client with a transport of its own cannot go through a fork: make one after it"
                    )
                self._background, self._client = None, self._connect()  # a forked process shares no connections
            if self._background is None:
                self._background = Background()
                self._stop = weakref.finalize(self, self._background.stop, self._client.aclose)
            return self._client, self._background
