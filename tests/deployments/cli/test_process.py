"""`text2mask` as a process of its own: what it loads, pipes that close, terminals, Ctrl-C."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.result import Result
from tests.deployments.cli.conftest import DEMO
from tests.deployments.client.scripted_server import HOLD, Answers, ScriptedServer, refusal

ROOT = Path(__file__).parents[3]
TEXT2MASK = [sys.executable, "-m", "deployments.cli"]
READY = Answers(body=b'{"status": "ready"}')
LIMIT_S = 120

pytestmark = pytest.mark.usefixtures("tree")


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80"}


@pytest.fixture
def found(model: object) -> Answers:
    """What a service answers for the demo picture."""
    result: Result = model.predict(DEMO, "star")  # type: ignore[attr-defined]
    return Answers(body=json.dumps({"id": "a", **result.to_json()}).encode())


@contextmanager
def serving(*script: Answers | str, forever: Answers | str | None = None) -> Iterator[ScriptedServer]:
    server = ScriptedServer(*script, forever=forever)
    try:
        yield server
    finally:
        server.close()


def on_a_terminal(command: Sequence[str], folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    """The process, whose standard error is a terminal, and the terminal's other side."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*TEXT2MASK, *command],
        cwd=folder,
        env={**environment(), "TERM": "xterm"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.default_int_handler
        ),  # where it is ignored, as after `&`
    )
    os.close(theirs)
    return process, ours


def shown(terminal: int, until: bytes | None = None) -> bytes:
    """What appears on the terminal until a text does, or all."""
    seen = b""
    while until is None or until not in seen:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # Linux's way to say that the other side is closed
            break
        if not piece:
            break
        seen += piece
    return seen


@pytest.mark.parametrize(
    ("words", "unwanted"),
    [
        (["--version"], ["torch", "ray", "fastapi", "httpx"]),
        (["predict", "--help"], ["torch", "ray", "fastapi", "httpx"]),
        (["models"], ["torch", "ray", "fastapi"]),
        (["predict", "c.png", "star", "--server", "URL"], ["torch", "ray", "fastapi"]),
    ],
)
def test_commands_load_what_they_need(words: list[str], unwanted: list[str], found: Answers, tree: Path) -> None:
    code = (
        "import sys\nfrom deployments.cli import main\nsys.argv[0] = 'text2mask'\ntry:\n  main()\n"
        f"except SystemExit as end:\n  print(end.code, *[one for one in {unwanted!r} if one in sys.modules])"
    )
    with serving(READY, forever=found) as server:
        command = [sys.executable, "-c", code, *[word.replace("URL", server.url) for word in words]]
        done = subprocess.run(command, cwd=tree, env=environment(), capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "0", done.stdout + done.stderr


def test_a_reader_who_has_seen_enough_ends_it_quietly(found: Answers, tree: Path) -> None:
    with serving(READY, forever=found) as server:
        command = [*TEXT2MASK, "predict", "a", "c.png", "**/x.png", "star", "--server", server.url]
        process = subprocess.Popen(command, cwd=tree, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.close()
        _, told = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, told) == (1, b"")


def test_ctrl_c_keeps_what_was_done(found: Answers, tree: Path) -> None:
    with serving(READY, found, forever=HOLD) as server:
        words = ["predict", "a", "b", "c.png", "star", "--server", server.url, "--concurrency", "1"]
        forms = ["--format", "jsonl", "--format", "json", "--format", "coco"]
        process, terminal = on_a_terminal([*words, "--out", "out", *forms], tree)
        assert server.held.wait(LIMIT_S)
        process.send_signal(signal.SIGINT)
        told = shown(terminal)
        assert process.wait(LIMIT_S) == 130
    assert b"interrupted; 1 of 4 pictures are done" in told
    assert b"Traceback" not in told
    assert sorted(path.name for path in (tree / "out").iterdir()) == ["a", "answers.jsonl", "instances.json"]
    (line,) = (tree / "out" / "answers.jsonl").read_text().splitlines()
    assert json.loads(line)["file"] == "a/x.png"
    assert len(json.loads((tree / "out" / "instances.json").read_text())["images"]) == 1


def test_refusals_of_a_service(tree: Path) -> None:
    with serving(READY, forever=refusal(401, "unauthenticated", "a valid key is needed")) as server:
        command = [*TEXT2MASK, "predict", "a", "c.png", "star", "--server", server.url]
        key = {"TEXT2MASK_KEY": "t2m_of_the_environment"}
        done = subprocess.run(command, cwd=tree, env={**environment(), **key}, capture_output=True, check=False)
        sent = {request.headers.get("authorization") for request in server.received if request.method == "POST"}
    assert (done.returncode, done.stdout) == (1, b"")
    assert re.fullmatch(rb"text2mask: http://\S+: a valid key is needed \(unauthenticated.*\)\n", done.stderr)
    assert sent == {"Bearer t2m_of_the_environment"}


def test_the_models_themselves_with_progress(tree: Path) -> None:
    process, terminal = on_a_terminal(["predict", "a", "b", "c.png", "star", "--masks", "none"], tree)
    told = shown(terminal)
    answers, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 1
    assert [json.loads(line)["file"] for line in answers.splitlines()] == [
        "a/x.png",
        "b/broken.png",
        "b/x.png",
        "c.png",
    ]
    assert b"4/4" in told
    assert b"/s" in told
    assert b"1 failed" in told
