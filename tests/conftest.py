"""What several tests share: the real MiniLM, and a tiny random model in the same folder layout."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# Before any test imports transformers: nothing here may reach for the hub.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Servers and workers that tests start measure and compile into this, not into the user's own cache.
os.environ["SERVEKIT_CACHE"] = str(Path(__file__).resolve().parent.parent / ".run" / "test-cache")

from archives import assets, build
from archives.build import Archive
from model_configs.schema import AnyModelConfig, load_model
from servekit import pinning
from tests.fakes.tiny_model import make_tiny_model

hypothesis.settings.register_profile("kit", deadline=None)  # a slow machine is no failure
hypothesis.settings.load_profile("kit")


@pytest.fixture(scope="session", autouse=True)
def _stays_unpinned() -> Iterator[None]:
    """Handlers that tests load into this process may not pin it: the tests after them would run on fewer CPUs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pinning, "take", lambda slices: slices[0])
        yield


@pytest.fixture(scope="session")
def minilm() -> AnyModelConfig:
    return load_model("minilm")


@pytest.fixture(scope="session")
def minilm_weights(minilm: AnyModelConfig) -> Path:
    return assets.find_weights(minilm)


@pytest.fixture(scope="session")
def minilm_archive(minilm: AnyModelConfig) -> Archive:
    """The .mar in the project's own store, so that one compilation serves all tests."""
    return build.build(minilm)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def wide_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that the encoder's kernels know."""
    return make_tiny_model(tmp_path_factory.mktemp("wide") / "model", hidden=128)
