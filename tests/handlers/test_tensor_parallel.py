"""A model split over two processes, by gloo over loopback: transformers' tokens, and nobody waits for the dead."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from servekit.engines import tensor_parallel
from servekit.engines.base import Prompt, Sampling
from servekit.engines.llama import UnsupportedModel
from servekit.engines.torch import TorchEngine
from tests.fakes.tiny_llama import make_config, make_tiny_llama
from tests.handlers.test_torch_engine import Arrivals, make_engine, prompts_of, reference, run, tokens

ROOT = Path(__file__).resolve().parent.parent.parent
LENGTHS = (3, 40, 17, 1, 100)
SCENARIOS = ("all live", "follower dies", "leader dies")
EOS = 257
Ended = dict[str, list[tuple[int, str]]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With biases, which only one rank may add where the ranks' parts are summed."""
    made = make_tiny_llama(tmp_path_factory.mktemp("llama") / "model", attention_bias=True, mlp_bias=True)
    model = LlamaForCausalLM.from_pretrained(made)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def ended(folder: Path) -> Ended:
    """For each scenario, exit status and output of rank 0 and rank 1.

    All at once, forked from one process that has torch loaded and no thread yet: loading it takes longer than the rest.
    """
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'handlers'}", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, __file__, str(folder)], env=environment, check=True, timeout=120)
    statuses = json.loads((folder / "statuses.json").read_text())
    return {
        scenario: [(statuses[scenario][rank], (folder / f"{scenario}-{rank}.txt").read_text()) for rank in (0, 1)]
        for scenario in SCENARIOS
    }


def fork_all(folder: Path) -> None:
    """The process that fixture ended starts."""
    fork = multiprocessing.get_context("fork")
    ranks: dict[str, list[multiprocessing.process.BaseProcess]] = {}
    for scenario in SCENARIOS:
        port = free_port()
        ranks[scenario] = [fork.Process(target=one_rank, args=(folder, scenario, rank, port)) for rank in (0, 1)]
        for process in ranks[scenario]:
            process.start()
    for process in (process for pair in ranks.values() for process in pair):
        process.join(60)
        process.kill()  # those that hang: their status says so
        process.join()
    statuses = {scenario: [process.exitcode for process in pair] for scenario, pair in ranks.items()}
    (folder / "statuses.json").write_text(json.dumps(statuses))


def free_port() -> int:
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        return int(own.getsockname()[1])


def one_rank(folder: Path, scenario: str, rank: int, port: int) -> None:
    """torchrun's variables, without its rescue of a rank whose neighbour has died."""
    output = os.open(folder / f"{scenario}-{rank}.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "RANK": str(rank)}
    engine = make_engine(folder, mode="eager")
    engine.warmup()
    if rank == 0:
        lead(engine, folder, scenario)
    elif scenario == "follower dies":
        os.kill(os.getpid(), signal.SIGKILL)
    else:
        engine.follow()
        print("followed to the end", flush=True)
    engine.close()


def lead(engine: TorchEngine, folder: Path, scenario: str) -> None:
    """Serve prompts that arrive one after another, one of which is cancelled."""
    ids = prompts_of(LENGTHS)
    prompts = [(3 * n, Prompt(str(n), each, 6 + n, stop_ids=(EOS,))) for n, each in enumerate(ids)]
    sampled = (1, Prompt("sampled", ids[0], 5, Sampling(temperature=1.0)))
    gone = (2, Prompt("gone", ids[1], 60))
    rows = run(engine, Arrivals([*prompts, sampled, gone], cancel={"gone": 9}))
    if scenario == "leader dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if scenario == "follower dies":
        rows |= run(engine, Arrivals([(0, Prompt("later", ids[0], 2))]))
        assert {steps[-1].finish for steps in rows.values()} <= {"error", "cancelled"}
        assert rows["later"][-1].finish == "error"
        print("told everybody", flush=True)
        return
    assert rows["gone"][-1].finish == "cancelled"
    assert len(tokens(rows["sampled"])) == 5
    for n, each in enumerate(ids):
        assert tokens(rows[str(n)]) == reference(folder, each, 6 + n)
    print("all equal", flush=True)


def test_two_ranks_give_transformers_tokens_and_end_together(ended: Ended) -> None:
    (leader, said), (follower, answered) = ended["all live"]
    assert (leader, follower) == (0, 0), said + answered
    assert "all equal" in said
    assert "followed to the end" in answered


def test_rows_end_with_an_error_when_a_follower_dies(ended: Ended) -> None:
    (leader, said), (follower, _) = ended["follower dies"]
    assert (leader, follower) == (0, -signal.SIGKILL), said
    assert "told everybody" in said


def test_a_follower_ends_when_the_leader_dies(ended: Ended) -> None:
    (leader, _), (follower, answered) = ended["leader dies"]
    assert (leader, follower) == (-signal.SIGKILL, 1)
    assert "RuntimeError" in answered


@pytest.mark.parametrize(("heads", "kv_heads", "world"), [(4, 2, 2), (4, 4, 2), (4, 2, 4), (4, 1, 2)])
def test_the_shares_are_the_whole(heads: int, kv_heads: int, world: int) -> None:
    """Each rank's query heads meet the key heads they had, and the ffn's columns are dealt out once."""
    config = make_config(num_attention_heads=heads, num_key_value_heads=kv_heads)
    whole = LlamaForCausalLM(config).model.layers[1]
    parts: list[Any] = []
    for rank in range(world):
        part = LlamaForCausalLM(make_config(num_attention_heads=heads, num_key_value_heads=kv_heads))
        part.model.layers[1].load_state_dict(whole.state_dict())
        tensor_parallel.split(part, rank, world)
        assert part.config.num_attention_heads == heads // world
        parts.append(part.model.layers[1])
    for place, dim in (("self_attn.q_proj", 0), ("self_attn.o_proj", 1), ("mlp.up_proj", 0), ("mlp.down_proj", 1)):
        joined = torch.cat([part.get_submodule(place).weight for part in parts], dim=dim)
        assert torch.equal(joined, whole.get_submodule(place).weight)
    head_dim, shared = 64 // heads, heads // kv_heads
    for rank, part in enumerate(parts):
        first_head = rank * heads // world
        own = part.self_attn.k_proj.weight[:head_dim]
        assert torch.equal(own, whole.self_attn.k_proj.weight.unflatten(0, (-1, head_dim))[first_head // shared])


@pytest.mark.parametrize(
    ("changes", "world", "words"),
    [
        ({}, 3, "4 attention heads cannot be split over 3 processes"),
        ({"intermediate_size": 97}, 2, "97 ffn columns cannot be split over 2 processes"),
        (
            {"hidden_size": 96, "num_attention_heads": 12, "num_key_value_heads": 6}, 4,
            "6 key and value heads cannot be split over 4 processes",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_split_is_said(changes: dict[str, Any], world: int, words: str) -> None:
    with pytest.raises(UnsupportedModel, match=words):
        tensor_parallel.split(LlamaForCausalLM(make_config(**changes)), 0, world)


if __name__ == "__main__":
    fork_all(Path(sys.argv[1]))
