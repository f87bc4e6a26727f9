"""Where an endpoint is: the account and region, as ARNs and addresses need them."""

from __future__ import annotations

from dataclasses import dataclass

from botocore.loaders import Loader

from deploy.aws import Aws


@dataclass(frozen=True)
class Place:
    """One region of one account. has_tls: not on the emulator, which speaks plain HTTP."""

    account: str
    region: str
    partition: str = "aws"
    has_tls: bool = True

    @property
    def dns_suffix(self) -> str:
        """The end of the region's host names: amazonaws.com, amazonaws.com.cn."""
        partitions = Loader().load_data("partitions")["partitions"]
        return str(next(each["outputs"]["dnsSuffix"] for each in partitions if each["id"] == self.partition))

    def arn(self, service: str, resource: str) -> str:
        """The ARN of something here."""
        return f"arn:{self.partition}:{service}:{self.region}:{self.account}:{resource}"

    def sagemaker_arn(self, kind: str, name: str) -> str:
        """Of an endpoint, an endpoint-config or a model; SageMaker writes their names in lower case there."""
        return self.arn("sagemaker", f"{kind}/{name.lower()}")

    def role_arn(self, name_or_arn: str) -> str:
        """Of a role by its name; an ARN stays as it is."""
        if name_or_arn.startswith("arn:"):
            return name_or_arn
        return f"arn:{self.partition}:iam::{self.account}:role/{name_or_arn}"

    def bucket_arn(self, bucket: str, keys: str = "") -> str:
        """Of a bucket, or of keys in it."""
        return f"arn:{self.partition}:s3:::{bucket}{f'/{keys}' if keys else ''}"


def of(aws: Aws) -> Place:
    """The session's. Raises KitError where AWS refuses the credentials."""
    return Place(aws.account, aws.region, aws.partition, not aws.emulated)
