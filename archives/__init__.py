"""From a model's YAML to an archive that TorchServe and SageMaker take, and the proof that it loads.

Knows nothing of running servers.
"""

from model_configs import ROOT

STORE = ROOT / "archives" / "store"
