"""Which endpoint is meant by what stands on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy import local, where
from deploy.client import SageMakerEndpoint, TorchServeEndpoint
from model_configs.errors import KitError
from model_configs.schema import load_model

LLAMA = load_model("pydoc-llama")


@pytest.fixture(autouse=True)
def _nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "servers", lambda: [])
    monkeypatch.setenv("SERVEKIT_EMULATOR_FOLDER", str(tmp_path))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")


def test_sagemaker_needs_nothing_of_this_machine() -> None:
    assert isinstance(where.is_asked(LLAMA, "sagemaker", region="eu-west-1"), SageMakerEndpoint)
    assert isinstance(where.named("sagemaker:x", "m", "local", None, "eu-west-1"), SageMakerEndpoint)
    assert where.endpoint_name(LLAMA) == "servekit-pydoc-llama"


def test_a_url_is_a_torchserve() -> None:
    assert isinstance(where.named("http://127.0.0.1:1", "m", "local", None, None), TorchServeEndpoint)


@pytest.mark.parametrize(
    ("on", "endpoint", "region", "port", "words", "hint"),
    [
        ("local", None, None, None, "no server here has pydoc-llama", "kit.py serve pydoc-llama"),
        ("local", "e", None, None, "are SageMaker's", "--on sagemaker"),
        ("local", None, "eu-west-1", None, "are SageMaker's", "--on sagemaker"),
        ("emulator", None, None, 8080, "--port is of a server", "--on local"),
        ("emulator", None, None, None, "no emulator runs here", "apply --on emulator"),
    ],
)
def test_where_it_is_not_is_said(
    on: str, endpoint: str | None, region: str | None, port: int | None, words: str, hint: str
) -> None:
    with pytest.raises(KitError, match=words) as caught:
        where.is_asked(LLAMA, on, endpoint, region, port)
    assert hint in caught.value.hint


def test_a_url_needs_a_models_name() -> None:
    with pytest.raises(KitError, match="which model there"):
        where.named("http://127.0.0.1:1", "", "local", None, None)
    with pytest.raises(KitError, match="no emulator runs"):
        where.named("minilm", "m", "emulator", None, None)
