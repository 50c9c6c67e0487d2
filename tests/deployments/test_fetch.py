"""Images by URL, against a real TLS server: what is dialled, what is refused, and what is never reached."""

from __future__ import annotations

import pytest

from tests.deployments.tls_server import (
    BODY,
    HOST,
    PUBLIC,
    URL,
    Page,
    answer,
    fetch,
    redirect,
)


@pytest.mark.parametrize("url", [URL, f"HTTPS://{HOST.upper()}:443/a.png", f"{URL}#part"])
def test_an_image_arrives_from_the_address_that_was_looked_up(url: str) -> None:
    outcome = fetch(url)
    assert outcome.found == BODY
    assert outcome.names.asked == [HOST]
    assert outcome.wires.dialled == [(PUBLIC, 443)]
    assert outcome.server.names == [HOST], "TLS goes by the name, not by the address"


def test_the_request_carries_the_name_and_nothing_of_the_caller() -> None:
    (head,) = fetch(f"{URL}?size=1&x=a%20b", {"/a.png?size=1&x=a%20b": answer(BODY)}).server.heads
    lines = head.strip().split("\r\n")
    assert lines[0] == "GET /a.png?size=1&x=a%20b HTTP/1.1"
    assert dict(line.split(": ", 1) for line in lines[1:]) == {
        "Host": HOST,
        "User-Agent": "text2mask",
        "Accept": "image/*",
        "Accept-Encoding": "identity",
        "Connection": "close",
    }


def test_proxies_of_the_environment_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert fetch().wires.dialled == [(PUBLIC, 443)]


def test_off_unless_told_otherwise() -> None:
    outcome = fetch(settings={"enabled": False})
    assert "operator" in outcome.refused("url_not_allowed")
    assert outcome.names.asked == []


# URLs


@pytest.mark.parametrize(
    "url",
    [
        "",
        "images.example.com/a.png",
        f"http://{HOST}/a.png",
        f"ftp://{HOST}/a.png",
        f"//{HOST}/a.png",
        "file:///etc/passwd",
        "data:image/png;base64,AAAA",
        f"https:/{HOST}/a.png",
        f"https:{HOST}/a.png",
        f"https:///{HOST}/a.png",
        f" {URL}",
        f"{URL}\n",
        f"https://{HOST}/a b.png",
        f"https://{HOST}/a\tb.png",
        f"https://{HOST}/a\r\nX-Other: 1",
        f"https://{HOST}/a\x00.png",
        f"https://{HOST}/%zz",
        f"https://{HOST}\n.evil.com/",
        # Two parsers, two hosts.
        f"https://127.0.0.1:443\\@{HOST}/",
        f"https://{HOST}\\@127.0.0.1/",
        f"https:\\\\{HOST}/a.png",
        f"https://{HOST}/\\evil.com",
        f"https://user@{HOST}/a.png",
        f"https://user:pass@{HOST}/a.png",
        f"https://{HOST}@evil.com/",
        f"https://{HOST}%00.evil.com/",
        f"https://{HOST}%2eevil.com/",
        f"https://{HOST};evil.com/",
        f"https://[{HOST}]/",
        # Ports.
        f"https://{HOST}:8443/",
        f"https://{HOST}:80/",
        f"https://{HOST}:/",
        f"https://{HOST}:0443/",
        f"https://{HOST}:-443/",
        f"https://{HOST}:443:443/",
        f"https://{HOST}:65979/",  # 443 + 2**16
        # Addresses in all their forms, and names that are no full names.
        "https://127.0.0.1/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0x7f.0.0.1/",
        "https://0177.0.0.1/",
        "https://127.1/",
        "https://1.2.3.0x7f/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[fe80::1%25eth0]/",
        "https://localhost/",
        "https://metadata/",
        f"https://{HOST}./a.png",
        f"https://.{HOST}/a.png",
        "https://images..example.com/",
        "https://-images.example.com/",
        "https://im_ages.example.com/",
        # Letters that look alike, or that a parser may turn into others.
        "https://imagеs.example.com/",  # noqa: RUF001  # a Cyrillic letter
        "https://images。example。com/",
        "https://images.example.com／a",
        "https://ımages.example.com/",
        "https://imageſ.example.com/",
        "httpſ://images.example.com/",
        "https://①②⑦.⓪.⓪.①/",
        "https://images.example\u00ad.com/",
        "https://images.ex\u200bample.com/",
        f"https://{HOST}/é",
        f"https://{HOST}/\ud800",
        f"https://{'a' * 64}.example.com/",
        f"https://{'a.' * 126}example.com/",
        f"{URL}?{'a' * 5000}",
    ],
)
def test_what_is_not_of_the_one_form_is_refused_before_anything_is_looked_up(url: str) -> None:
    outcome = fetch(url)
    outcome.refused("invalid_value")
    assert outcome.names.asked == []
    assert outcome.wires.dialled == []


