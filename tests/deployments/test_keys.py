"""Keys: issued, read from a file, and the launch paths that want them."""

from __future__ import annotations

import json
import logging
import pickle
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from deployments import config_file
from deployments.auth_settings import AuthSettings, KeyEntry, digest_of
from deployments.keys import check, gather, issue
from deployments.launch import free_port, is_loopback, with_auth
from deployments.settings import SettingsError, from_args, resolve
from tests.deployments.test_cli import complaint, run

CONFIGS = sorted((Path(__file__).parents[2] / "configs").rglob("*.y*ml"))
KEY, ENTRY = issue("alice")
ROW = ENTRY.model_dump(exclude_unset=True)


def keys_file(folder: Path, content: Any, mode: int = 0o600) -> Path:
    path = folder / "keys.yaml"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    path.chmod(mode)
    return path


def test_a_key_is_long_random_and_stored_as_its_hash() -> None:
    keys = {issue("alice")[0] for _ in range(100)}
    assert len(keys) == 100
    assert all(key.startswith("t2m_") and len(key) == 4 + 43 for key in keys)  # 43 letters of base64: 256 bits
    assert ENTRY.sha256 == digest_of(KEY.encode())


@pytest.mark.parametrize("owner", ["", " alice", "a b", "a\n", "-a", "é", "a" * 65, "a/b"])
def test_an_owner_is_a_plain_name(owner: str) -> None:
    with pytest.raises(SettingsError, match="an owner is 1 to 64"):
        issue(owner)


def test_the_command_prints_the_key_apart_from_the_entry(tmp_path: Path) -> None:
    lines = []
    for owner in ("alice", "7", "true"):
        result = run("keys", "new", owner)
        assert result.exit_code == 0
        key = result.stderr.splitlines()[-1]
        assert key not in result.stdout
        (entry,) = yaml.safe_load(result.stdout)
        assert entry == {"owner": owner, "sha256": digest_of(key.encode())}
        lines.append(result.stdout)
    path = keys_file(tmp_path, "".join(lines))  # what `>>` makes of them
    assert [entry.owner for entry in gather(AuthSettings(keys_file=path)).keys] == ["alice", "7", "true"]


def test_the_command_explains_itself_and_refuses_a_bad_owner() -> None:
    text = run("keys", "new", "--help").output
    assert ">> keys.yaml" in text
    assert "an owner is 1 to 64" in complaint("keys", "new", "a b")


def test_keys_of_the_file_join_those_of_the_settings(tmp_path: Path) -> None:
    other = issue("bob")[1].model_dump(exclude_unset=True)
    path = keys_file(tmp_path, [{**other, "requests_per_minute": None}])
    auth = gather(AuthSettings.model_validate({"keys": [ROW], "keys_file": path, "requests_per_minute": 3}))
    assert [entry.owner for entry in auth.keys] == ["alice", "bob"]
    assert auth.keys_file is None  # a replica has no such file
    assert auth.limits() == {"alice": 3}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("a: [", "not valid YAML or JSON"),
        (b"\xff".decode("latin-1") + "\x00", "not valid YAML or JSON"),
        ("- 2001-02-29", "not valid YAML or JSON"),
        ("[" * 10_000, "not valid YAML or JSON"),
        ("", "must be a list"),
        ({"alice": "x"}, "must be a list"),
        ([], "there are no keys"),
        ([KEY], "keys.0: "),
        ([{KEY: "alice"}], "keys.0: takes owner, sha256, requests_per_minute"),
        ([ROW, {"owner": "bob"}], "keys.1.sha256: Field required"),
        ([{"owner": "alice", "sha256": KEY}], "keys.0.sha256: must be 64 hexadecimal digits"),
        ([{"owner": "alice", "sha256": ENTRY.sha256.upper()}], "keys.0.sha256: must be 64 hexadecimal digits"),
        ([{**ROW, "owner": "a b"}], "keys.0.owner: "),
        ([{**ROW, "requests_per_minute": 0}], "keys.0.requests_per_minute: "),
        ([ROW, ROW], "the same key is given twice"),
    ],
)
def test_a_file_that_is_wrong_is_refused_and_never_quoted(tmp_path: Path, content: Any, text: str) -> None:
    path = keys_file(tmp_path, content)
    with pytest.raises(SettingsError) as refusal:
        gather(AuthSettings(keys_file=path))
    assert text in str(refusal.value)
    assert KEY not in "".join(traceback.format_exception(refusal.value))


