"""`deploy.sagemaker` of a model's YAML: what an endpoint of SageMaker's is made from."""

from __future__ import annotations

from servekit.settings import PositiveInt
from servekit.strict import Strict


class SageMaker(Strict):
    """Where it runs on SageMaker."""

    instance_type: str
    instance_count: PositiveInt = 1
