"""Sessions: what is missing is said in words, and the emulator's read nothing of the user's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from deploy import aws
from deploy.aws import Aws
from model_configs.errors import KitError

VARIABLES = (
    "AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL",
)  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_is_configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Returns the user's configuration file, which is not there yet."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return tmp_path / "config"


def test_no_region() -> None:
    with pytest.raises(KitError, match="no AWS region") as caught:
        aws.session(False)
    assert "--region" in caught.value.hint


def test_no_credentials() -> None:
    with pytest.raises(KitError, match="no AWS credentials") as caught:
        aws.session(False, "eu-west-1")
    assert "--on emulator" in caught.value.hint


def test_a_profile_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "production")
    with pytest.raises(KitError, match="production"):
        aws.session(False, "eu-west-1")


def test_half_of_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
    with pytest.raises(KitError, match="AWS_SECRET_ACCESS_KEY"):
        aws.session(False, "eu-west-1")


def test_what_the_user_has_configured(nothing_is_configured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing_is_configured.write_text("[default]\nregion = ap-south-1\n")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    found = aws.session(False)
    assert (found.region, found.emulated, found.partition) == ("ap-south-1", False, "aws")
    assert "secret" not in repr(found)
    assert aws.session(False, "cn-north-1").partition == "aws-cn"
    config = found.client("s3", read_timeout=3).meta.config
    assert (config.read_timeout, config.retries) == (3, aws.RETRIES)
    once = {"mode": "standard", "total_max_attempts": 1}
    assert found.client("s3", retries=once).meta.config.retries == once


def test_the_emulators_session_reads_nothing_of_the_users(
    nothing_is_configured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing_is_configured.write_text("[default]\nregion = ap-south-1\nendpoint_url = http://elsewhere\n")
    monkeypatch.setenv("AWS_PROFILE", "production")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://elsewhere")
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:3128")
    found = aws.emulated_session("http://127.0.0.1:21001")
    client = found.client("s3")
    assert (found.region, found.emulated) == (aws.EMULATOR_REGION, True)
    assert client.meta.endpoint_url == "http://127.0.0.1:21001"
    assert client.meta.config.proxies == {}
    assert found.session.get_credentials().access_key == aws.EMULATOR_KEY
    assert aws.emulated_session("http://127.0.0.1:21001", "us-east-2").region == "us-east-2"


class Sts:
    """A session whose one client answers, or raises, what it was given."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def client(self, service: str, **config: Any) -> Sts:
        assert service == "sts"
        return self

    def get_caller_identity(self) -> Any:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


def refusal(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "no"}}, "GetCallerIdentity")


def test_the_account_is_asked_once() -> None:
    found = Aws(Sts({"Account": "123456789012"}), "eu-west-1")
    assert found.account == "123456789012"
    object.__setattr__(found, "session", Sts(refusal("Throttling")))
    assert found.account == "123456789012"


@pytest.mark.parametrize("code", ["ExpiredToken", "InvalidClientTokenId"])
def test_credentials_that_aws_refuses(code: str) -> None:
    with pytest.raises(KitError, match=f"AWS refuses the credentials: {code}"):
        _ = Aws(Sts(refusal(code)), "eu-west-1").account


def test_other_refusals_are_not_explained_away() -> None:
    with pytest.raises(ClientError):
        _ = Aws(Sts(refusal("Throttling")), "eu-west-1").account


def test_no_network() -> None:
    with pytest.raises(KitError, match="who am I"):
        _ = Aws(Sts(EndpointConnectionError(endpoint_url="https://sts")), "eu-west-1").account