@pytest.mark.parametrize(
    "host",
    [
        "evil.com",
        f"evil{HOST}",
        f"evil.{HOST}",
        f"{HOST}.evil.com",
        "example.com",
        "cdn.example.com",  # the entry is for what lies below
        "evilcdn.example.com",
        "a.cdn.example.com.evil.com",
        "metadata.google.internal",
        "xn--imags-k8e.example.com",
    ],
)
def test_a_host_that_is_not_listed_is_not_even_looked_up(host: str) -> None:
    outcome = fetch(f"https://{host}/a.png", names={host: [[PUBLIC]]})
    outcome.refused("url_not_allowed")
    assert outcome.names.asked == []
    assert outcome.wires.dialled == []


def test_an_entry_with_a_star_lists_all_names_below() -> None:
    assert fetch("https://a.cdn.example.com/a.png", names={"a.cdn.example.com": [[PUBLIC]]}).found == BODY
    deeper = fetch("https://b.a.cdn.example.com/a.png", names={"b.a.cdn.example.com": [[PUBLIC]]})
    assert deeper.wires.dialled == [(PUBLIC, 443)]
    deeper.refused("url_not_fetched")  # the certificate's star stands for one label


# Redirects


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
@pytest.mark.parametrize("location", [URL, f"//{HOST}/a.png", "/a.png", "https://x.cdn.example.com/a.png"])
def test_a_redirect_is_followed_to_what_is_allowed(status: str, location: str) -> None:
    pages: dict[str, Page] = {"/old": redirect(location, status=status), "/a.png": answer(BODY)}
    outcome = fetch(f"https://{HOST}/old", pages, {"x.cdn.example.com": [[PUBLIC]]})
    assert outcome.found == BODY
    assert len(outcome.names.asked) == len(outcome.wires.dialled) == 2


@pytest.mark.parametrize(
    "locations",
    [
        ["https://evil.com/a.png"],
        [f"http://{HOST}/a.png"],
        ["https://private.cdn.example.com/"],
        ["https://mixed.cdn.example.com/"],
        ["https://127.0.0.1/"],
        ["http://169.254.169.254/latest/meta-data/"],
        ["file:///etc/passwd"],
        [f"https://{HOST}:8443/"],
        [f"https://user@{HOST}/"],
        [f"https://127.0.0.1\\@{HOST}/"],
        ["//evil.com/a.png"],
        ["/\\evil.com/a.png"],
        ["\\\\evil.com"],
        ["///evil.com"],
        ["/a\tb"],
        ["b.png"],
        ["?b"],
        [""],
        [],
        [URL, "https://evil.com/"],
    ],
)
def test_a_redirect_to_anything_else_is_refused(locations: list[str]) -> None:
    names = {
        "evil.com": [[PUBLIC]],
        "private.cdn.example.com": [["10.0.0.1"]],
        "mixed.cdn.example.com": [[PUBLIC, "10.0.0.1"]],
    }
    outcome = fetch(f"https://{HOST}/old", {"/old": redirect(*locations), "/a.png": answer(BODY)}, names)
    outcome.refused("url_not_allowed")
    assert outcome.wires.dialled == [(PUBLIC, 443)], "only the first host was dialled"


@pytest.mark.parametrize("most", [0, 1, 3])
def test_redirects_end(most: int) -> None:
    pages: dict[str, Page] = {f"/{n}": redirect(f"/{n + 1}") for n in range(9)}
    within = fetch(f"https://{HOST}/{9 - most}", {**pages, "/9": answer(BODY)}, settings={"max_redirects": most})
    assert within.found == BODY
    beyond = fetch(f"https://{HOST}/{8 - most}", {**pages, "/9": answer(BODY)}, settings={"max_redirects": most})
    beyond.refused("url_not_fetched")
    assert len(beyond.wires.dialled) == most + 1


def test_cookies_are_not_kept_on_the_way() -> None:
    pages: dict[str, Page] = {
        "/a.png": answer(b"", "Location: /b.png", "Set-Cookie: session=SECRET", status="302 Found"),
        "/b.png": answer(BODY),
    }
    outcome = fetch(pages=pages)
    assert outcome.found == BODY
    assert not any("cookie" in head.lower() for head in outcome.server.heads)
