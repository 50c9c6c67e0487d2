"""What a request may ask for, and how much one ingress replica takes on at a time."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from deployments.stage_settings import Section
from pipeline.image import ImageLimits

LEAST_BODY_BYTES = 64 * 2**20  # a little more than the longest body that any route takes


class Limits(Section):
    """What a request may ask for. None may exceed its default: the stages refuse more."""

    max_image_bytes: Annotated[int, Field(ge=1, le=32 * 2**20, description="Of the encoded file.")] = 32 * 2**20
    max_image_pixels: Annotated[
        int, Field(ge=1, le=50_000_000, description="Height x width, as the file's header says.")
    ] = 50_000_000
    max_timeout_s: Annotated[
        float, Field(gt=0, description="Longest time for one request; also where the caller names none.")
    ] = 120
    max_body_s: Annotated[
        float,
        Field(
            gt=0,
            description="Within which a body must have arrived: one that drips holds a place of admission no longer. "
            "The longest image, as JSON, at 12 Mbit/s takes 30.",
        ),
    ] = 30

    def of_images(self) -> ImageLimits:
        """Those that an image is measured against."""
        return ImageLimits(max_bytes=self.max_image_bytes, max_pixels=self.max_image_pixels)


class Defaults(Section):
    """What a request gets that does not say it itself."""

    box_threshold: Annotated[
        float | None,
        Field(
            ge=0, le=1, description="Least `score` of a box, whichever detector is asked; unset: the detector's own."
        ),
    ] = None
    text_threshold: Annotated[
        float | None, Field(ge=0, le=1, description="Least `text_score` of a box; unset: the detector's own.")
    ] = None


class AdmissionSettings(Section):
    """Excess is refused at once, with 429, by `deployments.http.admission`.

    Replicas share nothing: the service takes each number times its ingress replicas.
    """

    max_requests: Annotated[
        int,
        Field(
            ge=1,
            description="Requests in one ingress replica, from header to answer. 32 are four batches of the default "
            "8: one runs, one gathers, two are being read, encoded or decoded. More would only wait longer. With more "
            "replicas of a stage, raise it or the number of ingress replicas.",
        ),
    ] = 32
    max_body_bytes: Annotated[
        int,
        Field(
            ge=LEAST_BODY_BYTES,
            description="Bytes of the bodies of all those requests. A length that is announced counts from the start, "
            "another one as it is read. 256 MiB are five of the longest images as JSON, or 32 bodies of 8 MiB.",
        ),
    ] = 256 * 2**20
