"""How much one ingress replica takes on at a time. `deployments.http.admission` holds it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from deployments.stage_settings import Section

LEAST_BODY_BYTES = 64 * 2**20  # a little more than the longest body that any route takes


class AdmissionSettings(Section):
    """Excess is refused at once, with 429. Replicas share nothing: the service takes each number times its replicas."""

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
            "another one as it is read. 256 MiB are six of the longest bodies with an image, or 32 of 8 MiB.",
        ),
    ] = 256 * 2**20
