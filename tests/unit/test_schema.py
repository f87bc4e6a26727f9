from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from model_configs.errors import KitError
from model_configs.schema import (
    SCHEMA_FILE,
    advice,
    json_schema,
    load_file,
    load_model,
    model_names,
)

MINILM = yaml.safe_load((SCHEMA_FILE.parent / "minilm.yaml").read_text())


def write(folder: Path, change: dict[str, Any], name: str = "minilm") -> Path:
    """The minilm YAML with keys replaced: {"torchserve.batchSize": 8}; a value of ... removes the key."""
    document = json.loads(json.dumps(MINILM))
    for path, value in change.items():
        *parents, last = path.split(".")
        section = document
        for parent in parents:
            section = section.setdefault(parent, {})
        if value is ...:
            del section[last]
        else:
            section[last] = value
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(document))
    return file


@pytest.mark.parametrize("name", model_names())
def test_every_yaml_of_the_kit_is_valid(name: str) -> None:
    assert load_model(name).model.name == name


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"torchserve.batchsize": 8}, r"minilm.yaml: torchserve.batchsize: unknown key; did you mean 'batchSize'\?"),
        ({"handler.warm_up": {}}, r"handler.warm_up: unknown key; did you mean 'warmup'\?"),
        ({"handler.compile.modes": "aot"}, r"handler.compile.modes: unknown key; did you mean 'mode'\?"),
        ({"loadtest.slo.e2e_sched": {}}, r"loadtest.slo.e2e_sched: unknown key; did you mean 'e2e_sched_ms'\?"),
        ({"qqq": 1}, r"qqq: unknown key; known keys: deploy, handler, index, loadtest"),
        (
            {"handler.compile.mode": "ahead"},
            r"handler.compile.mode: Input should be 'aot', 'jit' or 'eager', got 'ahead'",
        ),
        ({"model.version": 1.0}, r"model.version: Input should be a valid string, got 1.0"),
        ({"torchserve.batchSize": "32"}, r"torchserve.batchSize: Input should be a valid integer, got '32'"),
        ({"torchserve.startupTimeout": 0}, r"torchserve.startupTimeout: .*greater than or equal to 1, got 0"),
        ({"torchserve.minWorkers": 3}, r"torchserve: .*maxWorkers=1 is less than minWorkers=3"),
        ({"torchserve.batchSize": 8}, r"handler.warmup.batch_sizes: 32 is more than torchserve.batchSize=8"),
        ({"handler.max_batch_texts": 16}, r"handler: .*warmup.batch_sizes: 32 is more than max_batch_texts=16"),
        (
            {"handler.compile.mode": "jit", "torchserve.startupTimeout": 60},
            r"torchserve.startupTimeout: compiling up to 9 buckets takes about 135 s, more than 60",
        ),
        ({"model.handler": "embeding_handler.py"}, r"model.handler: 'embeding_handler.py' is no handler of this kit"),
        ({"model.assets": {}}, r"model.assets: .*one of package, path or hub is needed"),
        ({"model.assets": {"package": "x"}}, r"model.assets: .*package and package_folder go together"),
        ({"model.name": ...}, r"model.name: Field required"),
    ],
)
def test_errors_name_file_key_and_value(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    with pytest.raises(KitError, match=expected) as caught:
        load_file(write(tmp_path, change))
    assert caught.value.hint


def test_a_key_that_stands_twice_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "minilm.yaml"
    file.write_text("model:\n  name: a\n  name: b\n")
    with pytest.raises(KitError, match=r"minilm.yaml:3: not YAML: the key 'name' stands twice"):
        load_file(file)


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "model: [1"])
def test_what_is_no_configuration_says_so(tmp_path: Path, text: str) -> None:
    file = tmp_path / "minilm.yaml"
    file.write_text(text)
    with pytest.raises(KitError, match="minilm.yaml"):
        load_file(file)


def test_unknown_model_names_the_closest(tmp_path: Path) -> None:
    with pytest.raises(KitError) as caught:
        load_model("minlm")
    assert caught.value.hint == "did you mean minilm?"


def test_file_and_model_have_the_same_name(tmp_path: Path) -> None:
    write(tmp_path, {}, name="other")
    with pytest.raises(KitError, match="'minilm' is not the file's name, 'other'"):
        load_model("other", tmp_path)


def test_only_serving_keys_reach_the_archive(tmp_path: Path) -> None:
    plain = load_file(write(tmp_path, {}))
    other_slo = load_file(write(tmp_path, {"loadtest.slo.error_rate": 0.5, "deploy.price_per_hour": 1.0}))
    assert plain.model_config_yaml() == other_slo.model_config_yaml()
    rendered = yaml.safe_load(plain.model_config_yaml())
    assert set(rendered) == {*MINILM["torchserve"], "handler"}
    assert rendered["handler"]["compile"]["mode"] == "aot"


def test_advice_is_not_an_error(tmp_path: Path) -> None:
    lines = advice(load_file(write(tmp_path, {"torchserve.maxBatchDelay": 0, "torchserve.asyncCommunication": True})))
    assert [line.split(":")[0] for line in lines] == ["torchserve.maxBatchDelay", "torchserve.asyncCommunication"]


def test_committed_json_schema_is_the_schema() -> None:
    assert SCHEMA_FILE.read_text() == json_schema(), "run `make schema`"
