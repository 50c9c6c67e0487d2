"""A request's spans, from the real service: who is whose parent, and that the caller's trace goes on."""

from __future__ import annotations

import http.server
import threading
from typing import Any

import httpx
import pytest

from deployments import tracing
from deployments.observe_settings import TracingSettings
from deployments.settings import SettingsError, resolve
from tests.deployments.fakes import picture
from tests.deployments.serve_logs import eventually, spans

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
STEPS = ["prepare", "queue", "forward", "finish"]


@pytest.mark.slow
def test_the_spans_of_a_request_are_a_tree(client: httpx.Client) -> None:
    answer = client.post(
        "/v1/masks",
        files={"image": picture((51, 61))},
        data={"boxes": "[[1, 1, 20, 20]]"},
        headers={"traceparent": f"00-{TRACE}-{CALLER}-01", "x-request-id": "traced"},
    )
    assert answer.status_code == 200, answer.text

    def complete() -> list[dict[str, Any]]:
        found = spans(TRACE)
        return found if any(span["name"].startswith("proxy") for span in found) and len(found) >= 15 else []

    found = {span["context"]["span_id"]: span for span in eventually(complete)}

    def below(parent: str) -> dict[str, Any]:
        inner = sorted((s for s in found.values() if s["parent_id"] == parent), key=lambda span: span["start_time"])
        return {span["name"]: below(span["context"]["span_id"]) for span in inner}

    steps: dict[str, dict[str, Any]] = {name: {} for name in STEPS}
    assert below(f"0x{CALLER}") == {
        "proxy_http_request ingress POST /v1/masks": {
            "route_to_replica ingress __call__": {
                "replica_handle_request ingress __call__": {
                    "route_to_replica image-encoder-tiny encode": {
                        "replica_handle_request image-encoder-tiny encode": steps
                    },
                    "route_to_replica mask-decoder-tiny decode": {
                        "replica_handle_request mask-decoder-tiny decode": steps
                    },
                }
            }
        }
    }
    [forward, *_] = [span for span in found.values() if span["name"] == "forward"]
    assert forward["attributes"] == {"batch_items": 1, "batch_cost": 1}
    [ingress] = [span for span in found.values() if span["name"] == "replica_handle_request ingress __call__"]
    assert ingress["attributes"]["request_id"] == "traced"
    assert all(span["start_time"] <= span["end_time"] for span in found.values())


@pytest.mark.slow
def test_who_does_not_sample_leaves_no_span(client: httpx.Client) -> None:
    other = "1" * 32
    for flags in ("00", "01"):  # once the second is written, the first would have been
        trace = other if flags == "00" else "2" * 32
        client.get("/v1/models", headers={"traceparent": f"00-{trace}-{CALLER}-{flags}"})
    eventually(lambda: spans("2" * 32))
    assert not spans(other)


def test_without_tracing_nothing_is_told() -> None:
    assert tracing.here() is None
    tracing.tell("queue", None, 0.0, 1.0)


def test_the_settings_are_an_environment_for_serve() -> None:
    assert TracingSettings().environment() == {}
    found = resolve({"tracing.enabled": "true", "tracing.sampling_ratio": "0.5"}, environ={}).tracing.environment()
    assert found["RAY_SERVE_TRACING_SAMPLING_RATIO"] == "0.5"
    module, _, function = found["RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH"].partition(":")
    assert callable(getattr(__import__(module, fromlist=[function]), function))
    with pytest.raises(SettingsError, match=r"tracing\.exporter"):
        resolve({"tracing.exporter": "os.system"}, environ={})


def test_spans_reach_a_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    trace = pytest.importorskip("opentelemetry.sdk.trace")
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    from deployments.trace_export import otlp

    received: list[tuple[str, bytes]] = []

    class Collector(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # noqa: N802  # the name that http.server looks for
            received.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        provider = trace.TracerProvider()
        for processor in otlp():
            provider.add_span_processor(processor)
        provider.get_tracer("test").start_span("a span of ours").end()
        provider.shutdown()
        server.shutdown()
    [(path, body)] = received
    assert path == "/v1/traces"
    assert b"a span of ours" in body
