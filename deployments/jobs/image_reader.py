"""One image as encoded bytes: from a file, an object store, a manifest or a URL."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from deployments.fetch import Fetcher, FetchError
from deployments.fetch_settings import FetchSettings
from deployments.jobs.manifests import NO_PROMPT, Images, open_images, row_invalid
from deployments.jobs.storage import Place, StorageError, StorageOptions, place
from deployments.jobs.storage_options import FAILED, too_large
from deployments.logs import LOGGER
from pipeline.image import ImageLimits

_URL = re.compile(r"https?://", re.IGNORECASE)
_NAMES_NOTHING = row_invalid("the row has neither a path nor bytes, or no prompt that is a text or a list of texts")

logger = logging.getLogger(LOGGER)
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Loaded:
    """What became of a row of the work.

    Attributes:
        row: as it was.
        image: its bytes, or why there are none.
        seconds: how long that took.
    """

    row: Row
    image: bytes | StorageError | FetchError
    seconds: float


class ImageReader:
    """Reads one image at a time from each thread, and manifests from one.

    Args:
        options: how stores are reached.
        limits: of an image.
        fetch: from which hosts images are fetched.
    """

    def __init__(self, options: StorageOptions, limits: ImageLimits, fetch: FetchSettings) -> None:
        self._options = options
        self._max_bytes = limits.max_bytes
        self._fetch_s = fetch.timeout_s
        self._fetcher = Fetcher(fetch, limits.max_bytes)
        self._manifest: tuple[str, Images] | None = None

    def load(self, row: Row) -> Loaded:
        started = time.perf_counter()
        image: bytes | StorageError | FetchError
        try:
            image = self.read(row["path"], row["size"])
        except (StorageError, FetchError) as error:
            image = error.with_traceback(None)
        except Exception:
            logger.exception("An image could not be loaded.")
            image = StorageError("storage_failed", FAILED)
        return Loaded(row, image, time.perf_counter() - started)

    def read(self, path: str, size: int | None) -> bytes:
        """Raises StorageError and FetchError."""
        if size is not None and size > self._max_bytes:
            raise too_large(self._max_bytes)
        if _URL.match(path):
            return asyncio.run(self._fetcher.fetch(path, time.time() + self._fetch_s))
        return place(path, self._options).read(self._max_bytes)

    def from_manifest(self, uri: str, group: int | None, rows: list[Row]) -> Iterator[tuple[Row, Loaded | None]]:
        """Rows of one manifest and group. Without a Loaded: the path is the image after all."""
        inside = list[Row]()
        for row in rows:
            if row["prompt"] == NO_PROMPT:
                yield row, Loaded(row, _NAMES_NOTHING, 0.0)
            elif row["size"] is not None and row["size"] > self._max_bytes + 2:  # base64 may be padded by two
                yield row, Loaded(row, too_large(self._max_bytes), 0.0)
            else:
                inside.append(row)
        started = time.perf_counter()
        for row, image in zip(inside, self._images(uri, group, [row["row"] for row in inside]), strict=True):
            if image is None and row["path"].startswith(f"{uri}#"):
                image = _NAMES_NOTHING
            yield row, None if image is None else Loaded(row, image, time.perf_counter() - started)
            started = time.perf_counter()

    def _images(self, uri: str, group: int | None, rows: list[int]) -> Iterator[bytes | StorageError | None]:
        answered = 0
        try:
            for image in self._opened(uri).read(group, rows, self._max_bytes) if rows else ():
                yield image
                answered += 1
        except StorageError as error:
            yield from (error for _ in rows[answered:])
        except Exception:
            logger.exception("Images of a manifest could not be loaded.")
            yield from (StorageError("storage_failed", FAILED) for _ in rows[answered:])

    def _opened(self, uri: str) -> Images:
        if self._manifest is None or self._manifest[0] != uri:
            self.close()
            self._manifest = uri, open_images(Place(uri, self._options))
        return self._manifest[1]

    def close(self) -> None:
        if self._manifest is not None:
            self._manifest[1].close()
            self._manifest = None
