"""The routes, in one FastAPI application."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from typing import Any
from uuid import uuid4

from fastapi import FastAPI, Request
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from deployments.auth_settings import AuthSettings
from deployments.fetch import Fetcher
from deployments.fetch_settings import FetchSettings
from deployments.http import errors, openapi
from deployments.http.auth import Authenticate
from deployments.http.deadline import deadline_of
from deployments.http.errors import ApiError
from deployments.http.fields import F
from deployments.http.mask_schemas import MasksForm, MasksRequest
from deployments.http.orders import mask_order_of, order_of
from deployments.http.rate_limit import RateLimit
from deployments.http.reading import read_request
from deployments.http.schemas import SegmentForm, SegmentRequest
from deployments.image_ids import ImageId
from deployments.ingress import Ingress
from pipeline import __version__

CLIENT_CLOSED_REQUEST = 499  # nobody reads it; the logs do
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def build(
    ingress: Ingress, *, max_timeout_s: float, auth: AuthSettings | None = None, fetcher: Fetcher | None = None
) -> FastAPI:
    """The application that answers for `ingress`. `max_timeout_s` bounds every request, from its first byte read.

    Without `auth`, as with its mode `none`, nobody is asked for a key. Without `fetcher`, images by URL are off.
    """
    images = fetcher or Fetcher(FetchSettings())
    # No /docs yet: FastAPI's page would load its scripts from another host.
    app = FastAPI(title="text2mask", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    errors.install(app)

    async def read(request: Request, deadline: float, body: type[F], form: type[F]) -> tuple[bytes | ImageId, F]:
        async with asyncio.timeout(deadline - time.time()):
            return await read_request(request, ingress.limits.max_bytes, body, form, images, deadline)

    @answering
    async def segment(request: Request) -> Response:
        deadline = deadline_of(request.headers, time.time(), max_timeout_s)
        image, fields = await read(request, deadline, SegmentRequest, SegmentForm)
        result = await ingress.segment(image, order_of(fields), ingress.model(fields.model), deadline, tenant(request))
        form = "rle" if fields.masks == "none" else fields.masks
        return await in_pieces(replace(result, id=request_id(request)).json_pieces(form), deadline)

    @answering
    async def masks(request: Request) -> Response:
        deadline = deadline_of(request.headers, time.time(), max_timeout_s)
        image, fields = await read(request, deadline, MasksRequest, MasksForm)
        result = await ingress.masks(
            image, mask_order_of(fields), ingress.model(fields.model), deadline, tenant(request)
        )
        return await in_pieces(replace(result, id=request_id(request)).json_pieces(fields.masks), deadline)

    async def healthz() -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz() -> Response:
        if await ingress.is_ready():
            return JSONResponse({"status": "ready"})
        return errors.error_response(ApiError("not_ready"))

    async def models() -> Response:
        cards = [
            {"name": model.name, "aliases": list(model.aliases), "default": number == 0, **(model.card or {})}
            for number, model in enumerate(ingress.models)
        ]
        return JSONResponse({"models": cards})

    app.add_api_route(
        "/v1/segment",
        segment,
        methods=["POST"],
        openapi_extra=openapi.SEGMENT,
        responses=openapi.ANSWERS,
        summary="One mask, box, label and score for each instance that the text names.",
    )
    app.add_api_route(
        "/v1/masks",
        masks,
        methods=["POST"],
        openapi_extra=openapi.MASKS,
        responses=openapi.MASKS_ANSWERS,
        summary="One mask for each box, or set of points, that shows an instance.",
    )
    app.add_api_route("/v1/models", models, methods=["GET"], summary="The models on offer.")
    app.add_api_route("/healthz", healthz, methods=["GET"], summary="This process answers.")
    app.add_api_route("/readyz", readyz, methods=["GET"], summary="Every stage is up and warm.")
    openapi.install(app)
    # The layer that is added last is the outermost.
    if auth is not None and auth.mode != "none":
        app.add_middleware(RateLimit, per_minute=auth.limits())
        app.add_middleware(Authenticate, entries=auth.keys)
    return app


def answering(route: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """`route`, with what it raises as an answer."""

    async def answer(request: Request) -> Response:
        try:
            return await route(request)
        except ClientDisconnect:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        except Exception as error:
            return errors.answer_to(error)

    return answer


async def in_pieces(pieces: Iterable[str], deadline: float) -> Response:
    """The JSON answer that `pieces` add up to. They are made in a thread: polygons and PNGs of many masks take seconds.

    Raises:
        TimeoutError: the deadline; no further piece is made then.
    """

    def join() -> bytes:
        made = []
        for piece in pieces:
            if time.time() >= deadline:
                raise TimeoutError
            made.append(piece.encode())
        return b"".join(made)

    async with asyncio.timeout(deadline - time.time()):
        return Response(await asyncio.to_thread(join), media_type="application/json")


def tenant(request: Request) -> str:
    """Whose key came with the request; empty where no keys are asked for."""
    return str(request.scope.get("state", {}).get("tenant", ""))


def request_id(request: Request) -> str:
    """The caller's `x-request-id` where it is harmless, else a new one. Serve's proxy puts it into the headers."""
    given: Any = request.headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else str(uuid4())
