"""One precedence, unknown names refused, values that do not fit together refused."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from deployments import config_file
from deployments.settings import Settings, SettingsError, from_args, resolve


def test_command_line_over_environment_over_yaml_over_default() -> None:
    yaml = {"detector": {"max_batch_size": 2, "threads": 2, "cpu_threads": 3}, "model": "from-yaml"}
    environ = {"TEXT2MASK_DETECTOR__MAX_BATCH_SIZE": "4", "TEXT2MASK_DETECTOR__THREADS": "4", "HOME": "/"}
    settings = resolve({"detector.max_batch_size": "5", "model": None}, yaml, environ)
    assert settings.detector.max_batch_size == 5
    assert settings.detector.threads == 4
    assert settings.detector.cpu_threads == 3
    assert settings.model == "from-yaml"
    assert settings.image_encoder == Settings().image_encoder


def test_a_section_given_partly_keeps_its_other_defaults() -> None:
    settings = resolve(yaml={"ingress": {"num_replicas": 2}}, environ={})
    assert settings.ingress.max_ongoing_requests == Settings().ingress.max_ongoing_requests
    assert settings.ingress.num_cpus == Settings().ingress.num_cpus


def test_nested_and_dotted_names_are_the_same() -> None:
    dotted = resolve({"limits.max_timeout_s": 5}, environ={})
    assert dotted == resolve({"limits": {"max_timeout_s": 5}}, environ={})
    assert dotted.limits.max_timeout_s == 5


def test_the_callers_own_mappings_stay_as_they_are() -> None:
    line = {"detector": {"threads": 1}, "detector.cpu_threads": 3}
    settings = resolve(line, environ={})
    assert (settings.detector.threads, settings.detector.cpu_threads) == (1, 3)
    assert line == {"detector": {"threads": 1}, "detector.cpu_threads": 3}


def test_the_builders_arguments_have_a_yaml_level(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEXT2MASK_MODEL", "from-environment")
    assert from_args({"settings": {"model": "from-yaml"}}).model == "from-environment"
    assert from_args({"settings": {"model": "from-yaml"}, "model": "from-line"}).model == "from-line"


ENTRIES = [{"model": "tiny"}, {"model": "other", "deployment": {"threads": 2}}]

SAME = [
    ({"detector": {"threads": 3}}, {"TEXT2MASK_DETECTOR__THREADS": "3"}, {"detector.threads": "3"}),
    ({"fused": True}, {"TEXT2MASK_FUSED": "true"}, {"fused": True}),
    ({"detectors": ENTRIES}, {"TEXT2MASK_DETECTORS": json.dumps(ENTRIES)}, {"detectors": json.dumps(ENTRIES)}),
    ({"aliases": {"best": "a+b"}}, {"TEXT2MASK_ALIASES__BEST": "a+b"}, {"aliases": '{"best": "a+b"}'}),
    (
        {"fetch": {"allowed_hosts": ["a.example", "b.example"]}},
        {"TEXT2MASK_FETCH__ALLOWED_HOSTS": "a.example, b.example"},
        {"fetch.allowed_hosts": '["a.example", "b.example"]'},
    ),
    (
        {"detector": {"autoscaling": {"max_replicas": 3}, "resources": {"detector": 1}}},
        {
            "TEXT2MASK_DETECTOR__AUTOSCALING": '{"max_replicas": 3}',
            "TEXT2MASK_DETECTOR__RESOURCES__DETECTOR": "1",
        },
        {"detector": '{"autoscaling": {"max_replicas": 3}, "resources": {"detector": 1}}'},
    ),
    (
        {"detector": {"max_batch_cost": None}},
        {"TEXT2MASK_DETECTOR__MAX_BATCH_COST": "null"},
        {"detector.max_batch_cost": "null"},
    ),
    ({"id_secret": "{sixteen letters"}, {"TEXT2MASK_ID_SECRET": "{sixteen letters"}, {"id_secret": "{sixteen letters"}),
]


@pytest.mark.parametrize(("yaml", "environ", "line"), SAME)
def test_each_source_can_say_it(yaml: dict[str, Any], environ: dict[str, str], line: dict[str, Any]) -> None:
    said = resolve(yaml=yaml, environ={})
    assert said != Settings()
    assert resolve(environ=environ) == said
    assert resolve(line, environ={}) == said


@pytest.mark.parametrize("sources", [bits for bits in product((False, True), repeat=3) if any(bits)])
@pytest.mark.parametrize(
    ("path", "values"),
    [
        ("detector.threads", (1, 2, 3)),
        ("detector.autoscaling.max_replicas", (4, 5, 6)),
        ("limits.max_timeout_s", (7.0, 8.0, 9.0)),
        ("detectors", ([], [{"model": "b"}], [{"model": "c"}, {"model": "d"}])),
        ("fetch.allowed_hosts", (["a.example"], [], ["c.example", "d.example"])),
    ],
)
def test_the_strongest_source_that_says_it_decides(
    path: str, values: tuple[Any, Any, Any], sources: tuple[bool, bool, bool]
) -> None:
    """And what only a weaker one says stays."""
    in_yaml, in_environment, in_line = sources
    yaml: dict[str, Any] = {"image_encoder": {"threads": 11}}
    if in_yaml:
        section = yaml
        *above, last = path.split(".")
        for name in above:
            section = section.setdefault(name, {})
        section[last] = values[0]
    variable = "TEXT2MASK_" + path.upper().replace(".", "__")
    environ = {variable: json.dumps(values[1])} if in_environment else {}
    before = json.dumps(yaml)
    found: Any = resolve({path: values[2]} if in_line else {}, yaml, environ)
    assert json.dumps(yaml) == before
    assert found.image_encoder.threads == 11
    said = [value for value, is_said in zip(values, sources, strict=True) if is_said][-1]
    for name in path.split("."):
        found = getattr(found, name)
    assert TypeAdapter(Any).dump_python(found, mode="json", exclude_unset=True) == said


def test_one_setting_has_the_last_word_over_its_whole_section() -> None:
    environ = {"TEXT2MASK_DETECTOR__THREADS": "1", "TEXT2MASK_DETECTOR": '{"threads": 5, "cpu_threads": 5}'}
    for order in (environ, dict(reversed(environ.items()))):
        settings = resolve(environ=order)
        assert (settings.detector.threads, settings.detector.cpu_threads) == (1, 5)


def test_what_is_no_json_is_refused() -> None:
    with pytest.raises(SettingsError, match="detectors: not valid JSON"):
        resolve(environ={"TEXT2MASK_DETECTORS": "[{"})


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ({"setings": {}}, "setings: there is no such setting; did you mean settings?"),
        ({"settings": {"modl": "tiny"}}, "modl: there is no such setting; did you mean model?"),
        ({"detectr.threads": 1}, "detectr.threads: there is no such setting"),
        ({"settings": []}, "settings: must be a mapping"),
    ],
)
def test_the_builders_arguments_are_refused_as_well(args: dict[str, Any], text: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        from_args(args)
    assert text in str(refusal.value)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"modle": "tiny"}, "modle: there is no such setting; did you mean model?"),
        ({"detector": {"max_batchsize": 1}}, "did you mean max_batch_size?"),
        ({"detector": {"autoscaling": {"max_replica": 1}}}, "did you mean max_replicas?"),
        ({"limits": {"zzz": 1}}, "known here: max_image_bytes"),
        ({"detector": {"threads": "many"}}, "detector.threads: "),
        ({"detector": {"threads": -1}}, "detector.threads: "),
        ({"detector": {"device": "tpu"}}, "detector.device: "),
        ({"detector": 5}, "detector: "),
        ({"detector": {"max_batch_size": 40}}, "2 x max_batch_size"),
        ({"detector": {"longest_batch_s": 90}}, "graceful_shutdown_timeout_s must exceed"),
        ({"detector": {"autoscaling": {"min_replicas": 3, "max_replicas": 2}}}, "min_replicas must not exceed"),
        (
            {"detector": {"autoscaling": {"policy": "ongoing_requests", "target_ongoing_requests": 65}}},
            "target_ongoing_requests must not exceed",
        ),
        ({"ingress": {"autoscaling": {"target_ongoing_requests": 257}}}, "target_ongoing_requests must not exceed"),
        ({"detector": {"autoscaling": {"target_ongoing_requests": 4}}}, "here target_queue_s decides"),
        ({"ingress": {"autoscaling": {"target_queue_s": 1}}}, "there is no such setting"),
        ({"limits": {"max_image_pixels": 10**9}}, "limits.max_image_pixels: "),
        ({"limits": {"max_timeout_s": float("nan")}}, "limits.max_timeout_s: "),
    ],
)
def test_what_cannot_work_is_refused_with_a_hint(values: dict[str, Any], text: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        resolve(yaml=values, environ={})
    assert text in str(refusal.value)


def test_an_unknown_variable_is_refused_and_others_are_left_alone() -> None:
    with pytest.raises(SettingsError, match="detector.thread: there is no such setting; did you mean threads"):
        resolve(environ={"TEXT2MASK_DETECTOR__THREAD": "1"})
    resolve(
        environ={"TEXT2MASK_CHECKPOINTS": "/x", "TEXT2MASK_HOST": "h", "TEXT2MASK_PORT": "1", "TEXT2MASK_KEY": "t2m_x"}
    )


def test_an_unknown_variable_is_named_as_one() -> None:
    with pytest.raises(SettingsError, match="variable TEXT2MASK_DETECTR__THREADS: .* did you mean detect"):
        resolve(environ={"TEXT2MASK_DETECTR__THREADS": "1"})


def test_variables_of_others_are_left_alone() -> None:
    """Fonts are the overlay's; the rest Kubernetes sets for services called text2mask and text2mask-serve-svc."""
    address = "tcp://10.0.0.1:8000"
    names = ["SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT", "PORT_8000_TCP", "PORT_8000_TCP_ADDR"]
    injected = {f"TEXT2MASK_{name}": address for name in names}
    injected |= {f"TEXT2MASK_SERVE_SVC_{name}": address for name in names}
    assert resolve(environ={"TEXT2MASK_FONT": "/x", **injected}) == Settings()


