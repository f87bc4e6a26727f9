"""A stack in a real account, from plan to destroy, with your credentials.

Costs: some 30 minutes of the model's instances, of one load balancer and of their volumes, and a few requests, log lines
and objects: for a c7i.large less than a US dollar at list prices. What is left afterwards, and costs next to nothing, is the
bucket with the load balancer's access logs.

Needs SERVEKIT_AWS_EC2_MODEL: a model of model_configs/ whose deploy.ec2 is whole, with deletion_protection: false, and whose
image and keys are in the account.
"""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

import kit

MODEL = os.environ.get("SERVEKIT_AWS_EC2_MODEL", "")
pytestmark = [
    pytest.mark.aws,
    pytest.mark.skipif(not MODEL, reason="SERVEKIT_AWS_EC2_MODEL names no model to deploy to your account"),
]


def deploy(capsys: pytest.CaptureFixture[str], action: str) -> dict[str, Any]:
    capsys.readouterr()
    assert kit.run(["deploy", "ec2", MODEL, action]) == 0, capsys.readouterr().err
    return dict(json.loads(capsys.readouterr().out.splitlines()[-1]))


def test_a_stack_in_an_account(capsys: pytest.CaptureFixture[str]) -> None:
    assert deploy(capsys, "plan")["resources"] > 15
    try:
        made = deploy(capsys, "apply")
        assert (made["state"], made["ready"]) == ("created", True)
        assert deploy(capsys, "status")["ready"]
        assert deploy(capsys, "apply")["state"] == "no changes"
    finally:
        gone = deploy(capsys, "destroy")
    assert gone["state"] == "destroyed"
