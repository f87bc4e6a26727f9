"""Clients of AWS's services, or of this machine's emulator in their place: one session, its region, its account.

The emulator's clients read nothing of the user's AWS configuration. Knows nothing of what is called.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    TokenRetrievalError,
    UnauthorizedSSOTokenError,
)

from model_configs.errors import KitError

EMULATOR_REGION = "eu-west-1"
EMULATOR_KEY = "emulator"
RETRIES = {"mode": "standard", "total_max_attempts": 5}
"""Of calls that fail on their way, or are too many; whoever asks a model wants none."""
NO_FILE = {"profile": (None, None, None, None), "config_file": (None, None, os.devnull, None)}
"""botocore's session variables, for a session that reads neither AWS_PROFILE nor ~/.aws/config."""
CREDENTIALS_HINT = "aws configure, or AWS_PROFILE; without an account: --on emulator"
REFUSED = {"ExpiredToken", "ExpiredTokenException", "InvalidClientTokenId", "SignatureDoesNotMatch", "AuthFailure"}


@dataclass(frozen=True)
class Aws:
    """One session. url: the emulator's, for all services; None for AWS's own."""

    session: Any = field(repr=False)
    region: str
    url: str | None = None

    @property
    def emulated(self) -> bool:
        """Whether calls go to the emulator."""
        return self.url is not None

    @property
    def partition(self) -> str:
        """The first part of the region's ARNs: aws, aws-cn, aws-us-gov."""
        return str(self.session.get_partition_for_region(self.region))

    @cached_property
    def account(self) -> str:
        """The account's 12 digits. Raises KitError where the credentials are missing or refused."""
        try:
            return str(self.client("sts").get_caller_identity()["Account"])
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code not in REFUSED:
                raise
            raise KitError(f"AWS refuses the credentials: {code}", CREDENTIALS_HINT) from None
        except BotoCoreError as error:
            raise KitError(f"who am I? {error}", CREDENTIALS_HINT) from None

    def client(self, service: str, **config: Any) -> Any:
        """A boto3 client; config: fields of botocore's Config, such as read_timeout in seconds."""
        config = {"retries": RETRIES, **config}
        if self.emulated:  # path: a bucket's name is no host of this machine; a proxy has no business on loopback
            config = {"s3": {"addressing_style": "path"}, "proxies": {}, **config}
        return self.session.client(service, endpoint_url=self.url, config=Config(**config))


def session(emulated: bool, region: str | None = None) -> Aws:
    """AWS as the user's configuration has it, or the emulator, which is started if none runs.

    Raises KitError without a region or credentials.
    """
    if emulated:
        from deploy import emulator

        return emulated_session(emulator.ensure().url, region)
    try:
        found = boto3.Session(region_name=region)
        credentials = found.get_credentials()
    except ProfileNotFound as error:
        raise KitError(str(error), "aws configure list-profiles") from None
    except (NoCredentialsError, PartialCredentialsError, TokenRetrievalError, UnauthorizedSSOTokenError) as error:
        raise KitError(str(error), CREDENTIALS_HINT) from None
    if found.region_name is None:
        raise KitError("no AWS region", "--region eu-west-1, or AWS_REGION")
    if credentials is None:
        raise KitError("no AWS credentials", CREDENTIALS_HINT)
    return Aws(found, found.region_name)


def emulated_session(url: str, region: str | None = None) -> Aws:
    """A session of an emulator that runs at this URL."""
    bare = botocore.session.Session(session_vars=NO_FILE)
    made = boto3.Session(
        aws_access_key_id=EMULATOR_KEY,
        aws_secret_access_key=EMULATOR_KEY,
        region_name=region or EMULATOR_REGION,
        botocore_session=bare,
    )
    return Aws(made, made.region_name, url)
