"""What the service writes down of its work: log lines and traces. Metrics are always counted; see `docs/observe.md`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from deployments.stage_settings import Section

TO_FILES = "ray.serve._private.tracing_utils:default_tracing_exporter"  # Serve's own default


class LoggingSettings(Section):
    """Logs of the replicas, and of Serve itself where `text2mask serve` starts it."""

    format: Annotated[
        Literal["json", "text"],
        Field(
            description="`json`: an object a line, for whatever collects logs; `text`: for people who read the file."
        ),
    ] = "json"
    level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR"],
        Field(description="What is less grave is left out. The lines of probes are of level DEBUG."),
    ] = "INFO"
    access: Annotated[
        bool, Field(description="A line for each request, and for each call of a stage; without prompts or images.")
    ] = True

    def of_serve(self, *, access: bool | None = None) -> dict[str, object]:
        """As Serve's `logging_config` says it; `access` in place of the setting."""
        return {
            "encoding": self.format.upper(),
            "log_level": self.level,
            "enable_access_log": self.access if access is None else access,
        }


class TracingSettings(Section):
    """Spans of requests, by Serve's own tracing. For `text2mask serve`; in a cluster, its nodes' environment."""

    enabled: Annotated[bool, Field(description="Off, it costs nothing.")] = False
    exporter: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
            description="`module:function` that gives a list of span processors, importable on every node. Unless set, "
            "files below the logs; `deployments.trace_export:otlp` sends to OTEL_EXPORTER_OTLP_ENDPOINT.",
        ),
    ] = TO_FILES
    sampling_ratio: Annotated[
        float,
        Field(ge=0, le=1, description="Of requests whose caller has not decided on it by `traceparent`."),
    ] = 0.01

    def environment(self) -> dict[str, str]:
        """For a node's processes: Serve's `tracing_config` does not reach its proxies, where traces begin."""
        if not self.enabled:
            return {}
        return {
            "RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH": self.exporter,
            "RAY_SERVE_TRACING_SAMPLING_RATIO": str(self.sampling_ratio),
        }
