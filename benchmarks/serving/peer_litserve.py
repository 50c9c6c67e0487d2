"""The official code behind LitServe, which gathers requests into batches. Its workers import this module by name."""

# No `from __future__ import annotations`: LitServe reads the type of `decode_request`'s argument as it stands.
from typing import Any

import litserve as ls
import torch
from fastapi import Response

from benchmarks.serving.material import MODEL, cases
from benchmarks.serving.official import Official
from benchmarks.serving.peer_fastapi import Body, read, written
from pipeline.result import Result
from pipeline.stages import UInt8Array
from pipeline.text_to_mask import load_image

BATCH = 8  # as our stages' max_batch_size
BATCH_TIMEOUT_S = 0.01


class Segment(ls.LitAPI):  # type: ignore[misc]  # it has no types
    """One worker with all threads: more workers would need a core each."""

    def __init__(self, threads: int) -> None:
        super().__init__(max_batch_size=BATCH, batch_timeout=BATCH_TIMEOUT_S, api_path="/v1/segment")
        self._threads = threads

    def setup(self, device: str) -> None:
        torch.set_num_threads(self._threads)
        self._model = Official(MODEL)
        case = cases()[0]
        self._model.predict(load_image(case.jpeg), case.prompt)

    def decode_request(self, request: Body) -> tuple[UInt8Array, str]:
        return read(request)

    def batch(self, inputs: list[Any]) -> list[Any]:
        return inputs

    def predict(self, asked: list[tuple[UInt8Array, str]]) -> list[Result]:
        return self._model.predict_many(asked)

    def unbatch(self, output: list[Result]) -> list[Result]:
        return output

    def encode_response(self, output: Result) -> Response:
        return written(output)


def serve(port: int, threads: int) -> None:
    server = ls.LitServer(Segment(threads), accelerator="cpu", healthcheck_path="/healthz")
    server.run(host="127.0.0.1", port=port, num_api_servers=1, log_level="warning", generate_client_file=False)
