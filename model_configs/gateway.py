"""`deploy.gateway` of a model's YAML: what nginx in front of TorchServe lets through."""

from __future__ import annotations

from servekit.settings import PositiveInt
from servekit.strict import Strict


class GatewaySettings(Strict):
    """The same on this machine, in the images and on EC2."""

    max_body_bytes: PositiveInt = 6 << 20
    """SageMaker's own limit, 6 MiB."""
