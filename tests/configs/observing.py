"""The PromQL of the dashboard and of the alerts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

CONFIGS = Path(__file__).parents[2] / "configs"
DASHBOARD = CONFIGS / "grafana" / "text2mask.json"
ALERTS = CONFIGS / "prometheus" / "alerts.yaml"


def panels() -> dict[str, str]:
    """Queries by panel, as Grafana would send them for all applications."""
    found = {}
    for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]:
        for target in panel.get("targets", []):
            query = target["expr"].replace("$__rate_interval", "5m").replace("$application", ".*")
            found[f"{panel['title']} {target['refId']}"] = query
    return found


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]


def alerts() -> dict[str, str]:
    return {rule["alert"]: rule["expr"] for rule in rules()}
