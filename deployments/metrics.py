"""Every metric of the service, in one table, and where they go: nowhere, unless a replica says so.

Requests, their routes, statuses and latencies are Serve's own metrics (`ray_serve_*`) and are not counted twice here.
Labels have few values (never an owner, an id or a text), for each combination is a series that is kept for ever.
`docs/observe.md` holds this table; a test keeps the two equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
"""From a step of the embedded model to the longest batch on a CPU; a quantile is right within a factor of 2.5."""

_COUNTS = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # 0.5 tells none from one; 1,000 is the most there can be
_BYTES = (1e4, 3e4, 1e5, 3e5, 1e6, 3e6, 1e7, 3e7, 6e7)  # the last is above the longest body
_PIXELS = (1e5, 3e5, 1e6, 2e6, 5e6, 12e6, 25e6, 50e6)  # VGA, a screen, a telephone, the limit
_ITEMS = (1, 2, 4, 8, 16, 32, 64)
_RATIO = (0.13, 0.26, 0.51, 0.76, 0.9, 1)  # eighths of a batch of 8 fall inside, not on the edges


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of the table. `labels` come beside those that Serve adds: application, deployment, replica.

    Attributes:
        name: as recorded; see `exported`.
        buckets: upper edges, of a histogram.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    labels: tuple[str, ...]
    help: str
    buckets: tuple[float, ...] = ()

    @property
    def exported(self) -> str:
        """The name in Prometheus, as Ray exports it. A histogram's series end in `_bucket`, `_count` and `_sum`."""
        return f"ray_{self.name}{'_total' if self.kind == 'counter' else ''}"

    def record(self, value: float, **labels: str) -> None:
        """Add to a counter, set a gauge, observe in a histogram. Exactly the row's labels; never raises for a sink."""
        _sink.record(self, value, labels)


_MODEL = ("stage", "model")

ERRORS = Metric(
    "text2mask_errors", "counter", "requests", ("route", "code"), "Requests refused or failed, by their error's code."
)
REJECTIONS = Metric(
    "text2mask_rejections",
    "counter",
    "requests",
    ("reason",),
    "429s by the limit: rate_limit (of an owner), requests or bytes (admission).",
)
BODY_BYTES = Metric("text2mask_body_bytes", "histogram", "bytes", ("route",), "Request bodies as read.", _BYTES)
PIXELS = Metric("text2mask_image_pixels", "histogram", "pixels", ("route",), "Images of answered requests.", _PIXELS)
DETECTIONS = Metric("text2mask_detections", "histogram", "instances", ("route",), "Instances in an answer.", _COUNTS)
URL_FETCHES = Metric("text2mask_url_fetches", "counter", "images", ("outcome",), "Images by URL: ok, or the error.")
RETRIES = Metric(
    "text2mask_retries",
    "counter",
    "calls",
    ("stage",),
    "Calls repeated: a replica or an object was lost, or an embedding was by other weights.",
)
CACHE_LOOKUPS = Metric(
    "text2mask_cache_lookups",
    "counter",
    "look-ups",
    ("kind", "model", "outcome"),
    "In the image encoder's cache. kind: embedding, or image (by its id); outcome: hit, miss, or joined (another's "
    "encoding under way).",
)
CACHE_BYTES = Metric("text2mask_cache_bytes", "gauge", "bytes", ("model",), "What the image encoder keeps of images.")
ITEMS = Metric(
    "text2mask_items",
    "counter",
    "items",
    _MODEL,
    "Items computed, a long prompt in several parts; over the batches: their mean size.",
)
COST = Metric("text2mask_cost", "counter", "captions, images or prompts", _MODEL, "Cost computed, in the stage's unit.")
BATCH_ITEMS = Metric("text2mask_batch_items", "histogram", "items", _MODEL, "Items in a batch.", _ITEMS)
BATCH_FILL = Metric(
    "text2mask_batch_fill",
    "histogram",
    "ratio",
    _MODEL,
    "How full a batch was: items by max_batch_size, or cost by max_batch_cost, whichever is more.",
    _RATIO,
)
QUEUE = Metric(
    "text2mask_queue_seconds", "histogram", "seconds", _MODEL, "Wait of an item for the model to be free.", SECONDS
)
STAGE = Metric(
    "text2mask_stage_seconds",
    "histogram",
    "seconds",
    (*_MODEL, "step"),
    "step: prepare and finish of an item, on the CPU; forward of a batch, in the model.",
    SECONDS,
)
DROPPED = Metric(
    "text2mask_dropped",
    "counter",
    "items",
    (*_MODEL, "reason"),
    "Items not computed: deadline (over before their turn, or before their batch could end), or cancelled.",
)

METRICS = (
    ERRORS,
    REJECTIONS,
    BODY_BYTES,
    PIXELS,
    DETECTIONS,
    URL_FETCHES,
    RETRIES,
    CACHE_LOOKUPS,
    CACHE_BYTES,
    ITEMS,
    COST,
    BATCH_ITEMS,
    BATCH_FILL,
    QUEUE,
    STAGE,
    DROPPED,
)


class Sink(Protocol):
    """Where values go. Called from any thread; must be quick, and must not raise."""

    def record(self, metric: Metric, value: float, labels: dict[str, str]) -> None: ...


class Nowhere:
    def record(self, metric: Metric, value: float, labels: dict[str, str]) -> None:
        pass


_sink: Sink = Nowhere()


def send_to(sink: Sink) -> Sink:
    """From now on this process's values go to `sink`; gives the one before."""
    global _sink
    before, _sink = _sink, sink
    return before


def table() -> str:
    """The table in Markdown, as `docs/observe.md` has it: `python -m deployments.metrics` prints it."""
    rows = []
    for one in METRICS:
        labels = ", ".join(f"`{label}`" for label in one.labels)
        rows.append(f"| `{one.exported}` | {one.kind} | {one.unit} | {labels} | {one.help} |")
    return "\n".join(["| name | type | unit | labels | what it says |", "|---|---|---|---|---|", *rows])


if __name__ == "__main__":
    print(table())
