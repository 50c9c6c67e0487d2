"""The code blocks of README.md and docs/ do what they say.

Every fenced block carries a decision, in a comment on the line before it:

    <!-- run -->              run it (what a python block gets without a comment)
    <!-- run: serve -->       run it against a service that this test starts; its address replaces 127.0.0.1:8000
    <!-- not-run: reason -->  do not run it, for that reason

A `json` block must parse; a `text` block is output and needs no decision. An undecided block fails. The blocks of a
page run in one folder that looks like the repository; what they write stays there.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from deployments.launch import free_port

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^(?:<!-- *(?P<decision>.*?) *-->\n+)?```(?P<language>.*)\n(?P<code>(?:.*\n)*?)```$", re.MULTILINE)
DOCUMENTED = "http://127.0.0.1:8000"
BLOCK_TIMEOUT_S = 300
START_TIMEOUT_S = 180


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    code: str
    decision: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def action(self) -> str:
        """`run`, `run: serve`, `skip`, `parse`, `output`, or `undecided`."""
        if self.decision is None:
            return {"python": "run", "json": "parse", "text": "output"}.get(self.language, "undecided")
        if re.fullmatch(r"not-run: *\S.*", self.decision):
            return "skip"
        known = self.decision in ("run", "run: serve") and self.language in ("python", "bash")
        return self.decision if known else "undecided"


def blocks_of(text: str, page: str) -> list[Block]:
    return [
        Block(page, text.count("\n", 0, match.start()) + 1, match["language"], match["code"], match["decision"])
        for match in FENCE.finditer(text)
    ]


BLOCKS = [block for page in PAGES for block in blocks_of(page.read_text(encoding="utf-8"), page.name)]


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("```python\n1\n```", "run"),
        ("```bash\nls\n```", "undecided"),
        ("```\nls\n```", "undecided"),
        ("```yaml\na: 1\n```", "undecided"),
        ("```text\nout\n```", "output"),
        ("```json\n{}\n```", "parse"),
        ("<!-- run -->\n```bash\nls\n```", "run"),
        ("<!-- run -->\n```yaml\na: 1\n```", "undecided"),
        ("<!-- run: serve -->\n\n```bash\nls\n```", "run: serve"),
        ("<!-- run: sevre -->\n```bash\nls\n```", "undecided"),
        ("<!-- not-run: needs a cluster -->\n```bash\nls\n```", "skip"),
        ("<!-- not-run: -->\n```bash\nls\n```", "undecided"),
        ("words\n```python\n1\n```\nmore words\n", "run"),
    ],
)
def test_decisions(text: str, action: str) -> None:
    assert [block.action for block in blocks_of(text, "page")] == [action]


def test_no_block_is_overlooked() -> None:
    for page in PAGES:
        fences = re.findall(r"^\s*```", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert len(fences) == 2 * sum(block.page == page.name for block in BLOCKS), f"{page}: indented or open fences"


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_block(block: Block, request: pytest.FixtureRequest, page_folders: dict[str, Path]) -> None:
    match block.action:
        case "undecided":
            pytest.fail(f"{block} carries no decision: see the top of this test")
        case "skip":
            pytest.skip(f"{block}: {block.decision}")
        case "parse":
            json.loads(block.code)
        case "run" | "run: serve":
            code = block.code
            if block.action == "run: serve":
                code = code.replace(DOCUMENTED, request.getfixturevalue("service"))
            if block.language == "python":
                status, output = request.getfixturevalue("warm_python")(code, page_folders[block.page])
            else:
                status, output = bash(code, page_folders[block.page])
            assert status == 0, f"{block} ended with {status}\n{code}\n{output}"


def bash(code: str, folder: Path) -> tuple[int, str]:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=BLOCK_TIMEOUT_S,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.fixture(scope="module")
def warm_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, Path], tuple[int, str]]]:
    """Runs code in a folder, as `python -c` would; its exit status and output."""
    output = tmp_path_factory.mktemp("python") / "output"
    with subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "warm_python.py")],
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        asked, answers = process.stdin, process.stdout

        def run(code: str, folder: Path) -> tuple[int, str]:
            asked.write(json.dumps({"folder": str(folder), "code": code, "output": str(output)}) + "\n")
            asked.flush()
            late = threading.Timer(BLOCK_TIMEOUT_S, os.killpg, (process.pid, signal.SIGKILL))
            late.start()
            answer = answers.readline()
            late.cancel()
            return int(answer or -signal.SIGKILL), output.read_text(encoding="utf-8")

        yield run
        asked.close()  # which ends it


def test_warm_python_is_a_python(warm_python: Callable[[str, Path], tuple[int, str]], tmp_path: Path) -> None:
    assert warm_python("import os; print(os.getcwd(), __name__)", tmp_path) == (0, f"{tmp_path} __main__\n")
    assert warm_python("import sys; sys.exit(3)", tmp_path) == (3, "")
    status, output = warm_python("left = 1\n1 / 0", tmp_path)
    assert (status, output.splitlines()[-1]) == (1, "ZeroDivisionError: division by zero")
    assert warm_python("print('left' in globals())", tmp_path) == (0, "False\n")


def environment() -> dict[str, str]:
    """As in a shell in the repository with its virtual environment on."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def page_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """For each page a folder with links to what lies in the repository, without outputs."""
    folders = {}
    for page in PAGES:
        folders[page.name] = tmp_path_factory.mktemp(page.stem)
        for entry in ROOT.iterdir():
            if entry.name != "out" and not entry.name.startswith("."):
                (folders[page.name] / entry.name).symlink_to(entry)
    return folders


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`text2mask serve` in a process of its own; its address."""
    port = free_port()
    url, log = f"http://127.0.0.1:{port}", tmp_path_factory.mktemp("service") / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "deployments.cli", "serve", "--port", str(port)],
            cwd=ROOT,
            env=environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_until_ready(url, process, log)
        yield url
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx.get(f"{url}/readyz", timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    pytest.fail(f"text2mask serve did not become ready:\n{log.read_text()[-4000:]}")
