"""From documents to an index that retrieval_handler.py loads: sources, splitting, vectors that are kept, faiss.

Here only where indexes lie, so that an archive is made without faiss.
"""

from __future__ import annotations

from pathlib import Path

from archives import STORE
from model_configs.errors import KitError
from model_configs.schema import AnyModelConfig

INDEXES = STORE / ".indexes"
CURRENT = "current"
"""A link to the newest version in a model's folder."""


def index_folder(config: AnyModelConfig, indexes: Path = INDEXES) -> Path:
    """Where the versions of a model's index lie."""
    return indexes / config.model.name


def required(config: AnyModelConfig, indexes: Path = INDEXES) -> Path:
    """The newest version of a model's index. Raises KitError when there is none."""
    current = index_folder(config, indexes) / CURRENT
    if not current.exists():
        raise KitError(f"{config.model.name} has no index", f"kit.py index {config.model.name}")
    return current.resolve()
