"""The page in a browser, by what a person does with it and sees."""

from __future__ import annotations

import os
import shutil
from base64 import b64decode
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import ConsoleMessage, Download, Locator, Page, Request, expect

from pipeline.stages import UInt8Array

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium (apt-get install chromium)")
# Its sandbox does not work as root. And /dev/shm is small in many containers.
ARGUMENTS = ["--disable-dev-shm-usage", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
PATIENCE_MS = 60_000  # the models share few cores with the rest of the tests


class Screen:
    """One tab with the page open. All that its console says, and every request, is kept."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.console: list[str] = []
        self.requests: list[Request] = []
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.console.append(f"{error}"))
        page.on("request", self._asked)
        page.goto(f"{url}/")

    def _heard(self, message: ConsoleMessage) -> None:
        if not message.text.startswith("Failed to load resource"):  # a refusal, which the page itself tells of
            self.console.append(message.text)

    def _asked(self, request: Request) -> None:
        if request.method == "POST":
            self.requests.append(request)

    def __getitem__(self, name: str) -> Locator:
        """The element of that id."""
        return self.page.locator(f"#{name}")

    def upload(self, picture: bytes, name: str = "scene.png") -> None:
        kind = {"png": "image/png", "jpg": "image/jpeg"}.get(name.rpartition(".")[2], "application/octet-stream")
        self["file"].set_input_files({"name": name, "mimeType": kind, "buffer": picture})

    def ask(self, words: str) -> None:
        self["words"].fill(words)
        self["words"].press("Enter")
        expect(self["working"]).to_be_hidden(timeout=PATIENCE_MS)

    def says(self, text: str) -> None:
        expect(self["status"]).to_contain_text(text, timeout=PATIENCE_MS)

    def slide(self, name: str, value: float) -> None:
        self[name].fill(str(value))

    def rows(self) -> list[str]:
        """What the list of instances says, class rows included."""
        return [text.strip() for text in self["classes"].locator(".name").all_inner_texts()]

    def canvas(self, name: str) -> UInt8Array:
        """`HxWx4` pixels of a canvas."""
        url: str = self[name].evaluate("(canvas) => canvas.toDataURL()")
        return np.asarray(Image.open(BytesIO(b64decode(url.partition(",")[2]))).convert("RGBA"))

    def masks_at(self, size: tuple[int, int]) -> UInt8Array:
        """The canvas of masks, as seen at the centre of each pixel of a picture of `(height, width)`: `HxWx4`."""
        seen = self.canvas("masks")
        rows, columns = (
            ((np.arange(count) + 0.5) * have / count).astype(int)
            for count, have in zip(size, seen.shape[:2], strict=True)
        )
        at_centres: UInt8Array = seen[rows[:, None], columns]
        return at_centres

    def click(self, place: Sequence[float], size: tuple[int, int], **options: Any) -> None:
        """Click the picture, of `(height, width)`, at `x, y` in its pixels."""
        box = self["masks"].bounding_box()
        assert box is not None
        x, y = place[0] * box["width"] / size[1], place[1] * box["height"] / size[0]
        self["masks"].click(position={"x": x, "y": y}, **options)

    def refined(self) -> None:
        expect(self["working"]).to_be_hidden(timeout=PATIENCE_MS)
        self.says("refined with")

    def download(self, name: str) -> tuple[str, bytes]:
        """What a button saves: the file's name and content."""
        with self.page.expect_download() as waiting:
            self[name].click()
        saved: Download = waiting.value
        return saved.suggested_filename, saved.path().read_bytes()
