"""A model split over two processes, by gloo over loopback: transformers' tokens, and nobody waits for the dead."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from servekit.engines import tensor_parallel
from servekit.engines.base import Prompt
from servekit.engines.llama import UnsupportedModel
from tests.fakes.tiny_llama import make_config, make_tiny_llama
from tests.handlers.test_torch_engine import Arrivals, make_engine, prompts_of, reference, run, tokens

ROOT = Path(__file__).resolve().parent.parent.parent
LENGTHS = (3, 40, 17, 1, 100)
EOS = 257


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


def one_rank(folder: Path) -> None:
    """What each of torchrun's processes runs: rank 0 serves, the other follows."""
    torch.set_num_threads(1)
    what, engine = sys.argv[2], make_engine(folder, mode="eager")
    engine.warmup()
    if engine.rank:
        if what == "follower dies":
            os.kill(os.getpid(), signal.SIGKILL)
        engine.follow()
        engine.close()
        print("followed to the end", flush=True)
        return
    ids = prompts_of(LENGTHS)
    prompts = [(3 * n, Prompt(str(n), each, 6 + n, stop_ids=(EOS,))) for n, each in enumerate(ids)]
    gone = (2, Prompt("gone", ids[1], 60))
    rows = run(engine, Arrivals([*prompts, gone], cancel={"gone": 9}))
    if what == "follower dies":
        again = run(engine, Arrivals([(0, Prompt("later", ids[0], 2))]))
        print([steps[-1].finish for steps in (*rows.values(), *again.values())], flush=True)
        engine.close()
        return
    if what == "leader dies":
        os.kill(os.getpid(), signal.SIGKILL)
    assert rows["gone"][-1].finish == "cancelled"
    for n, each in enumerate(ids):
        assert tokens(rows[str(n)]) == reference(folder, each, 6 + n)
    engine.close()
    print("all equal", flush=True)


def run_ranks(folder: Path, port: int, what: str) -> list[tuple[int, str]]:
    """Exit status and output of rank 0 and rank 1, started with torchrun's variables but without its rescue."""
    python_path = os.pathsep.join((str(ROOT), str(ROOT / "handlers")))
    shared = {
        **os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1",
        "PYTHONPATH": python_path,
    }  # fmt: skip
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, str(folder), what],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [rank.communicate(timeout=60)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    return [(rank.returncode, output) for rank, output in zip(ranks, outputs, strict=True)]


@pytest.fixture
def port() -> int:
    import socket

    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        return int(own.getsockname()[1])


def test_two_ranks_give_transformers_tokens_and_end_together(folder: Path, port: int) -> None:
    (leader, said), (follower, answered) = run_ranks(folder, port, "all live")
    assert (leader, follower) == (0, 0), said + answered
    assert "all equal" in said
    assert "followed to the end" in answered


def test_rows_end_with_an_error_when_a_follower_dies(folder: Path, port: int) -> None:
    (leader, said), (follower, _) = run_ranks(folder, port, "follower dies")
    assert (leader, follower) == (0, -signal.SIGKILL), said
    finishes = eval(said.splitlines()[-1])
    assert set(finishes) <= {"error", "cancelled"}


def test_a_follower_ends_when_the_leader_dies(folder: Path, port: int) -> None:
    (leader, _), (follower, answered) = run_ranks(folder, port, "leader dies")
    assert leader == -signal.SIGKILL
    assert follower == 1
    assert "RuntimeError" in answered


@pytest.mark.parametrize(("heads", "kv_heads", "world"), [(4, 2, 2), (4, 4, 2), (4, 2, 4), (4, 1, 2)])
def test_the_shares_are_the_whole(heads: int, kv_heads: int, world: int) -> None:
    """Each rank's query heads meet the key heads they had, and the ffn's columns are dealt out once."""
    config = make_config(num_attention_heads=heads, num_key_value_heads=kv_heads)
    whole = LlamaForCausalLM(config).model.layers[1]
    parts: list[Any] = []
    for rank in range(world):
        torch.manual_seed(0)
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
    one_rank(Path(sys.argv[1]))
