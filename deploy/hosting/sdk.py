"""Has the SageMaker SDK's version 2 make a planned endpoint, in its own environment, .venv/sagemaker.

It wants other versions than the kit's, and 300 MB. Knows nothing of how it does it: sdk_runner.py does.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from deploy.aws import EMULATOR_KEY, Aws
from deploy.hosting.changes import Change
from deploy.hosting.plan import Plan
from model_configs import ROOT
from model_configs.errors import Failed, KitError

PYTHON = ROOT / ".venv" / "sagemaker" / "bin" / "python"
RUNNER = Path(__file__).with_name("sdk_runner.py")
TIMEOUT_S = 300
MADE = ("CreateModel", "CreateEndpointConfig", "CreateEndpoint")
"""The calls that the SDK makes in the kit's place."""
USER_VARIABLES = ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION")
QUIET = {"SAGEMAKER_SUPPRESS_V2_WARNING": "1"}
LAST_LINES = 8


def check(plan: Plan, found: list[Change], python: Path = PYTHON) -> None:
    """Raises KitError for what the SDK's deploy cannot do, and when the SDK is not there."""
    boto3 = "--via boto3, the default, does"
    if any(change.step.operation == "UpdateEndpoint" for change in found):
        raise KitError(f"{plan.layout.endpoint} is there: the SDK's deploy knows no canary and no alarms", boto3)
    if plan.layout.section.shadow:
        raise KitError("deploy.sagemaker.shadow: the SDK's deploy knows no shadow variant", boto3)
    if not python.exists():
        raise KitError(f"the SageMaker SDK is not in {python.parent.parent}", "make .venv/sagemaker/.installed")


def deploy(plan: Plan, aws: Aws, python: Path = PYTHON) -> None:
    """Make model, configuration and endpoint; returns when SageMaker has begun. Raises Failed with the SDK's words."""
    (model,), (config,), (endpoint,) = (plan.only(operation) for operation in MADE)
    requests = {"model": model.request, "config": config.request, "endpoint": endpoint.request}
    try:
        done = subprocess.run(
            [str(python), "-I", str(RUNNER)],
            input=json.dumps({**requests, "region": aws.region}),
            env=environment(aws),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,  # the SDK has tracebacks printed to either
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"the SDK has not come back after {TIMEOUT_S} s") from None
    if done.returncode:
        words = done.stdout.strip().splitlines()[-LAST_LINES:]
        raise Failed("\n".join(["the SageMaker SDK failed:", *words]))


def environment(aws: Aws) -> dict[str, str]:
    """The user's; for the emulator one that leads to it and to nothing of the user's."""
    if aws.url is None:
        return os.environ | QUIET
    own = {
        **QUIET,
        "AWS_ENDPOINT_URL": aws.url,
        "AWS_ACCESS_KEY_ID": EMULATOR_KEY,
        "AWS_SECRET_ACCESS_KEY": EMULATOR_KEY,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "NO_PROXY": "127.0.0.1",
    }
    return {**{name: value for name, value in os.environ.items() if name not in USER_VARIABLES}, **own}
