"""`deploy.ec2` of a model's YAML: what a fleet of EC2's is made from."""

from __future__ import annotations

from servekit.strict import Strict


class Ec2(Strict):
    """Where it runs on EC2."""

    instance_type: str
