"""Requests made up from the OpenAPI document, sound ones and broken ones; the answers are held against it.

`python -m tests.fuzz.api` asks a service of its own, started as `text2mask serve` starts it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import sys
import time
import zlib
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import APIOperation, BaseSchema, Case, GenerationMode
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.transport.serialization import Binary

from pipeline.formats.low_res import low_res_json
from tests.deployments.fakes import base64, picture

CHECKED = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)
SIZE = (24, 32)
PICTURE = picture(SIZE)
GROWTH_MB = 512  # of all replicas over a run: what kept a few megabytes of every answered request would show
LOW_RES_SIDE = 192  # of the embedded segmenter


@dataclass
class Found:
    """How many answers there were of each operation and status, and what does not conform, with how to repeat it."""

    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)


def explore(schema: BaseSchema, examples: int) -> Found:
    """Ask every operation of `schema`, `examples` times with sound and as often with broken requests."""
    load_all_checks()
    found = Found()
    for one in schema.get_all_operations():
        operation = one.ok()  # type: ignore[union-attr]  # the other one has no operation: a schema that is none
        for mode in GenerationMode:
            _ask(operation, mode, examples, found)
    return found


def _ask(operation: APIOperation[Any, Any, Any, Any], mode: GenerationMode, examples: int, found: Found) -> None:
    checks: Any = CHECKS.get_by_names(CHECKED)
    broken: Any = CHECKS.get_by_names([*CHECKED, "negative_data_rejection"])

    @settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode))
    def ask(case: Case[Any]) -> None:
        _make_likely(case, mode)
        response = case.call()
        found.answers[operation.label, response.status_code] += 1
        try:
            # In a form all is text, so that what is broken there may be a sound prompt.
            is_broken = mode is GenerationMode.NEGATIVE and case.media_type == "application/json"
            case.validate_response(response, checks=broken if is_broken else checks)
        except (Failure, FailureGroup) as failure:  # noted, and on: one does not hide another
            found.failures.setdefault(_title(operation, failure), str(failure))

    with suppress(Unsatisfiable):  # there is nothing about the operation that can be broken
        ask()


def _title(operation: APIOperation[Any, Any, Any, Any], failure: Failure | FailureGroup) -> str:
    parts = failure.exceptions if isinstance(failure, FailureGroup) else (failure,)
    return f"{operation.label}: {', '.join(sorted({type(one).__name__ for one in parts}))}"


def _make_likely(case: Case[Any], mode: GenerationMode) -> None:
    """Three times of four a sound request becomes one that is answered: made-up bytes are no picture, made-up numbers
    are no box in one, and then nothing behind the checks is reached. Of a broken one only a sound image is replaced.
    """
    body = case.body
    dice = random.Random(zlib.crc32(repr(body).encode()))
    if not isinstance(body, dict) or dice.random() < 0.25:
        return
    is_form = case.media_type == "multipart/form-data"
    image: Any = Binary(PICTURE) if is_form else base64(PICTURE)
    if mode is GenerationMode.NEGATIVE:
        given = body.get("image")
        if isinstance(given, str) if is_form else _is_sound(given):
            case.body = {**body, "image": image}
        return
    known: dict[str, Any] = {"image": image, "model": "tiny"}
    if case.operation.path.endswith("/masks"):
        known.update(_prompts(dice))
    elif "tile" in body:
        known["tile"] = dice.choice(("auto", {"size": 64, "overlap": 16}))
    if is_form:
        known = {name: json.dumps(one) if isinstance(one, (list, dict)) else one for name, one in known.items()}
    case.body = {name: one for name, one in body.items() if name not in ("boxes", "points", "mask_input")} | known


def _is_sound(image: object) -> bool:
    return isinstance(image, dict) and image.keys() == {"type", "value"} and image["type"] == "base64"


def _prompts(dice: random.Random) -> dict[str, Any]:
    """Boxes and points within the picture, and earlier masks, of as many instances each."""
    count, (height, width) = dice.randint(1, 3), SIZE
    boxes = [[dice.uniform(-2, width / 2), dice.uniform(0, 9), width + dice.random(), height] for _ in range(count)]
    points = [[[dice.uniform(0, width), dice.uniform(0, height), dice.randint(0, 1)]] for _ in range(count)]
    earlier = [low_res_json(np.zeros((LOW_RES_SIDE,) * 2, np.float16))] * count
    sets: list[dict[str, Any]] = [
        {"boxes": boxes},
        {"points": points},
        {"boxes": boxes, "points": points, "mask_input": earlier},
    ]
    return dice.choice(sets)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.api", description=__doc__)
    parser.add_argument("--examples", type=int, default=150, help="sound and broken requests of each operation")
    options = parser.parse_args()
    from deployments.launch import free_port, running

    with running({"model": "tiny"}, {"port": free_port()}) as url:
        schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
        explore(schema, 5)  # so that what is only made once is there before memory is read
        before, start = replica_mb(), time.monotonic()
        found = explore(schema, options.examples)
        seconds, after = time.monotonic() - start, replica_mb()
    for (label, status), count in sorted(found.answers.items()):
        print(f"{label:20}{status:>5}{count:>8,}")
    print(f"{found.answers.total():,} requests in {seconds:.0f} s; all replicas {before:,} MB, then {after:,} MB")
    if after > before + GROWTH_MB:
        found.failures["memory"] = f"the replicas grew by more than {GROWTH_MB} MB"
    print(f"{len(found.failures)} findings", *found.failures.values(), sep="\n")
    sys.exit(bool(found.failures))


def replica_mb() -> int:
    """Resident memory of the Serve replicas and proxies that this process has started, all together."""
    pages, parents = {}, {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            number = int(process.name)
            parents[number] = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            if (process / "cmdline").read_bytes().startswith((b"ray::ServeReplica", b"ray::ProxyActor")):
                pages[number] = int((process / "statm").read_text().split()[1])

    def is_ours(number: int) -> bool:
        return number == os.getpid() or (number in parents and is_ours(parents[number]))

    return sum(count for number, count in pages.items() if is_ours(number)) * resource.getpagesize() // 2**20


if __name__ == "__main__":
    main()
