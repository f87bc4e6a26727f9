"""What everything inside one emulator shares: options, faults, and clients of the services that moto answers for.

These clients call the emulator's own URL, as any other program would. Knows nothing of endpoints.
"""

from __future__ import annotations

import threading
from typing import Any

from deploy.aws import Aws, emulated_session
from deploy.emulator.faults import Injector
from deploy.emulator.options import Options


class Host:
    """One emulator's."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.faults = Injector()
        self.violations: list[str] = []
        """What containers did that real ones could not."""
        self._lock = threading.Lock()
        self._sessions: dict[str, Aws] = {}
        self._clients: dict[tuple[str, str], Any] = {}

    def aws(self, region: str) -> Aws:
        """The session of a region."""
        with self._lock:
            return self._sessions.setdefault(region, emulated_session(self.options.url, region))

    def client(self, service: str, region: str) -> Any:
        """A client, made once: threads may share it."""
        session = self.aws(region)
        with self._lock:
            if (service, region) not in self._clients:
                self._clients[service, region] = session.client(service)
            return self._clients[service, region]

    def arn(self, region: str, resource: str) -> str:
        """A SageMaker resource's."""
        session = self.aws(region)
        return f"arn:{session.partition}:sagemaker:{region}:{session.account}:{resource}"

    def report(self, line: str) -> None:
        """Into the emulator's log."""
        print(line, flush=True)