@pytest.mark.parametrize("entry", [{"owner": "alice", "sha256": KEY}, {KEY: "alice"}, KEY])
def test_a_key_put_into_the_settings_by_mistake_is_not_shown(entry: Any) -> None:
    with pytest.raises(SettingsError, match=r"auth\.keys\.0") as refusal:
        resolve({"auth": {"keys": [entry]}}, environ={})
    assert KEY not in "".join(traceback.format_exception(refusal.value))


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    for path, text in ((tmp_path / "none.yaml", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(SettingsError, match=text):
            gather(AuthSettings(keys_file=path))


def test_who_may_read_the_file_is_warned_of_and_who_may_write_it_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    gather(AuthSettings(keys_file=keys_file(tmp_path, [ROW], 0o640)))
    assert not caplog.records
    gather(AuthSettings(keys_file=keys_file(tmp_path, [ROW], 0o644)))
    assert "anybody on this machine may read" in caplog.text
    with pytest.raises(SettingsError, match="anybody may write it"):
        gather(AuthSettings(keys_file=keys_file(tmp_path, [ROW], 0o602)))


def test_without_keys_nothing_starts_unless_told_so() -> None:
    for refuse in (check, gather):
        with pytest.raises(SettingsError, match="text2mask keys new OWNER"):
            refuse(resolve(environ={}).auth)
    check(AuthSettings(mode="none"))
    check(AuthSettings(keys=(ENTRY,)))


def test_the_app_builder_refuses_without_keys() -> None:
    pytest.importorskip("ray")
    from deployments.app import build_app

    with pytest.raises(SettingsError, match="there are no keys"):
        build_app({"model": "tiny"})


def test_the_ingress_itself_refuses_without_keys() -> None:
    pytest.importorskip("ray")
    from deployments.ingress_deployment import IngressDeployment

    options: Any = SimpleNamespace(auth=AuthSettings())
    with pytest.raises(SettingsError, match="there are no keys"):
        IngressDeployment({}, {}, {}, options)


def test_what_a_replica_is_sent_keeps_its_meaning() -> None:
    unlimited = KeyEntry(owner="alice", sha256=ENTRY.sha256, requests_per_minute=None)
    sent = pickle.loads(pickle.dumps(AuthSettings(keys=(unlimited, issue("bob")[1]), requests_per_minute=5)))
    assert sent.limits() == {"bob": 5}


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("LOCALHOST", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.7", False),
        ("169.254.169.254", False),
        ("", False),
        ("127.0.0.1.example.org", False),
        ("localhost.example.org", False),
        ("::ffff:192.0.2.7", False),
    ],
)
def test_what_a_loopback_address_is(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_on_a_loopback_address_nobody_is_asked_unless_something_is_said() -> None:
    assert from_args(with_auth({"model": "tiny"}, "127.0.0.1")).auth.mode == "none"
    keys = {"auth": {"keys": [ROW]}}
    assert from_args(with_auth(keys, "127.0.0.1")).auth.mode == "keys"
    assert from_args(with_auth({"settings": keys}, "127.0.0.1")).auth.mode == "keys"
    assert from_args(with_auth({"auth.mode": "keys"}, "127.0.0.1")).auth.mode == "keys"


def test_the_environment_counts_as_saying_something(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEXT2MASK_AUTH__KEYS_FILE", "/run/secrets/keys.yaml")
    for host in ("127.0.0.1", "0.0.0.0"):
        assert from_args(with_auth({}, host)).auth.mode == "keys"


@pytest.mark.parametrize(
    "args",
    [
        {},
        {"auth.mode": "none"},
        {"auth.mode": "keys"},
        {"settings": {"auth": {}}},
        {"auth": {"mode": "none", "keys": [ROW]}},
    ],
)
def test_another_address_wants_keys_or_the_flag(args: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=r"text2mask keys new OWNER.*--insecure"):
        with_auth(args, "0.0.0.0")


def test_the_flag_lets_everybody_in_but_overrules_no_keys() -> None:
    for args in ({}, {"auth.mode": "none"}):
        assert from_args(with_auth(args, "0.0.0.0", insecure=True)).auth.mode == "none"
    assert from_args(with_auth({"auth": {"keys": [ROW]}}, "0.0.0.0", insecure=True)).auth.mode == "keys"


def test_serve_refuses_another_address_in_one_line(tmp_path: Path) -> None:
    port = str(free_port())
    text = complaint("serve", "--host", "0.0.0.0", "--port", port)
    assert "--keys-file" in text
    assert "--insecure" in text
    local = next(path for path in CONFIGS if path.name == "local.yaml")
    assert "--insecure" in complaint("serve", "--config", str(local), "--host", "0.0.0.0", "--port", port)
    empty = keys_file(tmp_path, [])
    given = ("serve", "--host", "0.0.0.0", "--port", port, "--insecure", "--keys-file", str(empty))
    assert "there are no keys" in complaint(*given)


def hosts_without_keys(text: str) -> list[str | None]:
    """Where the applications of a shipped file listen that let everybody in; None: wherever Serve does by itself."""
    return [
        (config.get("http_options") or {}).get("host")
        for document in yaml.safe_load_all(text)
        for config in _serve_configs(document)
        for app in config["applications"]
        if from_args(app.get("args") or {}).auth.mode == "none"
    ]


def _serve_configs(node: Any) -> list[dict[str, Any]]:
    """Serve configurations anywhere in `node`; KubeRay holds them as text."""
    if isinstance(node, str) and "applications:" in node:
        node = yaml.safe_load(node)
    if isinstance(node, dict):
        own = [node] if isinstance(node.get("applications"), list) else []
        return [*own, *(found for value in node.values() for found in _serve_configs(value))]
    return [found for value in node for found in _serve_configs(value)] if isinstance(node, list) else []


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_only_the_local_configuration_is_without_keys_and_it_stays_on_this_machine(path: Path) -> None:
    hosts = hosts_without_keys(path.read_text(encoding="utf-8"))
    assert hosts == (["127.0.0.1"] if path.name == "local.yaml" else [])


def test_the_local_configuration_starts_without_keys() -> None:
    (path,) = (path for path in CONFIGS if path.name == "local.yaml")
    file = config_file.read(path)
    assert gather(from_args(file.args).auth).mode == "none"
    assert file.http_options["host"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("http_options: {host: 127.0.0.1}\napplications: [{args: {settings: {auth: {mode: none}}}}]", ["127.0.0.1"]),
        ("http_options: {host: 0.0.0.0}\napplications: [{args: {auth.mode: none}}]", ["0.0.0.0"]),
        ("applications: [{args: {settings: {auth: {mode: none}}}}]", [None]),
        ("http_options: {host: 0.0.0.0}\napplications: [{args: {settings: {auth: {keys_file: /k}}}}]", []),
        ("applications: [{args: {model: tiny}}, {args: {auth: {mode: none}}}]", [None]),
        ("spec:\n  serveConfigV2: |\n    applications: [{args: {settings: {auth: {mode: none}}}}]", [None]),
        ("groups: [{name: alerts, rules: [{mode: none}]}]", []),
    ],
)
def test_the_check_of_shipped_configurations_sees_them(text: str, hosts: list[str | None]) -> None:
    assert hosts_without_keys(text) == hosts
