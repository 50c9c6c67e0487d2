"""Google's store, by a stand-in for the few calls of its JSON API that reading takes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from deployments.jobs.inputs import find_work
from deployments.jobs.load import load
from deployments.jobs.storage import Entry, StorageError, StorageOptions, place
from pipeline.image import ImageLimits

OBJECTS = {"in/a b/é%20#?.jpg": b"data", "in/shut.jpg": b"data", "in/large.jpg": b"data of more than ten bytes"}
OPTIONS = StorageOptions(anonymous=True, timeout_s=2)


class Google(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        bucket, sign, name = url.path.removeprefix("/storage/v1/b/").partition("/o")
        key = unquote(name.removeprefix("/"))
        if bucket != "photos" or (key and key not in OBJECTS):
            self.answer(404, b"{}")
        elif key == "in/shut.jpg":
            self.answer(403, b"{}")
        elif query.get("alt") == ["media"]:
            self.answer(200, OBJECTS[key])
        elif key:
            self.answer(200, json.dumps(self.named(key)).encode())
        elif sign:
            found = [self.named(key) for key in OBJECTS if key.startswith(query.get("prefix", [""])[0])]
            self.answer(200, json.dumps({"kind": "storage#objects", "items": found}).encode())
        else:
            self.answer(200, json.dumps({"kind": "storage#bucket", "name": bucket}).encode())

    def named(self, key: str) -> dict[str, str]:
        return {"kind": "storage#object", "name": key, "bucket": "photos", "size": str(len(OBJECTS[key]))}

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture(autouse=True)
def google(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Google) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{server.server_address[1]}")
        yield
        server.shutdown()


def test_a_bucket_of_googles() -> None:
    folder = place("gs://photos/in", OPTIONS)
    folder.check()
    assert list(folder.files()) == [Entry(f"gs://photos/{key}", len(OBJECTS[key])) for key in sorted(OBJECTS)]
    assert folder.child("a b/é%20#?.jpg").read(4) == b"data"
    assert folder.child("a b/é%20#?.jpg").read() == b"data"
    assert folder.child("a b/é%20#?.jpg").exists()
    for name, code in {
        "none.jpg": "image_not_found",
        "shut.jpg": "image_forbidden",
        "large.jpg": "image_too_large",
    }.items():
        with pytest.raises(StorageError) as caught:
            folder.child(name).read(10)
        assert caught.value.code == code
    with pytest.raises(StorageError, match="no bucket 'others'"):
        place("gs://others/in", OPTIONS).check()


def test_the_images_of_a_bucket_of_googles() -> None:
    work = find_work("gs://photos/in/**/*.jpg", "car", OPTIONS)
    rows = [row for batch in load(work, OPTIONS, ImageLimits(max_bytes=10)) for row in batch.to_pylist()]
    assert {row["path"]: row["image"] or row["code"] for row in rows} == {
        "gs://photos/in/a b/é%20#?.jpg": b"data",
        "gs://photos/in/shut.jpg": "image_forbidden",
        "gs://photos/in/large.jpg": "image_too_large",
    }
