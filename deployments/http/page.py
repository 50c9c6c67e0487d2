"""The page at `/`: files of this package, under a policy that lets it run nothing but them and reach nothing but us."""

from __future__ import annotations

from hashlib import sha256
from importlib.resources import files

from fastapi import FastAPI, Request
from starlette.responses import Response

from deployments.http.answers import headers_under

PREFIX = "/static/page/"

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = headers_under(_POLICY)
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "png": "image/png", "svg": "image/svg+xml"}


def install(app: FastAPI) -> None:
    """Add the page and its files. Addresses within it are relative, so it works under any prefix."""
    folder = files("deployments") / "web"
    content = {one.name: one.read_bytes() for one in folder.iterdir() if one.name.rpartition(".")[2] in _TYPES}

    def serve(path: str, name: str) -> None:
        body, media_type = content[name], _TYPES[name.rpartition(".")[2]]
        # Asked for each time and seldom sent: modules of two versions of the page must never meet in a browser.
        tag = f'"{sha256(body).hexdigest()[:32]}"'
        headers = {**_HEADERS, "cache-control": "no-cache", "etag": tag}

        async def file(request: Request) -> Response:
            if request.headers.get("if-none-match") == tag:
                return Response(status_code=304, headers=headers)
            return Response(body, media_type=media_type, headers=headers)

        app.add_api_route(path, file, methods=["GET", "HEAD"], include_in_schema=False)

    serve("/", "index.html")
    for name in content.keys() - {"index.html"}:
        serve(PREFIX + name, name)
