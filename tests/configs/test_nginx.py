"""What passes the front proxy and what does not: requests, headers, paths, answers. Live, without Ray."""

from __future__ import annotations

import json
import subprocess

import httpx
import pytest

from deployments.admission_settings import Limits
from deployments.http.mask_schemas import MasksForm
from deployments.http.reading import base64_length
from deployments.http.schemas import SegmentForm
from deployments.launch import free_port
from tests.configs import front
from tests.configs.front import BODY, CONFIG, MB, NGINX, Upstream, connect, head, needs_nginx, read_all, refused
from tests.deployments import tls_server
from tests.deployments.service import PICTURE, refusal

HOSTILE = {
    "Serve-Multiplexed-Model-Id": "a",
    "serve_multiplexed_model_id": "a",
    "X-Session-Id": "a",
    "x_session_id": "a",
    "X-Request-Disconnect-Disabled": "?1",
    "X-Serve-Router-Replica": "a",
    "Traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "X-Forwarded-For": "10.0.0.1",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "a",
    "Forwarded": "for=10.0.0.1",
    "X-Real-IP": "10.0.0.1",
    "Cookie": "a=b",
    "X-Unheard-Of": "a",
}
SCRIPT = "/static/docs/swagger-ui-bundle.js"


@needs_nginx
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_nginx_takes_it(tls: bool) -> None:
    with front.folder_of_nobody() as (folder, rights):
        config, _ = front.configured(folder, 1)
        if tls:  # the lines in comments
            text = config.read_text().replace("# listen 443", "listen 8443").replace("# ssl_", "ssl_")
            assert text.count("/etc/ssl/text2mask/") == 2
            for name in ("fullchain.pem", "privkey.pem"):
                (folder / name).write_bytes(tls_server.certificate())
            config.write_text(text.replace("/etc/ssl/text2mask", str(folder)))
        done = subprocess.run(
            [str(NGINX), "-t", "-c", str(config), "-e", "stderr"], capture_output=True, check=False, **rights
        )
    assert done.returncode == 0, done.stderr.decode()


def test_its_numbers_fit_the_service() -> None:
    from ray.serve.config import HTTPOptions

    text = CONFIG.read_text()

    def number(directive: str, unit: str) -> list[int]:
        lines = (line.partition("#")[0].split() for line in text.splitlines())
        return [int(words[1].rstrip(f"{unit};")) for words in lines if words and words[0] == directive]

    largest = base64_length(Limits().max_image_bytes) + max(SegmentForm.room, MasksForm.room)
    assert largest <= max(number("client_max_body_size", "mk")) * 2**20 <= 1.05 * largest
    assert number("proxy_read_timeout", "s")[0] > Limits().max_timeout_s
    [upstream_keepalive] = number("keepalive_timeout", "s")
    assert upstream_keepalive < HTTPOptions().keep_alive_timeout_s


@needs_nginx
def test_a_good_request_passes_and_its_answer_is_unchanged(client: httpx.Client, upstream: Upstream) -> None:
    prompt = [f"class {number} {'with many words ' * 10}" for number in range(900)]
    answer = client.post(
        "/v1/segment",
        json={**BODY, "prompt": prompt, "masks": "png", "max_detections": 1000},
        headers={"X-Request-Id": "mine:1", "Authorization": "Bearer t2m_a", "X-Request-Timeout-Seconds": "50"},
    )
    assert answer.status_code == 200
    assert len(answer.content) > 16 * 16 * 1024  # more than nginx keeps in memory
    assert [answer.content] == upstream.bodies
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers.get_list("x-request-id") == ["mine:1"] == [answer.json()["id"]]
    [(method, path, headers)] = upstream.requests
    assert (method, path) == ("POST", "/v1/segment")
    assert ("authorization", "Bearer t2m_a") in headers
    assert ("x-request-timeout-seconds", "50") in headers
    assert ("x-request-id", "mine:1") in headers


@needs_nginx
def test_a_form_and_a_chunked_body_pass(client: httpx.Client, upstream: Upstream) -> None:
    form = client.post("/v1/segment", files={"image": PICTURE}, data={"prompt": "car"})
    chunked = client.post(
        "/v1/segment", content=iter([json.dumps(BODY).encode()]), headers={"content-type": "application/json"}
    )
    assert (form.status_code, chunked.status_code) == (200, 200)
    _, _, headers = upstream.requests[1]
    assert "transfer-encoding" not in dict(headers)  # it was read in full first: its length is known


