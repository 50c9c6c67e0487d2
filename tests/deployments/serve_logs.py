"""What the session's service wrote down: its log lines and its spans."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def folder() -> Path:
    """Where Serve writes its logs; the service must run."""
    import ray

    node: Any = ray._private.worker._global_node
    return Path(node.get_logs_dir_path()) / "serve"


def lines(of: str, id_: str) -> list[dict[str, Any]]:
    """Lines about a request, of the files whose name begins so. All lines must be JSON."""
    found = []
    for path in folder().glob(f"{of}*.log"):
        found += [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if id_ in line]
    return found


def spans(trace_id: str) -> list[dict[str, Any]]:
    """The spans of a trace, as far as they are written."""
    found = [span for path in (folder() / "spans").glob("*_tracing.json") for span in _documents(path)]
    return [span for span in found if span["context"]["trace_id"] == f"0x{trace_id}"]


def _documents(path: Path) -> Iterator[dict[str, Any]]:
    text, decoder = path.read_text(encoding="utf-8").strip(), json.JSONDecoder()
    while text:
        try:
            document, end = decoder.raw_decode(text)
        except ValueError:  # it is being written
            return
        yield document
        text = text[end:].lstrip()


def eventually(look: Callable[[], T], within_s: float = 30) -> T:
    """What `look` gives once it is true. The service writes after it has answered."""
    until = time.monotonic() + within_s
    while not (found := look()):
        assert time.monotonic() < until, f"{look} is still {found!r}"
        time.sleep(0.05)
    return found
