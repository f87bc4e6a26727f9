"""One measured run: the cold request, Locust with our timetable, the records' summary, the verdict, the run's folder.

Knows nothing of sweeps and searches, which call it again and again.
"""

from __future__ import annotations

from pathlib import Path

from loadtest.run import Run
from loadtest.serving import Served
from model_configs.loadtest import LoadTest


def measure(served: Served, load: LoadTest, folder: Path, *, processes: int = 1) -> Run:
    """Make a run against a model that answers, and write its folder: records, run.json, summary.md, report.html.

    folder: made when it is not there, and must hold no run. processes: Locust workers of this machine.
    Raises KitError for a plan that cannot be carried out, Failed when Locust itself fails.
    """
    raise NotImplementedError
