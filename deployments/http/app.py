"""The routes, in one FastAPI application."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response

from deployments.admission_settings import AdmissionSettings
from deployments.auth_settings import AuthSettings
from deployments.fetch import Fetcher
from deployments.fetch_settings import FetchSettings
from deployments.http import docs_page, errors, openapi, page
from deployments.http.admission import Admission
from deployments.http.answers import answering, in_pieces, wants_picture
from deployments.http.arrival import Arrival
from deployments.http.auth import Authenticate, tenant_of
from deployments.http.deadline import deadline_of
from deployments.http.errors import ApiError
from deployments.http.facts import facts
from deployments.http.limits import published
from deployments.http.mask_schemas import MasksFields, MasksForm, MasksRequest
from deployments.http.observe import Observe
from deployments.http.orders import mask_order_of, order_of
from deployments.http.rate_limit import RateLimit
from deployments.http.reading import fetch_image, read_request
from deployments.http.request_id import RequestId
from deployments.http.schemas import DetectFields, DetectForm, DetectRequest, SegmentForm, SegmentRequest
from deployments.http.unread import CloseUnread
from deployments.image_ids import ImageId
from deployments.ingress import Ingress, MaskOrder, Order, ServedModel
from pipeline import __version__
from pipeline.mask_result import MaskResult
from pipeline.result import Result

Q = TypeVar("Q", bound=DetectFields | MasksFields)
Asked = TypeVar("Asked", Order, MaskOrder)
Answer = TypeVar("Answer", Result, MaskResult)


def build(
    ingress: Ingress,
    *,
    max_timeout_s: float,
    max_body_s: float | None = None,
    auth: AuthSettings | None = None,
    fetcher: Fetcher | None = None,
    admission: AdmissionSettings | None = None,
    access_log: bool = True,
    behind_serve: bool = False,
) -> FastAPI:
    """The application that answers for `ingress`.

    `max_timeout_s` bounds every request, from its first byte read, and `max_body_s` the arrival of its body. Without
    `auth`, as with its mode `none`, nobody is asked for a key; without `fetcher`, images by URL are off; without
    `admission`, any number of requests is taken on. `behind_serve`, whose proxy echoes the request's id, it is not
    echoed twice.
    """
    images = fetcher or Fetcher(FetchSettings())
    body_s = max_timeout_s if max_body_s is None else max_body_s
    app = FastAPI(
        title="text2mask",
        version=__version__,
        description=openapi.PROMISE,
        docs_url=None,  # FastAPI's own would load its scripts from another host
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},  # Serve's are enough
    )
    errors.install(app)

    async def read(
        request: Request, deadline: float, body: type[Q], form: type[Q], order_from: Callable[[Q], Asked]
    ) -> tuple[Q, tuple[bytes | ImageId, Asked, ServedModel, float, str]]:
        """The fields of a request, and what they ask of the ingress. Where they are refused, nothing is fetched."""
        begin = time.perf_counter()
        async with asyncio.timeout(deadline - time.time()):
            source, fields = await read_request(request, ingress.limits.max_bytes, body, form)
        order, model = order_from(fields), ingress.model(fields.model)
        image = await fetch_image(source, images, deadline)
        facts().read_ms = round(1000 * (time.perf_counter() - begin), 1)
        return fields, (image, order, model, deadline, tenant_of(request.scope))

    @answering
    async def segment(request: Request) -> Response:
        deadline = deadline_of(request.headers, time.time(), max_timeout_s)
        fields, asked = await read(request, deadline, SegmentRequest, SegmentForm, order_of)
        if wants_picture(request):
            drawn, result = await ingress.overlay(*asked)
            noted(result)
            return Response(drawn, media_type="image/png")
        result = noted(await ingress.segment(*asked))
        return await in_pieces(result.json_pieces(fields.masks), deadline)

    @answering
    async def detect(request: Request) -> Response:
        deadline = deadline_of(request.headers, time.time(), max_timeout_s)
        _, asked = await read(request, deadline, DetectRequest, DetectForm, order_of)
        result = noted(await ingress.segment(*asked))
        return await in_pieces(result.json_pieces("none"), deadline)

    @answering
    async def masks(request: Request) -> Response:
        deadline = deadline_of(request.headers, time.time(), max_timeout_s)
        fields, asked = await read(request, deadline, MasksRequest, MasksForm, mask_order_of)
        result = noted(await ingress.masks(*asked))
        return await in_pieces(result.json_pieces(fields.masks), deadline)

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
        responses=openapi.SEGMENT_ANSWERS,
        summary="One mask, box, label and score for each instance that the text names.",
    )
    app.add_api_route(
        "/v1/detect",
        detect,
        methods=["POST"],
        openapi_extra=openapi.DETECT,
        responses=openapi.DETECT_ANSWERS,
        summary="One box, label and score for each instance that the text names.",
    )
    app.add_api_route(
        "/v1/masks",
        masks,
        methods=["POST"],
        openapi_extra=openapi.MASKS,
        responses=openapi.MASKS_ANSWERS,
        summary="One mask for each box, or set of points, that shows an instance.",
    )
    app.add_api_route(
        "/v1/models", models, methods=["GET"], responses=openapi.MODELS_ANSWERS, summary="The models on offer."
    )
    app.add_api_route(
        "/healthz", healthz, methods=["GET"], responses=openapi.HEALTHZ_ANSWERS, summary="This process answers."
    )
    app.add_api_route(
        "/readyz", readyz, methods=["GET"], responses=openapi.READYZ_ANSWERS, summary="Every stage is up and warm."
    )
    for path, probe in (("/healthz", healthz), ("/readyz", readyz)):  # an operation of two methods has no id of its own
        app.add_api_route(path, probe, methods=["HEAD"], include_in_schema=False)
    docs_page.install(app)
    page.install(app)
    limits = published(ingress.limits, max_timeout_s=max_timeout_s, max_body_s=body_s, admission=admission)
    openapi.install(app, limits)
    routes = [getattr(route, "path", "") for route in app.routes]
    # The layer that is added last is the outermost.
    app.add_middleware(Arrival, max_body_s=body_s)
    if admission is not None:
        app.add_middleware(Admission, **admission.model_dump())
    if auth is not None and auth.mode != "none":
        app.add_middleware(RateLimit, per_minute=auth.limits())
        app.add_middleware(Authenticate, entries=auth.keys)
    app.add_middleware(Observe, routes=routes, access=access_log)
    app.add_middleware(RequestId, echoed=behind_serve)
    app.add_middleware(CloseUnread)
    return app


def noted(result: Answer) -> Answer:
    """`result` with the request's id; what the log and the metrics say of it is noted down."""
    known = facts()
    height, width = result.image_size
    known.pixels, known.detections, known.timings_ms = (
        height * width,
        len(result),
        {"read": known.read_ms, **result.timings_ms},
    )
    return replace(result, id=known.id)
