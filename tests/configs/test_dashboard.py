"""The dashboard and the alerts by themselves; that their metrics exist, tests/deployments/test_metrics.py asks."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from deployments.http.errors import STATUS
from deployments.metrics import METRICS
from tests.configs.observing import ALERTS, CONFIGS, DASHBOARD, alerts, panels, rules

PAGE = CONFIGS.parent / "docs" / "operations.md"


def test_panels_have_a_place_a_title_and_no_variable_that_is_not_there() -> None:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    found = dashboard["panels"]
    assert len({panel["id"] for panel in found}) == len(found)
    assert len({panel["title"] for panel in found}) == len(found)
    taken: set[tuple[int, int]] = set()
    for panel in found:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not taken & cells, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    variables = {variable["name"] for variable in dashboard["templating"]["list"]} | {"__rate_interval"}
    text = DASHBOARD.read_text(encoding="utf-8")
    assert {name.strip("${}") for name in re.findall(r"\$\{?\w+\}?", text)} - {"__all"} <= variables


def test_no_metric_of_ours_is_left_out_of_the_dashboard() -> None:
    shown = " ".join(panels().values())
    assert [metric.name for metric in METRICS if metric.exported not in shown] == []


def test_labels_and_their_values_are_those_that_we_record() -> None:
    for query in {**panels(), **alerts()}.values():
        for metric in METRICS:
            for selector in re.findall(rf"{metric.exported}(?:_bucket|_count)?\{{([^}}]*)\}}", query):
                used = set(re.findall(r"(\w+)(?:=|!=|=~|!~)\"", selector))
                assert used <= {*metric.labels, "application", "le"}, query
    edges = {edge for query in panels().values() for edge in _values(query, "le")}
    assert edges == {"0.9"}
    assert 0.9 in next(metric for metric in METRICS if metric.name == "text2mask_batch_fill").buckets


@pytest.mark.parametrize(
    ("alert", "codes"),
    [("Text2MaskFaults", {"internal", "not_ready", "cancelled"}), ("Text2MaskDeadlinesMissed", {"deadline_exceeded"})],
)
def test_alerts_count_the_statuses_of_their_codes(alert: str, codes: set[str]) -> None:
    [pattern] = _values(alerts()[alert], "status_code")
    assert {code for code, status in STATUS.items() if re.fullmatch(pattern, str(status))} == codes


def test_means_are_not_taken_from_sums_that_ray_estimates() -> None:
    for query in {**panels(), **alerts()}.values():
        assert not re.search(r"_sum\b", query)


def test_every_alert_says_what_to_do() -> None:
    section = PAGE.read_text(encoding="utf-8").split("\n## Alerts\n")[1].split("\n## ")[0]
    names = [rule["alert"] for rule in rules()]
    assert re.findall(r"^### (.+)$", section, re.M) == names  # each once, in the file's order, and none that is gone
    for rule in rules():
        notes = rule["annotations"]
        assert notes["summary"]
        assert notes["description"]
        assert notes["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert "for" in rule


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "rules", str(ALERTS)),
        ("check", "config", str(CONFIGS / "prometheus" / "prometheus.yml")),
        ("test", "rules", str(Path(__file__).with_name("alerts_test.yaml"))),
    ],
    ids=" ".join,
)
def test_prometheus_agrees(arguments: tuple[str, ...]) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("no promtool here; Debian's package prometheus has it")
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_can_read_every_panel(tmp_path: Path) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("no promtool here; Debian's package prometheus has it")
    groups = [{"name": "panels", "rules": [{"record": f"p{n}", "expr": e} for n, e in enumerate(panels().values())]}]
    (tmp_path / "panels.yaml").write_text(json.dumps({"groups": groups}), encoding="utf-8")
    command = ["promtool", "check", "rules", str(tmp_path / "panels.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def _values(query: str, label: str) -> set[str]:
    found = re.findall(rf"\b{label}(?:=|!=|=~|!~)\"([^\"]*)\"", query)
    return {value for values in found for value in values.split("|")}
