"""What is set on which CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy import runtime

GRAVITON3 = {
    "DNNL_DEFAULT_FPMATH_MODE": "BF16",
    "THP_MEM_ALLOC_ENABLE": "1",
    "LRU_CACHE_CAPACITY": "1024",
    "TORCH_MKLDNN_MATMUL_MIN_DIM": "64",
}


@pytest.mark.parametrize(
    ("architecture", "features", "expected"),
    [
        ("aarch64", ["neon", "sve", "bf16"], GRAVITON3),
        ("aarch64", ["neon"], {key: value for key, value in GRAVITON3.items() if "FPMATH" not in key}),
        ("x86_64", ["avx512_f", "avx512_bf16"], {}),
    ],
)
def test_graviton_gets_awss_settings(architecture: str, features: list[str], expected: dict[str, str]) -> None:
    assert runtime.variables({}, architecture, features, folders=[]) == expected | runtime.GLIBC


def test_what_is_set_already_stays() -> None:
    own = {"DNNL_DEFAULT_FPMATH_MODE": "STRICT", "LD_PRELOAD": "/lib/mine.so"}
    found = runtime.variables(own, "aarch64", ["bf16"], folders=[])
    assert found == {key: value for key, value in (GRAVITON3 | runtime.GLIBC).items() if key not in own}


def test_the_first_allocator_there_is(tmp_path: Path) -> None:
    empty, full = tmp_path / "empty", tmp_path / "full"
    empty.mkdir()
    full.mkdir()
    assert runtime.find_allocator([empty, full]) is None
    (full / "libjemalloc.so.2").touch()
    assert runtime.find_allocator([empty, full]) == full / "libjemalloc.so.2"
    (full / "libtcmalloc_minimal.so.4").touch()
    assert runtime.variables({}, "x86_64", [], [empty, full]) == {"LD_PRELOAD": f"{full}/libtcmalloc_minimal.so.4"}
    assert runtime.variables({"LD_PRELOAD": "x"}, "x86_64", [], [full]) == {}


def test_this_machine_is_asked_when_none_is_told() -> None:
    assert set(runtime.variables({}, folders=[])) <= set(GRAVITON3 | runtime.GLIBC)
