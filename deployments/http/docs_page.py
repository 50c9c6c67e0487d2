"""`/docs`: Swagger UI out of an installed package, under a policy that lets the page reach nothing but this service."""

from __future__ import annotations

from importlib.resources import files

from fastapi import FastAPI
from starlette.responses import HTMLResponse, Response

from deployments.http.answers import headers_under

PREFIX = "/static/docs/"

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = headers_under(_POLICY)

_PAGE = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>text2mask API</title>
<link rel="stylesheet" href=".{PREFIX}swagger-ui.css">
</head>
<body>
<div id="ui"></div>
<script src=".{PREFIX}swagger-ui-bundle.js"></script>
<script src=".{PREFIX}start.js"></script>
</body>
</html>
"""
# A file of its own: the policy allows no script within the page. A key that is typed in stays in the tab.
_START = """SwaggerUIBundle({url: "./openapi.json", dom_id: "#ui", deepLinking: true, validatorUrl: null});
"""
_TYPES = {"css": "text/css", "js": "text/javascript"}


def install(app: FastAPI) -> None:
    """Add the page and its three files."""
    package = files("fastapi_offline") / "static"
    content = {name: (package / name).read_bytes() for name in ("swagger-ui.css", "swagger-ui-bundle.js")}
    content["start.js"] = _START.encode()

    async def page() -> Response:
        return HTMLResponse(_PAGE, headers=_HEADERS)

    def serve(name: str) -> None:
        async def file() -> Response:
            headers = {**_HEADERS, "cache-control": "public, max-age=3600"}
            return Response(content[name], media_type=_TYPES[name.rpartition(".")[2]], headers=headers)

        app.add_api_route(PREFIX + name, file, methods=["GET", "HEAD"], include_in_schema=False)

    app.add_api_route("/docs", page, methods=["GET", "HEAD"], include_in_schema=False)
    for name in content:
        serve(name)
