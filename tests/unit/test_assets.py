from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from archives import assets
from model_configs import ROOT
from model_configs.errors import KitError
from model_configs.schema import AnyModelConfig, Assets, load_model
from servekit.settings import ClassifierSettings, EmbeddingSettings
from tests.fakes.tiny_model import make_tiny_model


def config_with(base: AnyModelConfig, **source: Any) -> AnyModelConfig:
    model = base.model.model_copy(update={"assets": Assets(**source)})
    return base.model_copy(update={"model": model})


def test_a_package_that_is_not_installed_says_how_to_get_it(minilm: AnyModelConfig) -> None:
    with pytest.raises(KitError, match="no-such-package, which carries the weights, is not installed") as caught:
        assets.find_weights(config_with(minilm, package="no-such-package", package_folder="x"))
    assert caught.value.hint == "pip install --no-deps no-such-package"


def test_a_missing_folder_says_where_to_put_what(minilm: AnyModelConfig, tmp_path: Path) -> None:
    with pytest.raises(KitError, match="is not a folder") as caught:
        assets.find_weights(config_with(minilm, path=str(tmp_path / "none")))
    assert "model.safetensors" in caught.value.hint


def test_mpnet_without_weights_says_what_is_missing() -> None:
    """models/all-mpnet-base-v2 is the user's to bring, and the hub cannot be reached here."""
    config = load_model("all-mpnet-base-v2")
    if (ROOT / "models" / "all-mpnet-base-v2").exists():
        pytest.skip("models/all-mpnet-base-v2 is there")
    with pytest.raises(KitError, match="models/all-mpnet-base-v2 is not a folder, and the hub gave no") as caught:
        assets.find_weights(config)
    assert "put its files into models/all-mpnet-base-v2" in caught.value.hint


def test_a_folder_with_weights_is_taken(minilm: AnyModelConfig, tiny_model: Path) -> None:
    assert assets.find_weights(config_with(minilm, path=str(tiny_model))) == tiny_model


def test_pickled_weights_are_refused(minilm: AnyModelConfig, tmp_path: Path) -> None:
    make_tiny_model(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(KitError, match="pickled weights are not loaded"):
        assets.find_weights(config_with(minilm, path=str(tmp_path)))


def test_wrong_sums_are_refused(minilm: AnyModelConfig, tiny_model: Path) -> None:
    right = hashlib.sha256((tiny_model / "config.json").read_bytes()).hexdigest()
    assert assets.find_weights(config_with(minilm, path=str(tiny_model), sha256={"config.json": right}))
    with pytest.raises(KitError, match=f"sha256 is {right}, the YAML says {'0' * 64}"):
        assets.find_weights(config_with(minilm, path=str(tiny_model), sha256={"config.json": "0" * 64}))
    with pytest.raises(KitError, match="sha256 is no such file"):
        assets.find_weights(config_with(minilm, path=str(tiny_model), sha256={"nothing": "0" * 64}))


def test_code_and_scripts_travel_only_when_they_are_meant(minilm: AnyModelConfig, tmp_path: Path) -> None:
    make_tiny_model(tmp_path)
    (tmp_path / "modeling.py").write_text("")
    (tmp_path / "model.pt").write_text("")

    def names(handler: Any) -> set[str]:
        config = minilm.model_copy(update={"handler": handler})
        return {path.name for path in assets.model_files(tmp_path, config)}

    plain = names(EmbeddingSettings())
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= plain
    assert plain.isdisjoint({"modeling.py", "model.pt"})
    assert names(EmbeddingSettings(trust_remote_code=True)) == plain | {"modeling.py"}
    assert names(ClassifierSettings(source="torchscript")) == plain | {"model.pt"}


def test_no_compiler_is_told_before_anything_is_built(
    minilm: AnyModelConfig, minilm_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(KitError, match="minilm: handler.compile.mode: aot needs a C\\+\\+ compiler") as caught:
        assets.prepare(minilm, minilm_weights, tmp_path / "cache")
    assert "eager" in caught.value.hint


def test_what_was_prepared_long_ago_is_removed(tmp_path: Path) -> None:
    names = [f"minilm-{n:016x}" for n in range(5)] + ["minilm-l12-" + "0" * 16, "other-" + "0" * 16]
    for age, name in enumerate(names):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (age, age))
    assets.prune(tmp_path, "minilm")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[2:])


@pytest.mark.parametrize(
    ("change", "compiles_anew"),
    [
        ({"threads": 1, "pinning": "off", "max_padding": 0.3, "warmup": {"batch_sizes": [1]}}, False),
        ({"compile": {"batch_buckets": [1]}}, False),
        ({"compile": {"mode": "eager"}}, True),
        ({"pooling": "cls"}, True),
        ({"max_batch_texts": 16, "warmup": {"batch_sizes": [1]}}, True),
    ],
)
def test_settings_of_serving_alone_leave_artefacts_as_they_are(
    minilm: AnyModelConfig, minilm_weights: Path, change: dict[str, Any], compiles_anew: bool
) -> None:
    keys = [
        assets.prepared_key(
            minilm.model_copy(update={"handler": EmbeddingSettings.model_validate(each)}), minilm_weights
        )
        for each in ({}, change)
    ]
    assert (keys[0] != keys[1]) is compiles_anew
