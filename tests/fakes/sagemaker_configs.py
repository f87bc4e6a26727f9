"""Models of model_configs/ with another deploy.sagemaker."""

from __future__ import annotations

from typing import Any

from model_configs.sagemaker import SageMaker
from model_configs.schema import AnyModelConfig, Deploy, load_model


def configured(name: str = "minilm", **section: Any) -> AnyModelConfig:
    """The model with these keys of deploy.sagemaker, an instance type if none is given, and no others."""
    made = SageMaker.model_validate({"instance_type": "ml.c7i.xlarge", **section})
    return load_model(name).model_copy(update={"deploy": Deploy(sagemaker=made)})


def changed(name: str, **section: Any) -> AnyModelConfig:
    """The model with its own deploy.sagemaker, but for these keys."""
    config = load_model(name)
    assert config.deploy is not None
    assert config.deploy.sagemaker is not None
    own = config.deploy.sagemaker.model_dump(exclude_unset=True)
    return configured(name, **(own | section))
