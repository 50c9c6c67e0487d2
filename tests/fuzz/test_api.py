"""Requests made up from the OpenAPI document, against the application over fake stages."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import schemathesis
from fastapi import FastAPI
from starlette.responses import JSONResponse, Response

from tests.fuzz.api import Found, explore

ROOT = Path(__file__).parents[2]
EXAMPLES = 150
POSTS = ("POST /v1/segment", "POST /v1/detect", "POST /v1/masks")


# In a process of its own: schemathesis draws from the constants of the modules that are loaded, so what it asks would
# depend on the tests before; after some of them it failed by itself.
EXPLORE = f"""
import json
import schemathesis
from tests.deployments.service import Service
from tests.fuzz.api import explore

found = explore(schemathesis.openapi.from_asgi("/openapi.json", Service().app), {EXAMPLES})
print(json.dumps([[[*key, count] for key, count in found.answers.items()], found.failures]))
"""


@pytest.fixture(scope="module")
def found() -> Found:
    done = subprocess.run([sys.executable, "-c", EXPLORE], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answers, failures = json.loads(done.stdout.splitlines()[-1])
    return Found(Counter({(label, status): count for label, status, count in answers}), failures)


@pytest.mark.slow
def test_every_answer_is_as_the_document_says(found: Found) -> None:
    assert list(found.failures.values()) == []


@pytest.mark.slow
@pytest.mark.parametrize("operation", POSTS)
def test_what_lies_behind_the_checks_is_reached(found: Found, operation: str) -> None:
    assert found.answers[operation, 200] > EXAMPLES / 4
    assert found.answers[operation, 422] > EXAMPLES / 4


MEASURE = """
import subprocess, sys
from tests.fuzz.api import replica_mb

assert replica_mb() == 0  # whatever else of Ray runs on this machine
code = "kept = b'x' * 2**26; print(flush=True); input()"
command = ["ray::ServeReplica:test", "-c", code]
pipe = subprocess.PIPE
with subprocess.Popen(command, executable=sys.executable, stdin=pipe, stdout=pipe, text=True) as replica:
    replica.stdout.readline()  # it has taken its memory
    assert 64 <= replica_mb() < 128, replica_mb()
    replica.communicate("\\n")
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_memory_is_that_of_our_own_replicas() -> None:
    """In a process of its own, which has no replicas: that of the tests may have started a service."""
    done = subprocess.run([sys.executable, "-c", MEASURE], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


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
