"""The official code behind FastAPI, as many serve it. It takes the body of our `POST /v1/segment`, and answers as it
does."""

from __future__ import annotations

import base64
import threading

import torch
import uvicorn
from fastapi import FastAPI, Response
from pydantic import BaseModel

from benchmarks.serving.material import MODEL, cases
from benchmarks.serving.official import Official
from pipeline.result import Result
from pipeline.stages import UInt8Array
from pipeline.text_to_mask import load_image


class Image(BaseModel):
    type: str
    value: str


class Body(BaseModel):
    image: Image
    prompt: str


def read(body: Body) -> tuple[UInt8Array, str]:
    return load_image(base64.b64decode(body.image.value)), body.prompt


def written(result: Result) -> Response:
    return Response("".join(result.json_pieces()), media_type="application/json")


def serve(port: int, threads: int) -> None:
    """A plain `def` endpoint runs in a pool of threads; a lock keeps the model to one of them."""
    torch.set_num_threads(threads)
    model, lock = Official(MODEL), threading.Lock()
    app = FastAPI()

    @app.post("/v1/segment")
    def segment(body: Body) -> Response:
        pixels, prompt = read(body)
        with lock:
            result = model.predict(pixels, prompt)
        return written(result)

    @app.get("/healthz")
    def healthz() -> None:
        return

    case = cases()[0]
    model.predict(load_image(case.jpeg), case.prompt)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")
