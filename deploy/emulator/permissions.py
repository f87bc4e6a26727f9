"""What an IAM role may do, by the documents that moto keeps for it: a role that is not enough fails here as on AWS.

Allow and Deny, wildcards, and the conditions of the kit's own documents. A statement with NotAction, NotResource or a
condition that is not known here allows nothing. Permission boundaries and policies of resources are not read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import unquote

from botocore.exceptions import ClientError

Document = dict[str, Any]
LIKE = {"StringLike", "ArnLike", "ArnEquals"}
EQUAL = {"StringEquals"}
IF_EXISTS = "IfExists"


@dataclass(frozen=True)
class Role:
    """A role: who may take it, and what it may do."""

    trust: Document
    policies: tuple[Document, ...]

    def allows(self, action: str, resource: str = "*", context: Mapping[str, str] | None = None) -> bool:
        """Whether it may. context: values of condition keys, such as s3:prefix."""
        effects = {
            statement["Effect"]
            for policy in self.policies
            for statement in _listed(policy["Statement"])
            if _applies(statement, action, resource, context or {})
        }
        return effects == {"Allow"}

    def trusts(self, service: str, account: str) -> bool:
        """Whether a service may take it."""
        return any(
            statement["Effect"] == "Allow"
            and service in _listed(statement.get("Principal", {}).get("Service", []))
            and _matches_any("sts:AssumeRole", statement.get("Action", []), ignore_case=True)
            and _conditions_hold(statement, {"aws:SourceAccount": account})
            for statement in _listed(self.trust["Statement"])
        )


def read_role(iam: Any, arn: str) -> Role | None:
    """A role by its ARN with all its policies, None if there is none."""
    name = arn.rsplit("/", 1)[-1]
    try:
        trust = iam.get_role(RoleName=name)["Role"]["AssumeRolePolicyDocument"]
    except ClientError:
        return None
    inline = [
        iam.get_role_policy(RoleName=name, PolicyName=policy)["PolicyDocument"]
        for policy in iam.list_role_policies(RoleName=name)["PolicyNames"]
    ]
    attached = [
        _managed(iam, policy["PolicyArn"])
        for policy in iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"]
    ]
    return Role(_document(trust), tuple(_document(each) for each in [*inline, *attached]))


def _managed(iam: Any, arn: str) -> Any:
    version = iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
    return iam.get_policy_version(PolicyArn=arn, VersionId=version)["PolicyVersion"]["Document"]


def _applies(statement: Document, action: str, resource: str, context: Mapping[str, str]) -> bool:
    return (
        _matches_any(action, statement.get("Action", []), ignore_case=True)
        and _matches_any(resource, statement.get("Resource", []))
        and _conditions_hold(statement, context)
    )


def _conditions_hold(statement: Document, context: Mapping[str, str]) -> bool:
    return all(
        _holds(operator, context.get(key), _listed(wanted))
        for operator, tests in statement.get("Condition", {}).items()
        for key, wanted in tests.items()
    )


def _holds(operator: str, value: str | None, wanted: list[str]) -> bool:
    plain = operator.removesuffix(IF_EXISTS)
    if value is None:
        return operator.endswith(IF_EXISTS) and plain in LIKE | EQUAL
    if plain in LIKE:
        return _matches_any(value, wanted)
    return plain in EQUAL and value in wanted


def _matches_any(value: str, patterns: str | list[str], ignore_case: bool = False) -> bool:
    return any(_pattern(pattern, ignore_case).fullmatch(value) for pattern in _listed(patterns))


@cache
def _pattern(wildcards: str, ignore_case: bool) -> re.Pattern[str]:
    escaped = re.escape(wildcards).replace(r"\*", ".*").replace(r"\?", ".")
    return re.compile(escaped, re.DOTALL | re.IGNORECASE if ignore_case else re.DOTALL)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _document(value: Any) -> Document:
    """boto3 gives some documents parsed, some as JSON, some of these with URL escapes."""
    return dict(json.loads(unquote(value)) if isinstance(value, str) else value)
