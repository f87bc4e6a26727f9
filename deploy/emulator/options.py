"""How an emulator runs, by variables of the environment: SERVEKIT_EMULATOR_PORT and so on, one for each field."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deploy import RUN_DIR
from model_configs import ROOT
from model_configs.errors import KitError

PREFIX = "SERVEKIT_EMULATOR_"
HOST = "127.0.0.1"
DEFAULT_PORT = 14566


class Options(BaseModel):
    """All that can be set. Strings from the environment are converted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    port: int = Field(DEFAULT_PORT, ge=1024, le=65535)
    folder: Path = RUN_DIR / "emulator"
    """State, logs, and what containers get in place of /opt/ml/model."""
    time_scale: float = Field(0.01, ge=0, le=1)
    """Waits of a deployment are this much of what they say: a bake of 300 s takes 3 s."""
    limit_scale: float = Field(1.0, gt=0, le=1)
    """Limits are this much of SageMaker's: the 60 s that an answer may take, the 8 minutes of a stream, start-up."""
    container: str = shlex.join([sys.executable, str(ROOT / "docker" / "entrypoint.py"), "serve"])
    """What stands for every image: the command of its container."""

    @property
    def url(self) -> str:
        """Of all services."""
        return f"http://{HOST}:{self.port}"

    def environment(self) -> dict[str, str]:
        """The variables that from_environment makes the same options from."""
        return {f"{PREFIX}{name.upper()}": str(value) for name, value in self.model_dump().items()}


def from_environment(environment: Mapping[str, str] = os.environ) -> Options:
    """Raises KitError for a variable that is unknown or wrong."""
    given = {name[len(PREFIX) :].lower(): value for name, value in environment.items() if name.startswith(PREFIX)}
    try:
        return Options.model_validate(given)
    except ValidationError as error:
        found = error.errors()[0]
        name = f"{PREFIX}{str(found['loc'][0]).upper()}"
        known = ", ".join(PREFIX + field.upper() for field in Options.model_fields)
        raise KitError(f"{name}: {found['msg']}", f"known variables: {known}") from None
