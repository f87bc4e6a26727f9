"""An emulator of a test's own with fake containers, and the few calls that most tests begin with."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deploy import emulator
from deploy.aws import emulated_session
from deploy.emulator import Options, Running
from model_configs import ROOT

FAKE_CONTAINER = f"{sys.executable} {ROOT / 'tests' / 'fakes' / 'container.py'} serve"
REGION = "eu-west-1"
IMAGE = f"123456789012.dkr.ecr.{REGION}.amazonaws.com/servekit:cpu"
BUCKET = "models-of-tests"
TRUST = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}
ANYTHING = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}


class Emulated:
    """Clients of an emulator, with a bucket, two model files and a role that may do anything."""

    def __init__(self, running: Running) -> None:
        self.running = running
        session = emulated_session(running.url)
        self.s3 = session.client("s3")
        self.iam = session.client("iam")
        self.sagemaker = session.client("sagemaker")
        self.runtime = session.client("sagemaker-runtime", retries={"total_max_attempts": 1}, read_timeout=30)
        self.cloudwatch = session.client("cloudwatch")
        self.session = session
        self.s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
        self.put("m/model.bin", b"weights")
        self.put("m/code/handler.py", b"code")
        self.role = self.make_role("anything", ANYTHING)

    def put(self, key: str, data: bytes) -> None:
        self.s3.put_object(Bucket=BUCKET, Key=key, Body=data)

    def make_role(self, name: str, policy: dict[str, Any], trust: dict[str, Any] | None = None) -> str:
        document = json.dumps(trust or TRUST)
        arn = self.iam.create_role(RoleName=name, AssumeRolePolicyDocument=document)["Role"]["Arn"]
        self.iam.put_role_policy(RoleName=name, PolicyName="p", PolicyDocument=json.dumps(policy))
        return str(arn)

    def model(self, name: str, prefix: str = "m/", role: str | None = None, **environment: str) -> None:
        data = {"S3Uri": f"s3://{BUCKET}/{prefix}", "S3DataType": "S3Prefix", "CompressionType": "None"}
        container = {"Image": IMAGE, "ModelDataSource": {"S3DataSource": data}, "Environment": environment}
        self.sagemaker.create_model(ModelName=name, ExecutionRoleArn=role or self.role, PrimaryContainer=container)

    def config(self, name: str, *models: str, variant: dict[str, Any] | None = None, **more: Any) -> None:
        variants = [
            {
                "VariantName": f"v{number}",
                "ModelName": model,
                "InstanceType": "ml.inf2.xlarge",
                "InitialInstanceCount": 1,
                **(variant or {}),
            }
            for number, model in enumerate(models)
        ]
        self.sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=variants, **more)

    def endpoint(self, name: str, config: str) -> str:
        """Create it and wait; its status then."""
        self.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=config)
        return self.settled(name)

    def update(self, name: str, config: str, **more: Any) -> dict[str, Any]:
        """Update it and wait; its description then."""
        self.sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=config, **more)
        self.settled(name)
        return self.describe(name)

    def describe(self, name: str) -> dict[str, Any]:
        return dict(self.sagemaker.describe_endpoint(EndpointName=name))

    def settled(self, name: str) -> str:
        wait_for(lambda: self.describe(name)["EndpointStatus"] in ("InService", "Failed"))
        return str(self.describe(name)["EndpointStatus"])

    def delete(self, name: str) -> None:
        """And wait until it is gone."""
        self.sagemaker.delete_endpoint(EndpointName=name)
        wait_for(lambda: not self.sagemaker.list_endpoints(NameContains=name)["Endpoints"])

    def ask(self, name: str, body: dict[str, Any] | None = None, **more: Any) -> Any:
        """An answer's JSON."""
        reply = self.runtime.invoke_endpoint(EndpointName=name, Body=json.dumps(body or {}), **more)
        return json.loads(reply["Body"].read())

    def stream(self, name: str, **body: Any) -> Any:
        """A response stream."""
        return self.runtime.invoke_endpoint_with_response_stream(
            EndpointName=name, Body=json.dumps({"stream": True, **body})
        )["Body"]


def wait_for(true: Callable[[], bool], timeout_s: float = 30) -> None:
    """Fails the test when it does not become true."""
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)


@contextmanager
def emulated(port: int, folder: Path, **options: Any) -> Iterator[Emulated]:
    """Runs until the end of the block; nothing of it is left then."""
    wanted = Options(port=port, folder=folder, **{"container": FAKE_CONTAINER, **options})
    try:
        yield Emulated(emulator.ensure(wanted))
    finally:
        emulator.stop(wanted)
