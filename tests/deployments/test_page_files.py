"""What is served at `/` and under `/static/page/`, without a browser."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from deployments.http.page import PREFIX
from pipeline.palette import COLOURS, class_colour
from tests.deployments.service import Service, refusal

FOLDER = Path(__file__).parents[2] / "deployments" / "web"
NAMES = sorted(path.name for path in FOLDER.iterdir())
SERVICE = Service()


def served(name: str, method: str = "GET", **options: str) -> httpx.Response:
    return SERVICE.request(method, "/" if name == "index.html" else PREFIX + name, headers=options)


@pytest.mark.parametrize("name", NAMES)
def test_every_file_is_served_under_a_policy_without_inline_code(name: str) -> None:
    response = served(name)
    assert response.status_code == 200
    assert response.content == (FOLDER / name).read_bytes()
    policy = response.headers["content-security-policy"].split("; ")
    assert {"default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'"} <= set(policy)
    assert "unsafe" not in response.headers["content-security-policy"]
    assert response.headers["x-content-type-options"] == "nosniff"
    head = served(name, "HEAD")
    assert (head.status_code, head.content) == (200, b"")
    assert all(head.headers[name] == response.headers[name] for name in ("etag", "content-type", "content-length"))
    again = served(name, **{"if-none-match": response.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_other_names_are_not_found() -> None:
    for name in ("index.html", "../http/page.py", "app.py", ""):
        refusal(SERVICE.request("GET", PREFIX + name), 404, "not_found")


def test_addresses_are_relative_and_lead_to_files() -> None:
    text = (FOLDER / "index.html").read_text()
    found = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert {*found} - {"./docs"} == {f".{PREFIX}{name}" for name in ("app.js", "icon.svg", "style.css")}
    assert re.search(r"<style|style=|\son\w+=|<script(?![^>]*src=)", text) is None
    for path in FOLDER.glob("*.js"):
        script = path.read_text()
        assert {*re.findall(r'from "\./([^"]*)"', script)} <= {*NAMES}
        assert re.search(r"https?://|innerHTML|insertAdjacentHTML|\beval\(", script) is None, path


def test_colours_are_those_of_the_overlay() -> None:
    found = re.findall(r'"([0-9a-f]{6})"', (FOLDER / "palette.js").read_text())
    assert [tuple(bytes.fromhex(colour)) for colour in found] == [class_colour(number) for number in range(COLOURS)]
