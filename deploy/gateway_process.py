"""A gateway's processes: nginx at the public port, one small nginx before each TorchServe, the health process, and
the mirror's if there is one. Start them, find them again, stop them without leaving anything behind.

nginx before a TorchServe puts in its token, and is what a rolling restart exchanges: its socket is a slot of the
gateway's, so that nothing that holds a client's connection is ever restarted. Knows nothing of what models answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy import RUN_DIR
from deploy.gateway import GatewayOptions
from deploy.local import Server


@dataclass(frozen=True)
class Gateway:
    """A gateway that was started here. servers: the TorchServe of each slot, by its folder's name (its port)."""

    port: int
    folder: Path
    tls: bool
    servers: tuple[int, ...]

    @property
    def alive(self) -> bool:
        """Whether nginx and the health process run."""
        raise NotImplementedError

    def ping(self) -> tuple[int, str]:
        """What /ping answers now: status, and why it is not 200. Never raises for a gateway that is down: that is 0."""
        raise NotImplementedError

    def drain(self) -> None:
        """/ready says 503 from now on, and requests are still answered."""
        raise NotImplementedError

    def stop(self, timeout_s: float) -> bool:
        """Drain, take no more connections, let requests under way end for timeout_s, then end every process.

        Whether all requests ended by themselves. TorchServe is not stopped.
        """
        raise NotImplementedError


def start(options: GatewayOptions, servers: Sequence[Server]) -> Gateway:
    """Start it in front of TorchServes, as many as there are slots, which need not answer yet; listens on return.

    Raises KitError where nginx is missing or the port is taken, Failed where nginx refuses its configuration.
    """
    raise NotImplementedError


def gateways(run_dir: Path = RUN_DIR) -> list[Gateway]:
    """Every gateway that was started and not stopped, by port."""
    raise NotImplementedError
