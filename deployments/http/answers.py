"""How a route answers: what it returns, or what it raises, as a response."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterable

from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from deployments.http import errors

CLIENT_CLOSED_REQUEST = 499  # nobody reads it; the logs do
_WEIGHT = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?")


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


def headers_under(policy: str) -> dict[str, str]:
    """Of a file that a browser shows, under a content security policy."""
    return {"content-security-policy": policy, "x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}


def wants_picture(request: Request) -> bool:
    """Whether `Accept` names `image/png` and does not want JSON as much (RFC 9110, 12.5.1)."""
    weights = {"image/png": 0.0, "application/json": 0.0}
    for item in ",".join(request.headers.getlist("accept")).split(","):
        kind, *parameters = (part.strip().lower() for part in item.split(";"))
        if kind in weights:
            given = next(
                (one.partition("=")[2].strip() for one in parameters if one.partition("=")[0].strip() == "q"), "1"
            )
            weights[kind] = float(given) if _WEIGHT.fullmatch(given) else 0.0
    return weights["image/png"] > weights["application/json"]
