"""A model on sagemaker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from deploy.outcome import Outcome
from model_configs.schema import AnyModelConfig


def run(
    config: AnyModelConfig,
    action: str,
    build: Callable[[AnyModelConfig, str], Path],
    *,
    emulated: bool,
    dry_run: bool,
    via: str,
    region: str | None,
) -> Outcome:
    """Do it. Raises KitError and Failed."""
    raise NotImplementedError
