"""`text2mask predict --server`: what a service answers comes out as what this process would."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import StageError
from pipeline.result import Result
from tests.deployments.cli.conftest import DEMO, Run

PROMPT = "star, red circle"
EVERY = [word for form in ("json", "jsonl", "coco", "overlay", "masks") for word in ("--format", form)]

pytestmark = pytest.mark.usefixtures("tree")


def typed(text: str) -> Any:
    """A number, truth or object in a field of a form; else its text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


@pytest.fixture(scope="session")
def same_models(model: Any) -> Iterator[str]:
    """The address of a server that asks the models of this process: so that answers can be compared byte by byte."""
    models = Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(200, {"models": [{"name": "tiny+tiny", "aliases": ["tiny"]}]})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            form = BytesParser().parsebytes(f"content-type: {self.headers['content-type']}\r\n\r\n".encode() + body)
            parts = {str(part.get_param("name", header="content-disposition")): part for part in form.walk()}
            values: dict[str, Any] = {
                name: part.get_payload(decode=True) for name, part in parts.items() if name != "None"
            }
            image, prompt = values.pop("image"), values.pop("prompt").decode()
            fields = {name: typed(value.decode()) for name, value in values.items()}
            try:
                if fields.pop("model", "tiny") != "tiny":
                    raise StageError("unknown_model", "this model is not served here", "model")  # type: ignore[arg-type]
                masks = fields.pop("masks")
                with models:
                    answer = model.predict(image, prompt, **fields, masks=masks != "none").to_json(masks)
            except StageError as error:
                content = {"code": error.code, "message": error.message, "param": error.param}
                self._answer(404 if error.param == "model" else 422, {"error": content})
            else:
                answer["image"]["id"] = "0f"
                self._answer(200, {"id": "a request", **answer})

        def _answer(self, status: int, content: object) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """Nothing: a client that has left is none, and a complaint would land in the command's own."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def unnamed(data: bytes) -> bytes:
    """Without what two runs differ in: id of request and image, and timings."""
    data = re.sub(rb'"id":"a request",', b"", data)
    data = re.sub(rb'"image":{"id":"0f",', b'"image":{', data)
    return re.sub(rb'"timings_ms":{[^}]*}', b"", data)


def contents(folder: str) -> dict[str, bytes]:
    paths = (path for path in Path(folder).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): unnamed(path.read_bytes()) for path in paths}


def test_files_are_those_of_this_process(run: Run, same_models: str) -> None:
    command = ("predict", "a", "b", "c.png", PROMPT, *EVERY)
    here = run(*command, "--out", "here", code=1)
    there = run(*command, "--out", "there", "--server", same_models, "--concurrency", 3, code=1)
    assert len(contents("here")) == 18
    assert contents("there") == contents("here")
    assert there.stderr.splitlines()[0] == here.stderr.splitlines()[0]


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--masks", "none"],
        ["--masks", "polygon", "--multimask", "--tile", "500:100", "--nms", "off", "--nms-threshold", "0.9"],
        ["--negative-prompt", "ring", "--negative-iou", "0.4", "--mode", "phrase", "--box-threshold", "0.1"],
        ["--raw", "--max-detections", "4", "--min-area", "0.001", "--max-area", "0.9"],
        ["--text-threshold", "0.5", "--model", "tiny"],
    ],
)
def test_answers_are_those_of_this_process(run: Run, same_models: str, options: list[str]) -> None:
    command = ("predict", "c.png", PROMPT, *options)
    here, there = run(*command), run(*command, "--server", same_models)
    assert b'"id":"a request"' in there.stdout_bytes
    assert unnamed(there.stdout_bytes) == unnamed(here.stdout_bytes)


def test_a_picture_that_cannot_be_read_keeps_its_place(run: Run, same_models: str) -> None:
    Path("list").write_text("gone.png\nc.png\nalso.png\nb/broken.png\na/x.png\nlast.png\n")
    words = ("predict", "--from-list", "list", PROMPT, "--masks", "none", "--quiet")
    here, there = run(*words, code=1), run(*words, "--server", same_models, code=1)
    assert [json.loads(line)["file"] for line in there.stdout.splitlines()] == Path("list").read_text().split()
    assert unnamed(there.stdout_bytes) == unnamed(here.stdout_bytes)
    assert there.stderr == here.stderr


def test_what_would_meet_every_picture_ends_the_command(complaint: Callable[..., str], same_models: str) -> None:
    there = ("predict", "a", "c.png", "--server", same_models, "--quiet")
    said = complaint(*there, "star", "--model", "tinny", code=1)
    assert "no model 'tinny'; did you mean 'tiny'? it has tiny+tiny, tiny" in said
    assert "exceeds the model's 48 tokens" in complaint(*there, "word " * 60, code=1)


@pytest.mark.slow
def test_the_service_answers_as_this_process_does(run: Run, service: str) -> None:
    """Another process, other batches and threads: numbers are within tolerances, all else is equal."""
    command = ("predict", "a", "b", "c.png", PROMPT, *EVERY)
    here = run(*command, "--out", "here", code=1)
    there = run(*command, "--out", "there", "--server", service, code=1)
    assert there.stderr.splitlines()[0] == here.stderr.splitlines()[0]
    assert {*contents("there")} == {*contents("here")}
    for name in ("a/x.png", "b/x.png", "c.png"):
        mine, theirs = (
            Result.from_json(json.loads(Path(f"{folder}/{name}.json").read_text())) for folder in ("here", "there")
        )
        assert (theirs.labels, theirs.image_size, theirs.model) == (mine.labels, mine.image_size, mine.model)
        np.testing.assert_allclose(theirs.scores, mine.scores, atol=1e-3)
        np.testing.assert_allclose(theirs.boxes, mine.boxes, atol=0.05)
        for png in Path(f"here/{name}.masks").iterdir():
            with Image.open(png) as one, Image.open(f"there/{name}.masks/{png.name}") as other:
                differing = np.count_nonzero(np.asarray(one) != np.asarray(other))
                assert differing <= max(2, 0.001 * np.count_nonzero(np.asarray(one)))
    rows = json.loads(run("models", "--server", service, "--json").stdout)
    assert rows[0]["name"] == "tiny+tiny"
    assert "tiny+tiny" in run("models", "--server", service).stdout
    assert DEMO.is_file()
