"""Downloads against a real HTTP server that cuts, ignores, lies and refuses."""

from __future__ import annotations

import hashlib
import io
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.models import download as module
from pipeline.models.download import download, fetch
from pipeline.models.registry import CHECKPOINTS, BundleError, Checkpoint, folders

CONTENT = bytes(range(256)) * 8192  # 2 MiB, more than one chunk


class Server(ThreadingHTTPServer):
    """Serves `content`, one file, and misbehaves as told."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.cuts: list[int] = []  # answer n ends after that many bytes of its body
        self.statuses: list[int] = []  # answer n is this error
        self.ignores_ranges = False
        self.wrong_range = False
        self.tells_length = True
        self.redirects = False
        self.ranges: list[str | None] = []  # the Range header of each request
        self.paths: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/weights.pth"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers["Range"]
        server.paths.append(self.path)
        if server.redirects and self.path != "/elsewhere":
            self._head(302, {"Location": "/elsewhere", "Content-Length": "0"})
            return
        server.ranges.append(wanted)
        if server.statuses:
            self._head(server.statuses.pop(0), {"Content-Length": "0"})
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and not server.ignores_ranges else 0
        size = len(server.content)
        if start >= size:
            self._head(416, {"Content-Length": "0", "Content-Range": f"bytes */{size}"})
            return
        body = server.content[start:]
        headers = {"Content-Length": str(len(body))} if server.tells_length else {}
        if start:
            shown = 1 if server.wrong_range else start
            server.wrong_range = False
            headers["Content-Range"] = f"bytes {shown}-{size - 1}/{size}"
        self._head(206 if start else 200, headers)
        self.wfile.write(body[: server.cuts.pop(0) if server.cuts else None])

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=200)


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def checkpoint_at(url: str, size: int | None = len(CONTENT)) -> Checkpoint:
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    return Checkpoint("toy", "segmenter", "sam-vit-b", "weights.pth", url, sha256, size, "Apache-2.0")


def fetched(server: Server, folder: Path, console: Console, size: int | None = len(CONTENT)) -> Path:
    return fetch(checkpoint_at(server.url, size), folder=folder, console=console, pause_s=0.001)


def assert_whole(path: Path) -> None:
    assert path.read_bytes() == CONTENT
    assert [file.name for file in path.parent.iterdir()] == ["weights.pth"]


def test_a_plain_download(server: Server, tmp_path: Path, console: Console) -> None:
    path = fetched(server, tmp_path / "new" / "folder", console)
    assert_whole(path)
    assert path == tmp_path / "new" / "folder" / "weights.pth"
    assert "licence Apache-2.0" in printed(console)
    assert server.url in printed(console)
    assert "verified" in printed(console)


def test_a_present_file_is_verified_and_not_fetched(server: Server, tmp_path: Path, console: Console) -> None:
    (tmp_path / "weights.pth").write_bytes(CONTENT)
    assert_whole(fetched(server, tmp_path, console))
    assert server.paths == []
    assert "already there, verified" in printed(console)


def test_a_present_file_that_is_another_is_refused_and_left(server: Server, tmp_path: Path, console: Console) -> None:
    (tmp_path / "weights.pth").write_bytes(b"my own weights")
    with pytest.raises(BundleError, match="is not the published weights.pth"):
        fetched(server, tmp_path, console)
    assert (tmp_path / "weights.pth").read_bytes() == b"my own weights"
    assert server.paths == []


def test_cut_connections_are_resumed(server: Server, tmp_path: Path, console: Console) -> None:
    server.cuts = [1_500_000, 300_000, 0, 100_000]
    assert_whole(fetched(server, tmp_path, console))
    starts = [int(wanted.removeprefix("bytes=").removesuffix("-")) for wanted in server.ranges[1:] if wanted]
    assert server.ranges[0] is None
    assert len(starts) == 4
    assert starts == sorted(starts)
    assert starts[0] > 0


def test_a_later_run_goes_on_where_an_earlier_one_stopped(server: Server, tmp_path: Path, console: Console) -> None:
    server.statuses = [503] * module.ATTEMPTS
    (tmp_path / "weights.pth.part").write_bytes(CONTENT[:1_000_000])
    with pytest.raises(BundleError, match="the same command goes on from there"):
        fetched(server, tmp_path, console)
    assert (tmp_path / "weights.pth.part").read_bytes() == CONTENT[:1_000_000]
    assert not (tmp_path / "weights.pth").exists()
    assert_whole(fetched(server, tmp_path, console))
    assert server.ranges == ["bytes=1000000-"] * (module.ATTEMPTS + 1)


def test_a_server_that_ignores_ranges_starts_from_zero(server: Server, tmp_path: Path, console: Console) -> None:
    server.ignores_ranges = True
    (tmp_path / "weights.pth.part").write_bytes(CONTENT[:1_000_000])
    assert_whole(fetched(server, tmp_path, console))
    assert server.ranges == ["bytes=1000000-"]


def test_a_server_that_answers_another_range(server: Server, tmp_path: Path, console: Console) -> None:
    server.wrong_range = True
    (tmp_path / "weights.pth.part").write_bytes(CONTENT[:1_000_000])
    assert_whole(fetched(server, tmp_path, console))
    assert server.ranges == ["bytes=1000000-", None]


@pytest.mark.parametrize("piece", [b"of another file", CONTENT + b"and more", b"x" * len(CONTENT)])
def test_a_spoilt_piece_is_dropped_and_fetched_anew(
    piece: bytes, server: Server, tmp_path: Path, console: Console
) -> None:
    (tmp_path / "weights.pth.part").write_bytes(piece)
    assert_whole(fetched(server, tmp_path, console))
    assert server.ranges[-1] is None


def test_a_complete_piece_is_put_in_place(server: Server, tmp_path: Path, console: Console) -> None:
    (tmp_path / "weights.pth.part").write_bytes(CONTENT)
    assert_whole(fetched(server, tmp_path, console))


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_wrong_bytes_are_refused_and_removed(
    size: int | None, server: Server, tmp_path: Path, console: Console
) -> None:
    server.content = CONTENT[:-1] + b"!"
    with pytest.raises(BundleError, match=r"is not the published weights\.pth.*The file was removed"):
        fetched(server, tmp_path, console, size)
    assert list(tmp_path.iterdir()) == []


def test_another_size_is_refused_before_it_is_fetched(server: Server, tmp_path: Path, console: Console) -> None:
    server.content = CONTENT + b"!"
    with pytest.raises(BundleError, match="offers 2,097,153 bytes; the published weights.pth has 2,097,152"):
        fetched(server, tmp_path, console)
    assert not (tmp_path / "weights.pth").exists()


def test_a_cut_body_without_a_length_is_resumed(server: Server, tmp_path: Path, console: Console) -> None:
    server.tells_length = False  # then only the Content-Range, or the registry, tells that something is missing
    server.cuts = [1_500_000, 100_000]
    assert_whole(fetched(server, tmp_path, console))
    assert server.ranges == [None, "bytes=1500000-", "bytes=1600000-"]


def test_a_body_without_a_length(server: Server, tmp_path: Path, console: Console) -> None:
    server.tells_length = False
    assert_whole(fetched(server, tmp_path, console))
    server.content = CONTENT * 2
    with pytest.raises(BundleError, match="serves more than the published"):
        fetched(server, tmp_path / "other", console)
    assert not (tmp_path / "other" / "weights.pth").exists()


def test_a_refusal_of_the_server_is_not_repeated(server: Server, tmp_path: Path, console: Console) -> None:
    server.statuses = [404]
    with pytest.raises(BundleError, match="answered 404"):
        fetched(server, tmp_path, console)
    assert len(server.paths) == 1


def test_busy_servers_are_asked_again(server: Server, tmp_path: Path, console: Console) -> None:
    server.statuses = [503, 429, 500]
    assert_whole(fetched(server, tmp_path, console))


def test_redirects_are_followed(server: Server, tmp_path: Path, console: Console) -> None:
    server.redirects = True
    assert_whole(fetched(server, tmp_path, console))
    assert server.paths == ["/weights.pth", "/elsewhere"]


def test_proxies_of_the_environment_are_used(
    server: Server, tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", server.url.removesuffix("/weights.pth"))
    checkpoint = checkpoint_at("http://weights.invalid/weights.pth")
    assert_whole(fetch(checkpoint, folder=tmp_path, console=console, pause_s=0.001))
    assert server.paths == ["http://weights.invalid/weights.pth"]


def test_nobody_answers(tmp_path: Path, console: Console) -> None:
    idle = Server()
    idle.server_close()  # its port is closed now
    with pytest.raises(BundleError, match="could not be fetched"):
        fetched(idle, tmp_path, console)


def test_disk_space_is_checked_first(
    server: Server, tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = len(CONTENT) + module.MARGIN
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": free - 1}))
    with pytest.raises(BundleError, match=r"Not enough disk space for weights\.pth"):
        fetched(server, tmp_path, console)
    assert (tmp_path / "weights.pth.part").stat().st_size == 0
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": free}))
    assert_whole(fetched(server, tmp_path, console))


def test_a_folder_that_cannot_be_written(server: Server, tmp_path: Path, console: Console) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BundleError, match="cannot be written"):
        fetched(server, tmp_path / "file" / "folder", console)


def test_two_downloads_of_one_file(server: Server, tmp_path: Path, console: Console) -> None:
    fcntl = pytest.importorskip("fcntl")
    with (tmp_path / "weights.pth.part").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(BundleError, match=r"Another process is fetching weights\.pth now"):
            fetched(server, tmp_path, console)
    assert_whole(fetched(server, tmp_path, console))


def test_the_command_fetches_each_part_to_where_it_will_be_looked_for(
    server: Server, tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEXT2MASK_CHECKPOINTS", str(tmp_path / "own"))
    monkeypatch.setattr(module, "names", lambda: ["tiny", "toy"])
    monkeypatch.setitem(CHECKPOINTS, "toy", checkpoint_at(server.url))
    assert download("tiny+toy", console=console) == [folders()[0] / "weights.pth"] == [tmp_path / "own" / "weights.pth"]
    assert "tiny: comes with text2mask, nothing to fetch" in printed(console)
    assert download("toy", console=console) == [tmp_path / "own" / "weights.pth"]
    assert len(server.paths) == 1


def test_unknown_names_are_refused_before_anything_is_fetched(server: Server, console: Console) -> None:
    with pytest.raises(BundleError, match="'vit-b' is not a known model; did you mean 'vit_b'"):
        download("swint+vit-b", console=console)
    assert server.paths == []
