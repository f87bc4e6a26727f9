"""A container's first process: `serve`, as SageMaker starts it, or nothing for the models of a folder.

Works outside a container just as well: SERVEKIT_MODEL_DIR, SAGEMAKER_BIND_TO_PORT and SERVEKIT_RUN_DIR say where.
"""

import os
import signal
import sys
from pathlib import Path

# A container's first process is not ended by a signal that it does not handle, and what follows takes half a second.
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
# Model folders may be read-only; workers, which import from there, inherit this.
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
sys.dont_write_bytecode = True
sys.path[0] = str(Path(__file__).resolve().parent.parent)

if __name__ == "__main__":
    from deploy.container import main

    sys.exit(main(sys.argv[1:], os.environ))
