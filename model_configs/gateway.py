"""`deploy.gateway` of a model's YAML: what nginx in front of TorchServe lets through."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from model_configs import ROOT
from servekit.settings import PositiveInt
from servekit.strict import Strict

Share = Annotated[float, Field(ge=0.0001, le=1)]
PositiveSeconds = Annotated[float, Field(gt=0)]


class Mirror(Strict):
    """A sampled copy of the traffic goes to a second endpoint, and how its answers differ is recorded."""

    url: Annotated[str, Field(pattern=r"^https?://[^/?#\s]+(/[^?#\s]*)?$")]
    """The other endpoint's base: the path that the client asked is asked there too."""
    sample: Share = 0.1
    """The share of requests that is copied."""
    timeout_s: PositiveSeconds = 60.0
    """For a copy's whole answer. The client's answer never waits for it."""
    key_file: str | None = None
    """A file with the bearer key that the other endpoint asks for; relative paths start at the project's root."""
    ca_file: str | None = None
    """The certificates to trust, where the other endpoint's is not a public one."""
    record: Literal["differences", "bodies"] = "differences"
    """differences: figures and digests alone. bodies: both answers too, which may hold personal data."""
    max_disk_mb: PositiveInt = 100
    """Of what is recorded; the oldest goes first."""
    max_in_flight: PositiveInt = 16
    """Copies that are asked at once; as many more wait, and what comes beyond that is not copied."""


def file_of(path: str) -> Path:
    """The file that a YAML's path means."""
    return ROOT / Path(path).expanduser()


class GatewaySettings(Strict):
    """The same on this machine, in the images and on EC2. Limits are for each key, or client address without keys."""

    max_body_bytes: PositiveInt = 6 << 20
    """SageMaker's own limit, 6 MiB."""
    requests_per_minute: PositiveInt | None = None
    """Beyond it requests get a 429."""
    burst: Annotated[int, Field(ge=0)] = 20
    """Requests that may come at once above requests_per_minute."""
    max_concurrent: PositiveInt | None = None
    """Requests that may be under way at once; beyond it they get a 429."""
    header_timeout_s: PositiveInt = 10
    """In which a client must have sent its request's headers."""
    body_timeout_s: PositiveInt = 10
    """Longest silence of a client that sends a body."""
    keepalive_s: PositiveInt = 75
    """How long a connection waits for its next request: longer than a load balancer in front keeps it."""
    drain_timeout_s: PositiveInt = 60
    """In which requests under way may end when a TorchServe is replaced or the gateway stops."""
    mirror: Mirror | None = None
