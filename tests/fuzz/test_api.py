"""Requests made up from the OpenAPI document, against the application over fake stages."""

from __future__ import annotations

import pytest
import schemathesis
from fastapi import FastAPI
from starlette.responses import JSONResponse, Response

from tests.deployments.service import Service
from tests.fuzz.api import Found, explore

EXAMPLES = 150
POSTS = ("POST /v1/segment", "POST /v1/detect", "POST /v1/masks")


@pytest.fixture(scope="module")
def found() -> Found:
    return explore(schemathesis.openapi.from_asgi("/openapi.json", Service().app), EXAMPLES)


@pytest.mark.slow
def test_every_answer_is_as_the_document_says(found: Found) -> None:
    assert list(found.failures.values()) == []


@pytest.mark.slow
@pytest.mark.parametrize("operation", POSTS)
def test_what_lies_behind_the_checks_is_reached(found: Found, operation: str) -> None:
    assert found.answers[operation, 200] > EXAMPLES / 4
    assert found.answers[operation, 422] > EXAMPLES / 4


def test_an_answer_that_is_not_in_the_document_is_found() -> None:
    app = FastAPI()

    @app.get("/")
    async def fails() -> Response:
        return JSONResponse({}, 500)

    @app.get("/other", response_model=int)
    async def answers_otherwise() -> Response:
        return JSONResponse("no number")

    found = explore(schemathesis.openapi.from_asgi("/openapi.json", app), 3)
    assert {title.partition(":")[0] for title in found.failures} == {"GET /", "GET /other"}
