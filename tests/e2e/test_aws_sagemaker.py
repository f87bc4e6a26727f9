"""From YAML to a streaming endpoint and back in a real account, by the command line. `make test-aws`.

Needs credentials, a region, and the image `servekit:cpu` in the account's ECR. Cost of one run, by the list price of
us-east-1 as it is remembered (about $0.11 an hour for ml.c7i.large; look it up): two fleets of one instance for at most half an
hour, about $0.11, and cents for requests, logs and an alarm. Whatever fails, the endpoint is destroyed at the end.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml

from model_configs import CONFIGS_DIR
from tests.e2e.conftest import kit

pytestmark = [
    pytest.mark.aws,
    pytest.mark.skipif(
        os.environ.get("SERVEKIT_TEST_AWS") != "1", reason="deploys to your AWS account, about $0.11: make test-aws"
    ),
]
MODEL = "pydoc-llama-aws-test"
ENDPOINT = f"servekit-{MODEL}"
MINUTES = 60.0


@pytest.fixture(scope="module")
def model() -> Iterator[Path]:
    """A copy of pydoc-llama's YAML whose endpoint is this test's own; the endpoint is gone when the test is."""
    path = CONFIGS_DIR / f"{MODEL}.yaml"
    config = yaml.safe_load((CONFIGS_DIR / "pydoc-llama.yaml").read_text())
    config["model"]["name"] = MODEL
    path.write_text(yaml.safe_dump(config))
    try:
        yield path
    finally:
        done = kit("deploy", "sagemaker", MODEL, "destroy", timeout_s=30 * MINUTES)
        path.unlink()
        assert done.returncode == 0, done.stdout + done.stderr


def deploy(action: str) -> dict[str, Any]:
    done = kit("deploy", "sagemaker", MODEL, action, timeout_s=60 * MINUTES)
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


# 30 minutes of one ml.c7i.large, for the update's 10 minutes of two: about $0.11.
def test_from_yaml_to_a_stream_and_back(model: Path) -> None:
    assert {change["verb"] for change in deploy("plan")["changes"]} <= {"make", "keep"}
    first = deploy("apply")
    assert {change["verb"] for change in deploy("apply")["changes"]} == {"keep"}
    assert deploy("status")["status"] == "InService"

    done = kit("invoke", MODEL, "The with statement", "--on", "sagemaker", "--max-tokens", "20", timeout_s=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["text"]

    config = yaml.safe_load(model.read_text())
    config["deploy"]["sagemaker"]["env"] = {"ROUND": "2"}
    model.write_text(yaml.safe_dump(config))
    second = deploy("update")
    assert second["endpoint_config"] != first["endpoint_config"]
    assert deploy("rollback")["configuration"] == first["endpoint_config"]
    assert deploy("status")["configuration"] == first["endpoint_config"]


# Validating a policy costs nothing.
@pytest.mark.parametrize("who", ["execution", "deployer", "client"])
def test_aws_finds_nothing_wrong_with_the_iam_documents(model: Path, who: str) -> None:
    analyzer = boto3.client("accessanalyzer")
    document = json.dumps(deploy("plan")["iam"][who])
    found = analyzer.validate_policy(policyDocument=document, policyType="IDENTITY_POLICY")["findings"]
    assert [each["findingDetails"] for each in found if each["findingType"] in ("ERROR", "SECURITY_WARNING")] == []
