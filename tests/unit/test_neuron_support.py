from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.neuron_support import (
    CORES,
    IMAGE,
    LAST_SDK,
    SDKS,
    TP_DEGREES,
    advice,
    buckets,
    environment_notes,
    max_length_of,
    memory,
    parse_cores,
    problems,
    visible_cores,
)
from servekit.settings import LlamaSettings, NeuronSettings

GIB = 1024**3
LLAMA_7B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
}
LLAMA_13B = {**LLAMA_7B, "hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40} | {
    "num_attention_heads": 40,
    "num_key_value_heads": 40,
}
LLAMA_3_8B = {**LLAMA_7B, "intermediate_size": 14336, "num_key_value_heads": 8, "vocab_size": 128256}
LLAMA_70B = {**LLAMA_7B, "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80} | {
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
}


def neuron(tp_degree: int = 12, **keys: Any) -> LlamaSettings:
    return LlamaSettings(tp_degree=tp_degree, **{"max_length": 100, **keys})


@pytest.mark.parametrize(
    ("max_length", "expected"),
    [(100, (100,)), (128, (128,)), (129, (128, 129)), (2048, (128, 256, 512, 1024, 2048)), (300, (128, 256, 300))],
)
def test_buckets(max_length: int, expected: tuple[int, ...]) -> None:
    assert buckets(max_length) == expected


@given(st.integers(2, 1 << 20))
def test_every_length_has_a_bucket_at_most_twice_as_long(max_length: int) -> None:
    sizes = buckets(max_length)
    assert sizes[-1] == max_length
    assert list(sizes) == sorted(set(sizes))
    assert all(larger <= 2 * smaller for smaller, larger in pairwise(sizes))


@pytest.mark.parametrize(
    ("place", "tp_degree", "first", "expected"),
    [
        (0, 12, None, "0-11"),
        (1, 12, None, "12-23"),
        (1, 2, "4-5", "6-7"),
        (0, 2, "0,2", "0,2"),
        (1, 2, "0,2", "3,5"),
        (0, 12, "0-23", "0-11"),  # the server's cores, for all of its workers
        (1, 12, "0-23", "12-23"),
        (3, 1, None, "3"),
    ],
)
def test_visible_cores(place: int, tp_degree: int, first: str | None, expected: str) -> None:
    assert visible_cores(place, tp_degree, first) == expected


