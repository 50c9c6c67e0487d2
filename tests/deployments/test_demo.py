"""The demo against the running service, and where its port is taken."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deployments import demo
from pipeline.result import Result


def test_a_taken_port_is_said_and_nothing_starts(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert demo.main(port=taken.getsockname()[1]) == 1
    assert "cannot listen on" in capsys.readouterr().out


@pytest.mark.slow
def test_it_shows_and_writes_what_was_found(service: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = demo.PICTURE.read_bytes()
    answer = demo.ask(f"{service}/v1/segment", picture, demo.PROMPT)
    demo.show(answer, demo.PROMPT)
    demo.write(answer, picture, tmp_path / "demo")
    result = Result.from_json(json.loads((tmp_path / "demo" / "result.json").read_text()))
    assert len(result) > 0
    shown = capsys.readouterr().out
    assert all(label in shown for label in result.labels)
    with Image.open(tmp_path / "demo" / "overlay.png") as overlay, Image.open(demo.PICTURE) as original:
        assert overlay.size == original.size
        assert np.asarray(overlay).tobytes() != np.asarray(original.convert("RGB")).tobytes()
