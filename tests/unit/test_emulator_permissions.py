"""IAM's documents, as far as the emulator reads them."""

from __future__ import annotations

from typing import Any

import pytest

from deploy.emulator.permissions import Role

TRUST = {
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}]
}
KEY = "arn:aws:s3:::bucket/models/x"


def role(*statements: dict[str, Any]) -> Role:
    return Role(TRUST, ({"Statement": list(statements)},))


def allow(action: Any, resource: Any, **more: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": action, "Resource": resource, **more}


@pytest.mark.parametrize(
    ("statements", "allowed"),
    [
        ([], False),
        ([allow("s3:GetObject", "arn:aws:s3:::bucket/models/*")], True),
        ([allow("S3:getobject", KEY)], True),
        ([allow(["s3:PutObject", "s3:Get*"], ["arn:aws:s3:::other/*", "arn:aws:s3:::bucket/*"])], True),
        ([allow("s3:GetObjec?", "*")], True),
        ([allow("s3:GetObject", "arn:aws:s3:::bucket/Models/*")], False),
        ([allow("s3:GetObject", "arn:aws:s3:::bucket")], False),
        ([allow("s3:ListBucket", "*")], False),
        ([allow("*", "*"), {"Effect": "Deny", "Action": "s3:*", "Resource": KEY}], False),
        ([{"Effect": "Allow", "NotAction": "iam:*", "Resource": "*"}], False),
        ([allow("s3:GetObject", "*", Condition={"Bool": {"aws:SecureTransport": "true"}})], False),
    ],
)
def test_what_a_role_may_do(statements: list[dict[str, Any]], allowed: bool) -> None:
    assert role(*statements).allows("s3:GetObject", KEY) is allowed


@pytest.mark.parametrize(
    ("condition", "prefix", "allowed"),
    [
        ({"StringLike": {"s3:prefix": ["models/*"]}}, "models/a/", True),
        ({"StringLike": {"s3:prefix": ["models/*"]}}, "other/", False),
        ({"StringEquals": {"s3:prefix": "models/"}}, "models/", True),
        ({"StringEquals": {"s3:prefix": "models/"}}, "models/a", False),
        ({"StringEquals": {"aws:SourceVpc": "vpc-1"}}, "models/", False),
        ({"StringEqualsIfExists": {"aws:SourceVpc": "vpc-1"}}, "models/", True),
        ({"NumericLessThan": {"s3:prefix": "1"}}, "models/", False),
    ],
)
def test_conditions(condition: dict[str, Any], prefix: str, allowed: bool) -> None:
    found = role(allow("s3:ListBucket", "arn:aws:s3:::bucket", Condition=condition))
    assert found.allows("s3:ListBucket", "arn:aws:s3:::bucket", {"s3:prefix": prefix}) is allowed


@pytest.mark.parametrize(
    ("principal", "condition", "trusted"),
    [
        ({"Service": "sagemaker.amazonaws.com"}, {}, True),
        ({"Service": ["ec2.amazonaws.com", "sagemaker.amazonaws.com"]}, {}, True),
        ({"Service": "ec2.amazonaws.com"}, {}, False),
        ({"AWS": "*"}, {}, False),
        ({"Service": "sagemaker.amazonaws.com"}, {"StringEquals": {"aws:SourceAccount": "123456789012"}}, True),
        ({"Service": "sagemaker.amazonaws.com"}, {"StringEquals": {"aws:SourceAccount": "2"}}, False),
    ],
)
def test_who_may_take_a_role(principal: dict[str, Any], condition: dict[str, Any], trusted: bool) -> None:
    statement = {"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole", "Condition": condition}
    assert Role({"Statement": statement}, ()).trusts("sagemaker.amazonaws.com", "123456789012") is trusted