@given(
    st.integers(1, 12),
    st.integers(1, 3).flatmap(lambda k: st.sets(st.integers(0, 60), min_size=12 * k, max_size=12 * k)),
    st.integers(1, 5),
)
def test_no_two_workers_share_a_core(tp_degree: int, listed: set[int], workers: int) -> None:
    first = ",".join(map(str, sorted(listed)[: len(listed) // 12 * tp_degree]))
    own = [parse_cores(visible_cores(place, tp_degree, first)) for place in range(workers)]
    assert all(len(cores) == tp_degree for cores in own)
    assert len({core for cores in own for core in cores}) == workers * tp_degree


@pytest.mark.parametrize("text", ["", "a", "0-", "-3", "1;2", "5-3", "0,,1"])
def test_what_is_no_list_of_cores(text: str) -> None:
    with pytest.raises(ValueError, match="cores"):
        parse_cores(text)


def test_cores_that_are_not_whole_workers() -> None:
    with pytest.raises(ValueError, match="tp_degree is 12, 8 cores are no multiple of it"):
        visible_cores(0, 12, "0-7")


@pytest.mark.parametrize(
    ("config", "weights_gib"), [(LLAMA_7B, 12.6), (LLAMA_3_8B, 15.0), (LLAMA_13B, 24.2), (LLAMA_70B, 128.5)]
)
def test_weights_in_bf16(config: dict[str, Any], weights_gib: float) -> None:
    need = memory(config, neuron(tp_degree=1), batch=1, max_length=2048)
    assert need.weights_bytes / GIB == pytest.approx(weights_gib, abs=0.06)


def test_keys_and_values_of_13b() -> None:
    one = memory(LLAMA_13B, neuron(tp_degree=1), batch=1, max_length=2048)
    assert one.cache_bytes / GIB == pytest.approx(1.5625)
    four = memory(LLAMA_13B, neuron(tp_degree=1), batch=4, max_length=1024)
    assert four.cache_bytes == 2 * one.cache_bytes
    padded = memory(LLAMA_13B, neuron(tp_degree=12), batch=1, max_length=2048)
    assert padded.cache_bytes / one.cache_bytes == pytest.approx(48 / 40)


def test_what_fits() -> None:
    assert memory(LLAMA_13B, neuron(tp_degree=12), batch=1, max_length=2048).fits
    assert not memory(LLAMA_70B, neuron(tp_degree=8), batch=1, max_length=2048).fits
    assert not memory(LLAMA_13B, neuron(tp_degree=2, amp="f32"), batch=1, max_length=2048).fits
    in_8_bits = memory(LLAMA_13B, neuron(tp_degree=2, neuron=NeuronSettings(quantize="s8")), 1, 2048)
    assert in_8_bits.weights_bytes < 0.6 * memory(LLAMA_13B, neuron(tp_degree=2), 1, 2048).weights_bytes
    assert "on 2 cores of 16 GiB" in str(in_8_bits)


@pytest.mark.parametrize(
    ("settings", "instance", "workers", "expected"),
    [
        (neuron(12), "ml.inf2.24xlarge", 1, None),
        (neuron(24), "inf2.48xlarge", 1, None),
        (neuron(12), "inf2.48xlarge", 2, None),
        (neuron(12), None, 1, None),
        (neuron(32), "trn1.32xlarge", 1, None),
        (neuron(24), "ml.inf2.24xlarge", 1, "handler.tp_degree: 24 is more than the 12 NeuronCores of inf2.24xlarge"),
        (neuron(8), "inf2.24xlarge", 2, "2 workers × 8 is more than the 12 NeuronCores"),
        (neuron(6), "inf2.24xlarge", 1, "6 is not among those that inf2 can run: 1, 2, 4, 8, 12, 24"),
        (neuron(12), "trn1.32xlarge", 1, "12 is not among those that trn1 can run: 1, 2, 8, 32"),
        (neuron(2), "ml.g5.xlarge", 1, "handler.engine: transformers-neuronx runs on Inf2 and Trn1, not on ml.g5.xlarge"),
        (neuron(2, neuron=NeuronSettings(visible_cores="0-2")), None, 1, "handler.neuron.visible_cores: '0-2'"),
        (neuron(2, neuron=NeuronSettings(n_positions=(64,))), None, 1, "n_positions: 64 is less than max_length=100"),
        (
            neuron(2, neuron=NeuronSettings(context_length_estimate=(64, 128))),
            None,
            1,
            "handler.neuron.context_length_estimate: 128 is more than the longest total length, 100",
        ),
    ],
)  # fmt: skip
def test_problems(settings: LlamaSettings, instance: str | None, workers: int, expected: str | None) -> None:
    found = problems(settings, instance, workers)
    assert len(found) == (1 if expected else 0)
    assert (expected or "") in "".join(found)


def test_other_engines_are_left_alone() -> None:
    assert problems(LlamaSettings(), "ml.g5.xlarge") == []
    assert advice(LlamaSettings()) == []


def test_advice_names_the_one_image() -> None:
    (line,) = advice(neuron(), model_config=LLAMA_7B | {"num_attention_heads": 48, "num_key_value_heads": 48})
    assert IMAGE.name in line
    assert IMAGE.last_sdk.startswith(LAST_SDK)
    assert SDKS[-1].version == LAST_SDK
    assert "SDK 2.28" in line


def test_advice_on_heads_memory_and_timeouts() -> None:
    lines = advice(
        neuron(12), batch=1, response_timeout_s=60, startup_timeout_s=300, model_config=LLAMA_13B
    )  # fmt: skip
    assert any("40 attention heads on 12 cores are padded to 48: 20% of attention is wasted" in line for line in lines)
    assert any("torchserve.responseTimeout: 60 s is all that loading gets" in line for line in lines)
    assert not any("does not fit" in line for line in lines)
    (_, too_large) = advice(neuron(8, max_length=2048), batch=8, model_config=LLAMA_70B)
    assert "handler.tp_degree: does not fit: weights 128.5 GiB" in too_large


def test_advice_for_a_model_that_neuron_does_not_serve() -> None:
    (_, line) = advice(neuron(), model_config={"model_type": "gpt_neox"})
    assert "neuron serves llama and mistral; config.json's model_type is 'gpt_neox'" in line


def test_max_length() -> None:
    assert max_length_of(LLAMA_7B, neuron(max_length="auto")) == 2048
    assert max_length_of({"max_position_embeddings": 1024}, neuron(max_length="auto")) == 1024
    assert max_length_of(LLAMA_7B, neuron()) == 100


def test_variables_of_the_article_that_do_something_else_today() -> None:
    assert environment_notes({"NEURON_RT_VISIBLE_CORES": "0-11"}) == []
    notes = environment_notes({"NEURONX_CACHE": "on", "NEURONX_DUMP_TO": "/opt/ml/model/neuron_cache"})
    assert [note.split("=")[0].split()[0] for note in notes] == ["NEURONX_CACHE", "NEURONX_DUMP_TO"]
    assert all("\n" not in note for note in notes)


def test_every_instance_has_a_family_with_tp_degrees() -> None:
    for instance, cores in CORES.items():
        assert cores in TP_DEGREES[instance.partition(".")[0]]
