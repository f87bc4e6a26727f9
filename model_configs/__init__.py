"""One YAML a model, and the schema that checks it: the single source of truth.

The lowest floor of the kit. It also puts handlers/ on the path, as TorchServe puts an archive's root on a worker's,
so that the kit and the workers read the same servekit.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HANDLERS_DIR = ROOT / "handlers"
CONFIGS_DIR = ROOT / "model_configs"

if str(HANDLERS_DIR) not in sys.path:
    sys.path.append(str(HANDLERS_DIR))