@needs_nginx
@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/openapi.json", "/v1/models", "/docs", SCRIPT])
def test_the_other_paths_pass(client: httpx.Client, upstream: Upstream, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert [answer.content] == upstream.bodies


@needs_nginx
def test_refusals_of_the_service_are_its_own(client: httpx.Client, upstream: Upstream) -> None:
    refusal(client.post("/v1/segment", json={**BODY, "prompt": ""}), 422, "invalid_value")
    refusal(client.get("/v1/nothing"), 404, "not_found")
    refusal(client.get("/v1/segment"), 405, "method_not_allowed")
    announced = client.post("/v1/segment", content=bytes(15 * MB), headers={"content-type": "application/json"})
    assert refusal(announced, 413, "body_too_large")["message"].startswith("the body may have at most")  # not nginx's
    encoded = client.post("/v1/segment", json=BODY, headers={"content-encoding": "br"})
    refusal(encoded, 415, "unsupported_media_type")
    assert len(upstream.requests) == 5


@needs_nginx
def test_headers_that_no_caller_may_set_do_not_arrive(client: httpx.Client, upstream: Upstream) -> None:
    assert client.post("/v1/segment", json=BODY, headers=HOSTILE).status_code == 200
    [(_, _, headers)] = upstream.requests
    assert {name for name, _ in headers} == {"host", "content-type", "content-length", "accept", "x-request-id"}
    assert dict(headers)["host"] == "text2mask"


@needs_nginx
@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "a\tb", '"}'])
def test_a_harmful_request_id_is_replaced(client: httpx.Client, upstream: Upstream, given: str) -> None:
    answer = client.post("/v1/segment", json=BODY, headers={"X-Request-Id": given})
    [(_, _, headers)] = upstream.requests
    [made] = answer.headers.get_list("x-request-id")
    assert len(made) == 32
    assert made == answer.json()["id"] == dict(headers)["x-request-id"]


@needs_nginx
@pytest.mark.parametrize(
    "path",
    [
        "/-/routes",
        "/-/healthz",
        "/%2d/routes",
        "//-/routes",
        "/-//routes",
        "/v1/../-/routes",
        "/v1/%2e%2e/-/routes",
        "/v1/..%2f-/routes",
        "/static/../-/routes",
        "http://a/-/routes",
        "/v1",
        "/static/",
        "/healthz/",
        "/metrics",
        "/docs/more",
    ],
)
def test_no_other_path_is_reachable(port: int, upstream: Upstream, path: str) -> None:
    with connect(port) as connection:
        connection.sendall(head(path=path, method="GET"))
        refused(read_all(connection), 404, "not_found")
    assert upstream.requests == []


@needs_nginx
@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        (b"nonsense\r\n\r\n", 400, "malformed_request"),
        (head("X-A: " + "a" * 9000), 400, "malformed_request"),
        (head(path="/" + "a" * 9000), 400, "malformed_request"),
        (head("Transfer-Encoding: gzip"), 400, "malformed_request"),
        (head("Content-Length: 1", "Content-Length: 2"), 400, "malformed_request"),
        (head("Content-Length: 1", "Transfer-Encoding: chunked"), 400, "malformed_request"),
        (head(method="TRACE"), 405, "method_not_allowed"),
    ],
    ids=["line", "header", "path", "encoding", "lengths", "smuggling", "trace"],
)
def test_what_is_not_a_request(port: int, upstream: Upstream, request_: bytes, status: int, code: str) -> None:
    with connect(port) as connection:
        connection.sendall(request_)
        refused(read_all(connection), status, code)
    assert upstream.requests == []


@needs_nginx
def test_a_service_that_is_down() -> None:
    with front.nginx(free_port()) as port:
        answer = httpx.post(f"http://127.0.0.1:{port}/v1/segment", json=BODY)
    refusal(answer, 503, "not_ready")
    assert int(answer.headers["retry-after"]) >= 1
    assert len(answer.headers["x-request-id"]) == 32
