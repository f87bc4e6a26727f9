"""Names of what an endpoint consists of: its own stays, a model's and a configuration's carry their content's hash.

So what a name stands for never changes, applying twice makes nothing twice, and all of an endpoint's is found by name.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

MOST = 63
"""Characters of an endpoint's, a configuration's and a model's name."""
MOST_ROLE = 64
HASH_LENGTH = 10
SHORT_HASH_LENGTH = 8
VARIANT = "AllTraffic"
"""As the SageMaker SDK names an endpoint's one variant; it has to stay for guardrails to work."""
SHADOW_VARIANT = "Shadow"

ENDPOINT_TAG = "servekit:endpoint"
MODEL_TAG = "servekit:model"
PREVIOUS_TAG = "servekit:previous-config"


def digest(content: Any) -> str:
    """The sha256 of a JSON document, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def endpoint_name(model: str, given: str | None = None) -> str:
    """The endpoint of a model; two models never share one."""
    if given:
        return given
    plain = re.sub(r"[^a-zA-Z0-9]+", "-", model).strip("-")
    if plain != model:  # a.b and a-b are two models
        plain = f"{plain}-{digest(model)[:SHORT_HASH_LENGTH]}"
    return shortened(f"servekit-{plain}", MOST)


def shortened(name: str, most: int) -> str:
    """The name, or its beginning and its hash where it is longer than most characters."""
    if len(name) <= most:
        return name
    return f"{name[: most - SHORT_HASH_LENGTH - 1].rstrip('-')}-{digest(name)[:SHORT_HASH_LENGTH]}"


def stem(endpoint: str) -> str:
    """What the names of the endpoint's models and configurations begin with."""
    return shortened(endpoint, MOST - HASH_LENGTH - 1)


def versioned(endpoint: str, content: Any) -> str:
    """The name of a model or a configuration of this content."""
    return f"{stem(endpoint)}-{digest(content)[:HASH_LENGTH]}"


def any_version(endpoint: str) -> str:
    """All names of models and configurations of an endpoint, and no neighbour's, as IAM's wildcards say it."""
    return f"{stem(endpoint)}-{'?' * HASH_LENGTH}"


def is_versioned(name: str, endpoint: str) -> bool:
    """Whether it is the name of one of this endpoint's models and configurations, and not of servekit-llama-13b's."""
    return bool(re.fullmatch(rf"{re.escape(stem(endpoint))}-[0-9a-f]{{{HASH_LENGTH}}}", name))


def role(endpoint: str, region: str) -> str:
    """The execution role that the kit makes; IAM has no regions, so its name has."""
    return shortened(f"{endpoint}-{region}", MOST_ROLE)


def default_bucket(account: str, region: str) -> str:
    """One for all endpoints of an account's region."""
    return f"servekit-{account}-{region}"


def log_group(endpoint: str) -> str:
    """Where the containers' output goes."""
    return f"/aws/sagemaker/Endpoints/{endpoint}"


def resource(endpoint: str) -> str:
    """The endpoint's variant, as application-autoscaling calls it."""
    return f"endpoint/{endpoint}/variant/{VARIANT}"


def as_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Tags as requests have them."""
    return [{"Key": key, "Value": value} for key, value in sorted(tags.items())]


def as_dict(tags: list[dict[str, str]]) -> dict[str, str]:
    """Tags as answers have them."""
    return {tag["Key"]: tag["Value"] for tag in tags}