def test_what_may_be_a_key_is_not_repeated() -> None:
    with pytest.raises(SettingsError) as refusal:
        resolve(yaml={"auth": {"t2m_secret": "alice"}}, environ={})
    assert "t2m_secret" not in str(refusal.value)
    assert "keys_file" in str(refusal.value)


_APP = "applications: [{import_path: deployments.app:build_app"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not valid YAML"),
        ("a: 2001-02-29", "not valid YAML"),
        ("[" * 10_000, "not valid YAML"),
        ("[]", "must be a mapping"),
        ("applications: []", "exactly one application"),
        ("applications: [{import_path: other:app}]", "import_path must be"),
        (f"{_APP}, runtime_env: {{}}}}]", "does not know 'runtime_env'"),
        (f"{_APP}, arg: {{}}}}]", "does not know 'arg'; did you mean args?"),
        (f"{_APP}, deployments: {{}}}}]", "deployments: must be a list"),
        (f"{_APP}, deployments: [{{name: ingress, num_replicas: 2}}]}}]", "does not know 'num_replicas'"),
        (f"{_APP}, deployments: [{{nam: ingress}}]}}]", "does not know 'nam'; did you mean name?"),
        (f"{_APP}, deployments: [{{}}]}}]", "name must be a text"),
        (f"{_APP}, deployments: [{{name: a}}, {{name: a}}]}}]", "of one deployment only"),
        (f"{_APP}}}]\nhttp_option: {{}}", "does not know 'http_option'; did you mean http_options?"),
        ("applications: [{import_path: deployments.app:build_app, route_prefix: /x}]", "route_prefix must be /"),
        ("grpc_options: {}", "does not know 'grpc_options'"),
        (f"{_APP}, args: 5}}]", "args must be a mapping"),
        (f"{_APP}}}]\nhttp_options: 5", "must be a mapping"),
        (f"{_APP}}}]\nhttp_options: {{prot: 8000}}", "does not know 'prot'; did you mean port?"),
        (f"{_APP}}}]\nhttp_options: {{port: '8000'}}", "port must be an integer"),
        (f"{_APP}}}]\nhttp_options: {{port: 0}}", "port must be an integer"),
        (f"{_APP}}}]\nhttp_options: {{host: 1}}", "host must be a text"),
        (f"{_APP}}}]\nproxy_location: Disabled", "nothing would listen"),
    ],
)
def test_a_file_that_cannot_be_honoured_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError) as refusal:
        config_file.read(path)
    assert message in str(refusal.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        config_file.read(tmp_path / "none.yaml")
