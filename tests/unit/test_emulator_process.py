"""The emulator's process that is there, or is not; tests/e2e/test_emulator.py runs one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import psutil

from deploy import emulator
from deploy.emulator.options import Options
from deploy.emulator.process import STATE_FILE, Running, announce


def test_an_emulator_that_is_gone_is_not_found(tmp_path: Path) -> None:
    options = Options(port=21541, folder=tmp_path)
    assert emulator.running(options) is None
    assert not emulator.stop_if_unused(options)
    announce(options)
    found = emulator.running(options)
    assert found == Running(os.getpid(), options.url, psutil.Process().create_time())
    (tmp_path / STATE_FILE).write_text(json.dumps({"pid": os.getpid(), "url": options.url, "started_s": 1.0}))
    assert emulator.running(options) is None, "another process has its pid"
