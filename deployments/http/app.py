"""The routes, in one FastAPI application."""

from __future__ import annotations

import asyncio
import re
import time
from base64 import b64decode
from collections.abc import Iterable
from dataclasses import replace
from typing import Any
from uuid import uuid4

from fastapi import FastAPI, Request
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from deployments.http import errors, openapi
from deployments.http.body import media_type, parse_form, parse_json, read_body
from deployments.http.deadline import deadline_of
from deployments.http.errors import ApiError
from deployments.http.schemas import SegmentFields, from_form, from_json, plain_prompt
from deployments.ingress import Ingress, Order
from pipeline import __version__
from pipeline.prompt import parse_classes
from pipeline.selection import SelectionOptions
from pipeline.stages import DecodeOptions, DetectRequest, TextClass

FIELDS_BYTES = 2**20  # room for all fields but the image
CLIENT_CLOSED_REQUEST = 499  # nobody reads it; the logs do
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def build(ingress: Ingress, *, max_timeout_s: float) -> FastAPI:
    """The application that answers for `ingress`. `max_timeout_s` bounds every request, from its first byte read."""
    # No /docs yet: FastAPI's page would load its scripts from another host.
    app = FastAPI(title="text2mask", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    errors.install(app)

    async def segment(request: Request) -> Response:
        try:
            deadline = deadline_of(request.headers, time.time(), max_timeout_s)
            async with asyncio.timeout(deadline - time.time()):
                image, fields = await read_segment(request, ingress.limits.max_bytes)
            model = ingress.model(fields.model)
            result = await ingress.segment(image, order_of(fields), model, deadline)
            form = "rle" if fields.masks == "none" else fields.masks
            return await in_pieces(replace(result, id=request_id(request)).json_pieces(form), deadline)
        except ClientDisconnect:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        except Exception as error:
            return errors.answer_to(error)

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
    app.add_api_route("/v1/models", models, methods=["GET"], summary="The models on offer.")
    app.add_api_route("/healthz", healthz, methods=["GET"], summary="This process answers.")
    app.add_api_route("/readyz", readyz, methods=["GET"], summary="Every stage is up and warm.")
    openapi.install(app)
    return app


async def read_segment(request: Request, max_bytes: int) -> tuple[bytes, SegmentFields]:
    """The encoded image and the other fields of a request, as JSON or as a form. `max_bytes` is of the image."""
    kind = media_type(request)
    if kind == "application/json":
        parsed = from_json(parse_json(await read_body(request, base64_length(max_bytes) + FIELDS_BYTES)))
        return decode_base64(parsed.image.value, max_bytes), parsed
    if kind == "multipart/form-data":
        parts = parse_form(request.headers["content-type"], await read_body(request, max_bytes + FIELDS_BYTES))
        image = parts.pop("image", None)
        if not isinstance(image, bytes):
            raise ApiError("invalid_value", "must be a file part of the form", "image")
        fields: dict[str, str] = {}
        for name, value in parts.items():
            if isinstance(value, bytes):
                raise ApiError("invalid_value", "only `image` may be a file part")
            fields[name] = value
        return image, from_form(fields)
    raise ApiError("unsupported_media_type", "send application/json or multipart/form-data")


def base64_length(size: int) -> int:
    """Characters that `size` bytes take in base64."""
    return 4 * ((size + 2) // 3)


def decode_base64(text: str, max_bytes: int) -> bytes:
    """The bytes behind `text`, measured before they are made."""
    if len(text) > base64_length(max_bytes):
        raise ApiError("image_too_large", f"the image may have at most {max_bytes} bytes", "image")
    try:
        return b64decode(text, validate=True)
    except ValueError:  # also text that is not ASCII
        raise ApiError("invalid_value", "must be standard base64", "image.value") from None


def order_of(fields: SegmentFields) -> Order:
    """What the stages are asked for. Raises StageError for a prompt without a class."""
    negatives: tuple[TextClass, ...] = ()
    if fields.negative_prompt is not None:
        negatives = parse_classes(plain_prompt(fields.negative_prompt), fields.mode, param="negative_prompt")
    return Order(
        detect=DetectRequest(
            classes=parse_classes(plain_prompt(fields.prompt), fields.mode),
            negatives=negatives,
            box_threshold=fields.box_threshold,
            text_threshold=fields.text_threshold,
        ),
        selection=SelectionOptions(
            nms=fields.nms,
            nms_threshold=fields.nms_threshold,
            negative_iou=fields.negative_iou,
            min_area=fields.min_area,
            max_area=fields.max_area,
            max_detections=fields.max_detections,
        ),
        decode=None if fields.masks == "none" else DecodeOptions(multimask=fields.multimask),
    )


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


def request_id(request: Request) -> str:
    """The caller's `x-request-id` where it is harmless, else a new one. Serve's proxy puts it into the headers."""
    given: Any = request.headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else str(uuid4())
