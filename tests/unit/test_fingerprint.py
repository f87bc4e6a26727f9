from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch

from servekit import fingerprint
from servekit.settings import Level

CPUINFO = "processor\t: 0\nmodel name\t: A CPU\nflags\t\t: fpu fma avx2 avx512f avx512_vnni\n\nprocessor\t: 1\n"


def test_older_torch_has_the_kernel_s_list_in_the_same_names(monkeypatch: pytest.MonkeyPatch) -> None:
    by_torch = fingerprint.machine()
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert fingerprint.machine()["torch"] == by_torch["torch"]
    vectors = {"avx2", "fma3", "avx512_f", "avx512_vnni", "neon"}
    assert vectors & set(fingerprint.machine()["isa"].split()) == vectors & set(by_torch["isa"].split())


def test_cpuinfo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda self: CPUINFO)
    assert fingerprint.cpu_model() == "A CPU"
    assert fingerprint.cpuinfo("flags", "Features").split()[-1] == "avx512_vnni"
    assert fingerprint.cpuinfo("nothing") == ""


def test_differences_are_named() -> None:
    assert fingerprint.difference({"isa": "a", "torch": "1"}, {"isa": "b", "torch": "1"}) == "isa: built for b, here a"
    assert fingerprint.difference({"isa": "a"}, {"isa": "a", "more": "x"}) == ""
    assert fingerprint.difference({"isa": "a"}, {}) == "isa: built for nothing, here a"


def test_the_settings_know_the_same_levels_in_the_same_order() -> None:
    assert get_args(Level) == tuple(fingerprint.LEVELS)
