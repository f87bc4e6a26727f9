"""The real SageMaker SDK, version 2, against the emulator: the endpoint that it makes is the one that the plan describes.

`make test-sagemaker-sdk` makes the environment that holds it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy import sagemaker
from deploy.hosting import sdk
from model_configs.archive_files import SUMS_FILE
from model_configs.errors import KitError
from model_configs.schema import AnyModelConfig
from tests.fakes.emulated import Emulated, emulated
from tests.fakes.sagemaker_configs import configured

PORT = 21100
ENDPOINT = "servekit-minilm"
MADE_BY_AWS = ("CreationTime", "LastModifiedTime", "ModelArn", "EndpointConfigArn", "EndpointArn", "ResponseMetadata")
SECTIONS: dict[str, dict[str, Any]] = {
    "least": {},
    "the article's": {
        "instance_type": "ml.inf2.24xlarge",
        "volume_size_gb": 512,
        "model_data_download_timeout_s": 3600,
        "container_startup_timeout_s": 600,
        "env": {"TS_INSTALL_PY_DEP_PER_MODEL": "false"},
        "inference_ami_version": "al2-ami-sagemaker-inference-neuron-2",
    },
    "network, key, capture, tags": {
        "vpc": {"subnets": ["subnet-1"], "security_groups": ["sg-1", "sg-2"]},
        "network_isolation": True,
        "kms_key_id": "alias/models",
        "data_capture": {"sampling_percent": 20, "capture": ["output"]},
        "routing": "random",
        "tags": {"team": "search"},
        "autoscaling": {"max_instances": 2, "concurrent_requests_per_model": 4},
    },
    "asynchronous": {"async_inference": {"max_concurrent_per_instance": 2}, "kms_key_id": "1234"},
}

pytestmark = pytest.mark.skipif(not sdk.PYTHON.exists(), reason="no SageMaker SDK: make test-sagemaker-sdk")


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulated]:
    folder = tmp_path_factory.mktemp("emulator")
    with pytest.MonkeyPatch.context() as patch, emulated(PORT, folder) as found:
        patch.setenv("SERVEKIT_EMULATOR_PORT", str(PORT))
        patch.setenv("SERVEKIT_EMULATOR_FOLDER", str(folder))
        # destroy ends an emulator that nothing is deployed on; these tests share one.
        patch.setattr("deploy.emulator.stop_if_unused", lambda: False)
        yield found


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    (folder / "weights").write_bytes(b"weights")
    (folder / SUMS_FILE).parent.mkdir()
    (folder / SUMS_FILE).write_text(json.dumps({"sha256": {"weights": hashlib.sha256(b"weights").hexdigest()}}))
    return folder


def run(config: AnyModelConfig, archive: Path, action: str, via: str = "boto3") -> dict[str, Any]:
    done = sagemaker.run(
        config, action, lambda model, archive_format: archive, emulated=True, dry_run=False, via=via, region=None
    )
    return done.document


def described(account: Emulated) -> dict[str, Any]:
    """Model, configuration, endpoint and their tags, without what AWS adds."""
    endpoint = account.describe(ENDPOINT)
    for variant in endpoint["ProductionVariants"]:
        del variant["DeployedImages"][0]["ResolutionTime"]
    config = account.sagemaker.describe_endpoint_config(EndpointConfigName=endpoint["EndpointConfigName"])
    model = account.sagemaker.describe_model(ModelName=config["ProductionVariants"][0]["ModelName"])
    arns = {"endpoint": endpoint["EndpointArn"], "config": config["EndpointConfigArn"], "model": model["ModelArn"]}
    tags = {kind: account.sagemaker.list_tags(ResourceArn=arn)["Tags"] for kind, arn in arns.items()}
    model.setdefault("EnableNetworkIsolation", False)
    found = {"endpoint": endpoint, "config": config, "model": model}
    stripped = {
        kind: {key: value for key, value in each.items() if key not in MADE_BY_AWS} for kind, each in found.items()
    }
    return {**stripped, "tags": tags}


@pytest.mark.parametrize("section", SECTIONS.values(), ids=SECTIONS)
def test_the_sdk_makes_what_the_plan_describes(account: Emulated, archive: Path, section: dict[str, Any]) -> None:
    config = configured(**section)
    planned = run(config, archive, "plan")
    requests = {call["operation"]: call["request"] for call in planned["calls"]}

    run(config, archive, "apply", via="sdk")
    made = described(account)
    assert made["config"] == {key: value for key, value in requests["CreateEndpointConfig"].items() if key != "Tags"}
    model = {key: value for key, value in requests["CreateModel"].items() if key != "Tags"}
    assert made["model"] == model | {"PrimaryContainer": {"Mode": "SingleModel", **model["PrimaryContainer"]}}
    assert made["endpoint"]["EndpointStatus"] == "InService"
    for tags in made["tags"].values():
        assert tags == requests["CreateEndpoint"]["Tags"]

    # Nothing is left to do, whoever applies.
    for via in ("sdk", "boto3"):
        assert {change["verb"] for change in run(config, archive, "apply", via)["changes"]} == {"keep"}
    run(config, archive, "destroy")
    assert account.running.state()["endpoints"] == []

    run(config, archive, "apply")
    assert described(account) == made
    run(config, archive, "destroy")


def test_a_configuration_that_an_apply_left_halfway(account: Emulated, archive: Path) -> None:
    config = configured()
    run(config, archive, "apply")
    account.delete(ENDPOINT)
    run(config, archive, "apply", via="sdk")
    assert described(account)["endpoint"]["EndpointStatus"] == "InService"
    with pytest.raises(KitError, match="knows no canary"):
        run(configured(env={"A": "1"}), archive, "apply", via="sdk")
    run(config, archive, "destroy")
