"""Where the service's messages go."""

from __future__ import annotations

LOGGER = "ray.serve.text2mask"
"""A child of Serve's logger: in a replica it writes to that replica's log file, with the request's id."""
