"""The metrics of a replica, through Ray: its node's agent shows them to Prometheus, with deployment and replica."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from ray import serve
from ray.serve import metrics as ray_metrics
from ray.serve.exceptions import RayServeException

from deployments.logs import LOGGER
from deployments.metrics import METRICS, Metric, send_to

EVERY_S = 1.0  # Ray reports no more often

logger = logging.getLogger(LOGGER)


class RaySink:
    """Records through `ray.serve.metrics`; made in a replica, whose labels they take on.

    Ray's agent forgets a gauge that was not set again within two of its reports, so a thread sets them all anew.
    """

    def __init__(self) -> None:
        self._record = {metric.name: _recorder(metric) for metric in METRICS}
        self._gauges: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        threading.Thread(target=self._set_anew, name="gauges", daemon=True).start()

    def record(self, metric: Metric, value: float, labels: dict[str, str]) -> None:
        try:
            self._record[metric.name](value, labels)
            if metric.kind == "gauge":
                self._gauges[metric.name, tuple(labels.items())] = value
        except Exception:  # what counts requests must not fail them
            logger.exception("A metric was not recorded.")

    def _set_anew(self) -> None:
        while True:
            time.sleep(EVERY_S)
            for (name, labels), value in list(self._gauges.items()):
                self._record[name](value, dict(labels))


def install() -> None:
    """Send this replica's metrics through Ray. Does nothing in a process that is no replica."""
    try:
        serve.get_replica_context()
    except RayServeException:
        return
    send_to(RaySink())


def _recorder(metric: Metric) -> Any:
    labels: Any = metric.labels  # Ray types it as a tuple of one
    if metric.kind == "histogram":
        return ray_metrics.Histogram(metric.name, metric.help, list(metric.buckets), labels).observe
    if metric.kind == "gauge":
        return ray_metrics.Gauge(metric.name, metric.help, labels).set
    return ray_metrics.Counter(metric.name, metric.help, labels).inc
