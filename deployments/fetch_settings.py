"""Knobs of fetching images by URL."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from deployments.fetch_target import HOST_NAME, MAX_HOST_LENGTH
from deployments.stage_settings import Section
from pipeline.image import ImageLimits

_RULE = re.compile(rf"(?:\*\.)?{HOST_NAME}")


def _listed(value: Any) -> Any:
    """An environment variable is one text: names separated by commas."""
    return [name for part in value.split(",") if (name := part.strip())] if isinstance(value, str) else value


def _rule(value: str) -> str:
    if not _RULE.fullmatch(value) or len(value) > MAX_HOST_LENGTH:
        raise ValueError(
            "must be a host's full name (images.example.com) or all names below one (*.example.com), in ASCII: "
            "no scheme, port, path or IP address"
        )
    return value.lower()


class FetchSettings(Section):
    """Images by URL. Off: a service that fetches what callers name is a way into the network it stands in."""

    enabled: Annotated[bool, Field(description="Fetch images by URL; wants `allowed_hosts`.")] = False
    allowed_hosts: Annotated[
        tuple[Annotated[str, AfterValidator(_rule)], ...],
        BeforeValidator(_listed),
        Field(
            description="From where images may come, redirects included: full names, or `*.example.com` for all names "
            "below that one. There is no entry for every host: list those that you trust to serve pictures."
        ),
    ] = ()
    max_bytes: Annotated[
        int,
        Field(
            ge=1,
            le=ImageLimits().max_bytes,
            description="Most bytes of one image, counted while they arrive; limits.max_image_bytes holds as well.",
        ),
    ] = ImageLimits().max_bytes
    timeout_s: Annotated[
        float,
        Field(
            gt=0,
            description="Longest time for one image, from look-up to last byte, redirects included: a host that drips "
            "holds a request's place no longer. 32 MiB in 10 s is 27 Mbit/s.",
        ),
    ] = 10
    max_redirects: Annotated[
        int, Field(ge=0, le=3, description="Stores need one at most; each is checked as the first URL is.")
    ] = 3

    @model_validator(mode="after")
    def _has_hosts(self) -> FetchSettings:
        if self.enabled and not self.allowed_hosts:
            raise ValueError("enabled wants allowed_hosts: name the hosts that images may come from")
        return self
