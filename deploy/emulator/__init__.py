"""AWS on this machine, for tests and for rehearsals: SageMaker's endpoints are ours and strict, the rest is moto's.

The first `--on emulator` starts it in the background; stop_if_unused ends it when nothing is deployed there any more.
"""

from deploy.emulator.options import Options
from deploy.emulator.process import Running, ensure, running, stop, stop_if_unused

__all__ = ["Options", "Running", "ensure", "running", "stop", "stop_if_unused"]
