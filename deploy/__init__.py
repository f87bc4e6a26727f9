"""Where archives run: on this machine, and later on SageMaker and EC2. Knows nothing of load tests."""

from model_configs import ROOT

RUN_DIR = ROOT / ".run"
