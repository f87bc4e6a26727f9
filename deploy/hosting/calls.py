"""Makes the calls of steps, or prints them and makes none; AWS's refusals in words that help."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from deploy.aws import Aws
from deploy.hosting.steps import Step
from model_configs.errors import Failed, KitError
from printing import err, out

DENIED = ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "403")
GONE = (
    "404",
    "NoSuchBucket",
    "NoSuchBucketPolicy",
    "NoSuchEntity",
    "NoSuchKey",
    "NoSuchLifecycleConfiguration",
    "NoSuchPublicAccessBlockConfiguration",
    "NoSuchTagSet",
    "NoSuchUpload",
    "ObjectNotFoundException",
    "ResourceNotFound",
    "ResourceNotFoundException",
)
S3_RETRIES = {"mode": "standard", "total_max_attempts": 6}


class Calls:
    """One session's clients; with dry_run they only read."""

    def __init__(self, aws: Aws, dry_run: bool = False) -> None:
        self.aws = aws
        self.dry_run = dry_run
        self._clients: dict[str, Any] = {}

    def client(self, service: str) -> Any:
        """To read with."""
        if service not in self._clients:
            config = {"retries": S3_RETRIES, "max_pool_connections": 16} if service == "s3" else {}
            self._clients[service] = self.aws.client(service, **config)
        return self._clients[service]

    def make(self, step: Step) -> dict[str, Any]:
        """Make the call; printed and an empty answer instead if dry. Raises Failed and KitError."""
        if self.dry_run:
            out.print(f"would call {step.service} {step.operation} {json.dumps(step.request)}")
            return {}
        what = f"{step.service} {step.operation} {step.name}"
        err.print(what)
        with explained(what):
            return dict(getattr(self.client(step.service), step.method)(**step.request))


@contextmanager
def explained(what: str) -> Iterator[None]:
    """AWS's errors inside become Failed and KitError."""
    try:
        yield
    except ClientError as error:
        code, message = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
        if code in DENIED:
            raise KitError(
                f"{what}: {message or code}", "`plan --json FILE` writes what whoever deploys may do: iam.deployer"
            ) from None
        raise Failed(f"{what}: {message or code}") from None
    except BotoCoreError as error:
        raise KitError(
            f"{what}: {error}", "a network, a region that has the service; without an account: --on emulator"
        ) from None


def is_gone(error: ClientError) -> bool:
    """Whether AWS says that there is no such thing."""
    code, message = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
    return code in GONE or (code == "ValidationException" and "ould not find" in message)
