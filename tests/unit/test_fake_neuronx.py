"""The stand-in of transformers-neuronx against the library's documented behaviour, a test for each fact."""

from __future__ import annotations

import threading
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.fakes import neuron_image
from tests.fakes.neuron_image import EOS, greedy, tiny_model

LONG = (5, 17, 33, 4, 8, 61, 12)
SHORT = (9, 40)


class Streamer:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.puts: list[Tensor] = []
        self.ended = False

    def put(self, tokens: Tensor) -> None:
        self.puts.append(tokens)

    def end(self) -> None:
        self.ended = True


@pytest.fixture(scope="module")
def reference() -> Any:
    return tiny_model()


@pytest.fixture(scope="module")
def folder(reference: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    reference.save_pretrained(path)
    return path


@pytest.fixture(autouse=True)
def _neuron_image(monkeypatch: pytest.MonkeyPatch) -> None:
    neuron_image.enter(monkeypatch)


def library(module: str) -> Any:
    return import_module(f"transformers_neuronx.{module}" if module else "transformers_neuronx")


def make(folder: Path, **keywords: Any) -> Any:
    return library("llama.model").LlamaForSampling.from_pretrained(str(folder), **{"n_positions": 32, **keywords})


def on_device(folder: Path, **keywords: Any) -> Any:
    model = make(folder, **keywords)
    model.to_neuron()
    return model


def ids(*rows: tuple[int, ...]) -> Tensor:
    return torch.tensor(rows)


def padded() -> tuple[Tensor, Tensor]:
    """LONG and SHORT as a batch, and where each begins."""
    pads = len(LONG) - len(SHORT)
    return ids(LONG, (0,) * pads + SHORT), torch.tensor([0, pads], dtype=torch.int32)


# Construction and weights


@pytest.mark.parametrize("keyword", ["attention_layout", "on_device_generation", "n_position", "dtype"])
def test_a_keyword_that_the_signature_has_not_is_refused(folder: Path, keyword: str) -> None:
    with pytest.raises(TypeError, match=keyword):
        make(folder, **{keyword: 1})


def test_an_unknown_key_of_neuron_config_is_an_assertion_error() -> None:
    with pytest.raises(AssertionError, match="fuse_qvk"):
        library("config").NeuronConfig(fuse_qvk=True)


def test_amp_has_its_own_names(folder: Path) -> None:
    assert make(folder, amp="bf16").dtype is torch.bfloat16
    with pytest.raises(KeyError):
        make(folder, amp="fp32")


def test_prompts_may_not_be_longer_than_everything(folder: Path) -> None:
    with pytest.raises(AssertionError):
        make(folder, n_positions=32, context_length_estimate=64)


def test_the_bsh_cache_layout_needs_continuous_batching() -> None:
    with pytest.raises(AssertionError):
        library("config").NeuronConfig(cache_layout="BSH")


def test_weights_are_looked_for_in_order(reference: Any, folder: Path, tmp_path: Path) -> None:
    find = library("module").find_weights
    assert find(folder).name == "model.safetensors"
    library("module").save_pretrained_split(reference, tmp_path)
    split = find(tmp_path)
    assert split.is_dir()
    assert split.name == "pytorch_model.bin"
    assert (split / "p0.model.embed_tokens.weight").exists()
    (tmp_path / "model.safetensors").touch()
    assert find(tmp_path).name == "model.safetensors"
    with pytest.raises(FileNotFoundError):
        find(split)


@pytest.mark.parametrize("form", ["split", "shards"])
def test_every_form_of_weights_gives_the_same_model(reference: Any, tmp_path: Path, form: str) -> None:
    if form == "split":
        library("module").save_pretrained_split(reference, tmp_path)
    else:
        reference.save_pretrained(tmp_path, max_shard_size="30KB")
        assert (tmp_path / "model.safetensors.index.json").exists()
    model = on_device(tmp_path)
    assert model.sample(ids(LONG), 12, top_k=1)[0, 7:].tolist() == greedy(reference, LONG, 5)


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_the_auto_class_reads_model_type(tmp_path: Path, family: str) -> None:
    reference = tiny_model(family)
    reference.save_pretrained(tmp_path)
    model = library("").NeuronAutoModelForCausalLM.from_pretrained(str(tmp_path), n_positions=32)
    assert type(model) is getattr(library(f"{family}.model"), f"{family.capitalize()}ForSampling")
    model.to_neuron()
    assert model.sample(ids(LONG), 12, top_k=1)[0, 7:].tolist() == greedy(reference, LONG, 5)


# Lifecycle


def test_load_comes_before_to_neuron(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="between"):
        on_device(folder).load(str(tmp_path))


def test_saved_programs_are_loaded_and_not_compiled(folder: Path, tmp_path: Path) -> None:
    first = on_device(folder, n_positions=[16, 32])
    first.save(str(tmp_path))
    assert len(first.compiled) == len(list(tmp_path.glob("*.neff"))) == 4  # two lengths, for prompts and for tokens
    second = make(folder, n_positions=[16, 32])
    second.load(str(tmp_path))
    second.to_neuron()
    assert second.compiled == []


@pytest.mark.parametrize("change", [{"batch_size": 2}, {"tp_degree": 1}, {"n_positions": 64}, {"amp": "bf16"}, "sdk"])
def test_programs_of_another_model_do_not_match(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any
) -> None:
    on_device(folder).save(str(tmp_path))
    if change == "sdk":
        monkeypatch.setattr(library("base"), "SDK", "2.24.0")
    model = make(folder, **({} if change == "sdk" else change))
    model.load(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="Could not find a matching NEFF"):
        model.to_neuron()


def test_programs_are_compiled_without_a_device(folder: Path, tmp_path: Path) -> None:
    model = make(folder)
    model.cpu_compile()
    model.save(str(tmp_path))
    assert list(tmp_path.glob("*.neff"))


def test_weights_are_saved_only_with_the_embedding_on_the_device(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        on_device(folder).save(str(tmp_path), sharded_weights=True)


# sample()


def test_it_returns_the_prompt_with_its_padding_and_the_new_tokens(reference: Any, folder: Path) -> None:
    prompts, start_ids = padded()
    output = on_device(folder, batch_size=2).sample(prompts, 12, start_ids=start_ids, top_k=1)
    assert output.shape == (2, 12)  # a total length, not a number of new tokens
    assert torch.equal(output[:, :7], prompts)
    assert output[0, 7:].tolist() == greedy(reference, LONG, 5)
    assert output[1, 7:].tolist() == greedy(reference, SHORT, 5)


def test_without_start_ids_padding_is_read_as_text(reference: Any, folder: Path) -> None:
    prompts, _ = padded()
    output = on_device(folder, batch_size=2).sample(prompts, 12, top_k=1)
    assert output[0, 7:].tolist() == greedy(reference, LONG, 5)
    assert output[1, 7:].tolist() != greedy(reference, SHORT, 5)


def test_a_batch_size_that_was_not_compiled(folder: Path) -> None:
    with pytest.raises(ValueError, match="Model not compiled for batch_size : 1"):
        on_device(folder, batch_size=[2, 4]).sample(ids(LONG), 12)


def test_the_streamer_gets_new_tokens_and_no_prompt(folder: Path) -> None:
    streamer = Streamer()
    output = on_device(folder).sample(ids(LONG), 12, top_k=1, streamer=streamer)
    assert [put.shape for put in streamer.puts] == [(1, 1)] * 5
    assert torch.equal(torch.cat(streamer.puts, dim=1), output[:, 7:])
    assert streamer.ended


def test_a_streamer_with_prefix_gets_everything_each_time(folder: Path) -> None:
    streamer = Streamer()
    streamer.response_with_prefix = True  # type: ignore[attr-defined]
    on_device(folder).sample(ids(LONG), 10, top_k=1, streamer=streamer)
    assert [put.shape[1] for put in streamer.puts] == [8, 9, 10]


def test_a_row_that_ended_goes_on_with_eos(reference: Any, folder: Path) -> None:
    prompts, start_ids = padded()
    model = on_device(folder, batch_size=2)
    first, second = greedy(reference, LONG, 5), greedy(reference, SHORT, 5)
    eos = second[1]
    assert eos not in first
    model.config.eos_token_id = [eos, EOS]
    streamer = Streamer()
    output = model.sample(prompts, 12, start_ids=start_ids, top_k=1, streamer=streamer)
    assert output[:, 7:].tolist() == [first, [second[0], *[eos] * 4]]
    assert torch.equal(torch.cat(streamer.puts, dim=1), output[:, 7:])
    ignored = model.sample(prompts, 12, start_ids=start_ids, top_k=1, eos_token_override=-1)
    assert ignored[1, 7:].tolist() == second


def test_it_stops_when_all_rows_have_ended(reference: Any, folder: Path) -> None:
    model = on_device(folder)
    tokens = greedy(reference, LONG, 5)
    output = model.sample(ids(LONG), 30, top_k=1, eos_token_override=tokens[2])
    assert output[0, 7:].tolist() == tokens[: tokens.index(tokens[2]) + 1]


def test_one_forward_more_than_tokens(folder: Path) -> None:
    model = on_device(folder)
    model.sample(ids(LONG), 13, top_k=1)
    assert len(model.forwards) == 7


def test_a_prompt_that_fills_everything_comes_back(folder: Path) -> None:
    streamer = Streamer()
    output = on_device(folder).sample(ids(LONG), 7, streamer=streamer)
    assert output.tolist() == [list(LONG)]
    assert streamer.puts == []
    assert streamer.ended


def test_up_to_n_positions_and_not_beyond(folder: Path) -> None:
    model = on_device(folder, n_positions=10)
    assert model.sample(ids(LONG), 10, top_k=1).shape == (1, 10)
    streamer = Streamer()
    with pytest.raises(StopIteration):
        model.sample(ids(LONG), 12, top_k=1, streamer=streamer)
    assert len(streamer.puts) > 0
    assert not streamer.ended


@pytest.mark.parametrize(
    "arguments",
    [{"temperature": 1}, {"temperature": 0.0}, {"top_p": 1}, {"top_p": 0.0}, {"top_k": 0}, {"top_k": 1.0}],
)
def test_sampling_arguments_of_the_wrong_type(folder: Path, arguments: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        on_device(folder).sample(ids(LONG), 12, **arguments)


def test_sampling_keeps_to_top_k_and_top_p(reference: Any, folder: Path) -> None:
    model = on_device(folder)
    assert model.sample(ids(LONG), 8, top_k=None, top_p=1e-6)[0, 7:].tolist() == greedy(reference, LONG, 1)
    best = reference(ids(LONG)).logits[0, -1].topk(3).indices.tolist()
    drawn = {int(model.sample(ids(LONG), 8, top_k=3, temperature=5.0)[0, 7]) for _ in range(30)}
    assert len(drawn) > 1
    assert drawn <= set(best)


def test_draws_come_from_torch_s_global_state(folder: Path) -> None:
    model = on_device(folder)
    draws = []
    for _ in range(2):
        torch.manual_seed(7)
        draws.append(model.sample(ids(LONG), 20, temperature=2.0).tolist())
    assert draws[0] == draws[1]
    assert model.sample(ids(LONG), 20, temperature=2.0).tolist() != draws[0]


def test_stopping_criteria_see_the_prompt_alone(folder: Path) -> None:
    seen: list[Tensor] = []

    def stop_at_third(prompt: Tensor, scores: Tensor) -> bool:
        seen.append(prompt)
        return len(seen) == 3

    criteria = library("stopping_criteria").StoppingCriteriaList([stop_at_third])
    streamer = Streamer()
    on_device(folder).sample(ids(LONG), 30, top_k=1, streamer=streamer, stopping_criteria_list=criteria)
    assert [prompt.tolist() for prompt in seen] == [[list(LONG)]] * 3
    assert len(streamer.puts) == 3
    assert streamer.ended


def test_it_is_not_re_entrant(folder: Path) -> None:
    model = on_device(folder)
    errors: list[str] = []

    def second() -> None:
        try:
            model.sample(ids(SHORT), 8)
        except RuntimeError as error:
            errors.append(str(error))

    class Intruder(Streamer):
        def put(self, tokens: Tensor) -> None:
            thread = threading.Thread(target=second)
            thread.start()
            thread.join()

    model.sample(ids(LONG), 8, streamer=Intruder())
    assert "not re-entrant" in errors[0]
    assert model.sample(ids(LONG), 8).shape == (1, 8)


def test_sampling_on_the_device_ignores_the_call_s_arguments(reference: Any, folder: Path) -> None:
    config = library("config")
    on_device_generation = config.GenerationConfig(do_sample=False)
    model = on_device(folder, neuron_config=config.NeuronConfig(on_device_generation=on_device_generation))
    output = model.sample(ids(LONG), 12, top_k=50, temperature=100.0)
    assert output[0, 7:].tolist() == greedy(reference, LONG, 5)


def test_nothing_runs_before_to_neuron(folder: Path) -> None:
    with pytest.raises(RuntimeError, match="to_neuron"):
        make(folder).sample(ids(LONG), 12)


# Buckets


def test_token_buckets() -> None:
    sizes = library("bucket").token_sizes
    assert sizes(2048) == [128, 256, 512, 1024, 2048]
    assert sizes(100) == [100]
    assert sizes([64, 16]) == [16, 64]


def test_context_buckets() -> None:
    sizes = library("bucket").context_sizes
    assert sizes(None, [128, 256]) == [64, 128]
    assert sizes(0, [128]) == []
    assert sizes(48, [128]) == [48]
    assert sizes([32, 16], [128]) == [16, 32]


@pytest.mark.parametrize(
    ("estimate", "expected"),
    [
        ([4, 8, 16], [("context", 8)]),
        ([4], [("context", 4), *[("token", 32)] * 3]),  # what is left of a long prompt is read token by token
        (0, [("token", 32)] * 7),
    ],
)
def test_a_prompt_takes_the_smallest_bucket_that_holds_it(
    reference: Any, folder: Path, estimate: Any, expected: Any
) -> None:
    model = on_device(folder, context_length_estimate=estimate)
    assert model.sample(ids(LONG), 12, top_k=1)[0, 7:].tolist() == greedy(reference, LONG, 5)
    assert model.forwards[: len(expected)] == expected


# Environment


@pytest.mark.parametrize(
    ("name", "value"),
    [("NEURON_RT_VISIBLE_CORES", "4"), ("NEURON_RT_VISIBLE_CORES", "4,5"), ("NEURON_RT_NUM_CORES", "2")],
)
def test_a_model_needs_as_many_cores_as_its_tp_degree(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv("NEURON_RT_NUM_CORES", "32")  # gives way to VISIBLE_CORES
    monkeypatch.setenv(name, value)
    with pytest.raises(RuntimeError, match="visible NeuronCores"):
        on_device(folder, tp_degree=4)


def test_the_persistent_cache_is_read_and_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEURON_COMPILE_CACHE_URL", str(tmp_path))
    assert len(on_device(folder).compiled) == 2
    assert on_device(folder).compiled == []


def test_neuronx_cache_changes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURONX_CACHE", "on")
    assert on_device(folder).compiled
    assert on_device(folder).compiled


def test_dump_mode_writes_and_reuses(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURONX_DUMP_TO", str(tmp_path / "dump"))
    assert on_device(folder).compiled
    assert (tmp_path / "dump" / "neuron_model_config.json").exists()
    assert on_device(folder).compiled == []


def test_dump_mode_fails_where_it_cannot_write(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURONX_DUMP_TO", "/proc/neuron")  # where root cannot write either
    with pytest.raises(OSError, match="/proc/neuron"):
        on_device(folder)
