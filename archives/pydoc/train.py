"""pydoc-llama, made: a Llama of 1.8 M parameters that learns Python's documentation from pydoc_data.topics.

    kit.py train pydoc-llama              in three minutes on two CPUs
    kit.py train pydoc-llama --steps N    what is shipped; N is in its training.json

Writes a transformers folder (weights in float16, to be computed in float32) and training.json, which says by which
Python, text, seed and steps it came about: on the same machine these give the same bytes. Knows nothing of archives.
"""

from __future__ import annotations

import dataclasses
import json
import math
import platform
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch.nn import functional

from archives.distillation.train import deterministic
from archives.pydoc.muon import Muon
from archives.pydoc.text import Corpus, Section, corpus
from archives.pydoc.tokenizer import END, SPECIAL, VOCABULARY, question_and_answer, save_tokenizer, train_tokenizer
from model_configs.errors import Failed
from servekit import fingerprint

MINUTES = 3.0
ASKED = ("What is {}?", "Explain {}.", "What does the documentation say about {}?", "{}?")
ANSWER_CHARACTERS = 700
RISING_STEPS = 40
HELD_SHARE = 0.55
"""Share of the steps after which the learning rates fall."""
RESERVE_S = 6.0
"""Kept back of the time that is given: for the measuring of the result, and for writing."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Recipe:
    """The network's shape and how it is trained; lengths in tokens."""

    vocabulary: int = VOCABULARY
    hidden: int = 192
    layers: int = 4
    heads: int = 6
    kv_heads: int = 2
    feed_forward: int = 448
    longest: int = 512
    """Longest text that the model is made for."""
    window: int = 512
    batch: int = 2
    matrix_rate: float = 0.02
    """Muon's learning rate, for the matrices of the layers."""
    other_rate: float = 4e-3
    """AdamW's, for the embedding and the scales of norms."""
    weight_decay: float = 0.1
    cut_share: float = 0.2
    """Share of the paragraphs that become the beginning of a text, as a prompt may begin anywhere."""
    dialogue_share: float = 0.4
    """Share of the sections that are also asked for, each epoch."""
    plain_share: float = 0.3
    """Share of the titles that are read without quotes, as people write them: The with statement."""


@dataclass(frozen=True)
class Loss:
    """Of a text that is no part of the training. nats: a token's; perplexity: of tokens."""

    nats: float
    perplexity: float
    bits_per_byte: float


@dataclass(frozen=True)
class Report:
    """What a training came to. held_out: measured on the weights as they were saved. mb: of all files, in 10^6 bytes.

    seconds: from start to finish; tokens_per_s: of the training alone.
    """

    seed: int
    steps: int
    epochs: float
    parameters: int
    mb: float
    train_nats: float
    held_out: Loss
    tokens_per_s: float
    seconds: float
    threads: int
    python: str
    text_sha256: str
    text_characters: int
    recipe: Recipe
    machine: dict[str, str]

    def document(self) -> dict[str, Any]:
        """As training.json has it."""
        return {name: _rounded(value) for name, value in dataclasses.asdict(self).items()}


def train(
    out: Path,
    minutes: float = MINUTES,
    seed: int = 0,
    say: Say = lambda line: None,
    *,
    steps: int | None = None,
    recipe: Recipe = Recipe(),
    text: Corpus | None = None,
) -> Report:
    """Train, measure, and write the model's folder.

    minutes: for everything; how many steps that is, shows on the way. steps: as many, however long they take.
    text: this Python's topics when None. Raises Failed when the loss is no number any more.
    """
    started = time.monotonic()
    text = text or corpus()
    tokenizer = train_tokenizer([section.text for section in text.train], recipe.vocabulary)
    with deterministic(seed):
        config = _config(recipe, tokenizer)
        model = _model(config, recipe)
        began = time.monotonic()
        windows = _windows(text.train, tokenizer, recipe, random.Random(seed))
        losses = _fit(model, windows, recipe, steps, started + 60 * minutes - RESERVE_S, say)
        fitted_s = time.monotonic() - began
    steps = len(losses)
    tokens = steps * recipe.batch * recipe.window
    _write(out, model, config, tokenizer)
    for parameter in model.parameters():
        parameter.data = parameter.data.half().float()  # as whoever loads them will have them
    report = Report(
        seed=seed,
        steps=steps,
        epochs=tokens / sum(len(tokenizer.encode(section.text).ids) for section in text.train),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        mb=sum(path.stat().st_size for path in out.iterdir() if path.name != "training.json") / 1e6,
        train_nats=sum(losses[-20:]) / len(losses[-20:]),
        held_out=held_out_loss(model, tokenizer, text.held_out),
        tokens_per_s=tokens / fitted_s,
        seconds=time.monotonic() - started,
        threads=torch.get_num_threads(),
        python=platform.python_version(),
        text_sha256=text.sha256,
        text_characters=sum(len(section.text) for section in (*text.train, *text.held_out)),
        recipe=recipe,
        machine={**fingerprint.machine(), "transformers": transformers.__version__},
    )
    (out / "training.json").write_text(json.dumps(report.document(), indent=2) + "\n")
    return report


def held_out_loss(model: Any, tokenizer: Tokenizer, sections: Sequence[Section]) -> Loss:
    """What model gives the sections' tokens, each section from its beginning on, in pieces as long as it can see."""
    longest = model.config.max_position_embeddings
    end = tokenizer.token_to_id(END)
    nats, tokens = 0.0, 0
    model.eval()
    with torch.inference_mode():
        for section in sections:
            ids = torch.tensor([*tokenizer.encode(section.text).ids, end])
            for first in range(0, len(ids) - 1, longest):
                piece = ids[first : first + longest + 1]
                logits = model(input_ids=piece[None, :-1]).logits[0].float()
                nats += functional.cross_entropy(logits, piece[1:], reduction="sum").item()
                tokens += len(piece) - 1
    in_bytes = sum(len(section.text.encode()) for section in sections)
    return Loss(nats / tokens, math.exp(nats / tokens), nats / math.log(2) / in_bytes)


def _config(recipe: Recipe, tokenizer: Tokenizer) -> dict[str, Any]:
    """config.json in keys that every transformers since 4.43 reads."""
    begin, end, pad = map(tokenizer.token_to_id, SPECIAL)
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": recipe.hidden,
        "intermediate_size": recipe.feed_forward,
        "num_hidden_layers": recipe.layers,
        "num_attention_heads": recipe.heads,
        "num_key_value_heads": recipe.kv_heads,
        "head_dim": recipe.hidden // recipe.heads,
        "max_position_embeddings": recipe.longest,
        "rope_theta": 10000.0,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "bos_token_id": begin,
        "eos_token_id": end,
        "pad_token_id": pad,
    }


def _model(config: dict[str, Any], recipe: Recipe) -> Any:
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config)).float()
    for name, parameter in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):  # as in GPT-2: the sum of all layers stays in bounds
            parameter.data /= math.sqrt(2 * recipe.layers)
    return model


def _fit(
    model: Any, windows: Iterator[torch.Tensor], recipe: Recipe, steps: int | None, until_s: float, say: Say
) -> list[float]:
    """Train in place; the loss of every step. until_s: when to end, on the monotonic clock, where steps is None.

    The learning rates are held for so long that it is known, when they begin to fall, how many steps there is time for.
    """
    began_s = time.monotonic()
    embedding = model.model.embed_tokens.weight
    scales = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    matrices = [parameter for parameter in model.model.layers.parameters() if parameter.ndim > 1]
    optimizers: list[torch.optim.Optimizer] = [
        Muon(matrices, lr=recipe.matrix_rate, weight_decay=recipe.weight_decay),
        torch.optim.AdamW(
            [{"params": [embedding], "weight_decay": recipe.weight_decay}, {"params": scales, "weight_decay": 0.0}],
            lr=recipe.other_rate,
            betas=(0.9, 0.95),
        ),
    ]
    losses: list[float] = []
    model.train()
    with _progress() as progress:
        task = progress.add_task("training", total=steps, said="")
        while steps is None or len(losses) < steps:
            for optimizer, rate in zip(optimizers, (recipe.matrix_rate, recipe.other_rate), strict=True):
                for group in optimizer.param_groups:
                    group["lr"] = rate * _share(len(losses), steps)
            loss = _loss(model, torch.stack([next(windows) for _ in range(recipe.batch)]))
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
            model.zero_grad()
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise Failed(f"the loss is no number any more in step {len(losses)}: lower the rates")
            if steps is None and time.monotonic() - began_s >= HELD_SHARE * (until_s - began_s):
                steps = math.ceil(len(losses) / HELD_SHARE)
                say(f"time for {steps} steps")
            progress.update(task, advance=1, total=steps, said=f"{losses[-1]:.2f} nats a token")
    model.eval()
    return losses


def _loss(model: Any, rows: torch.Tensor) -> torch.Tensor:
    logits = model(input_ids=rows[:, :-1], use_cache=False).logits
    return functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())


def _share(step: int, steps: int | None) -> float:
    """The learning rate of a step, counted from 0, the highest being 1: a line up, held, a line down."""
    rising = min(1.0, (step + 1) / RISING_STEPS)
    return rising if steps is None else rising * min(1.0, (steps - step) / ((1 - HELD_SHARE) * steps))


def _windows(
    sections: Sequence[Section], tokenizer: Tokenizer, recipe: Recipe, generator: random.Random
) -> Iterator[torch.Tensor]:
    """Windows of window + 1 tokens without end: each epoch's texts in a new order, one after the other."""
    end = [tokenizer.token_to_id(END)]
    ids = []
    while True:
        texts = list(_epoch(sections, recipe, generator))
        for (_, ends), encoded in zip(texts, tokenizer.encode_batch([text for text, _ in texts]), strict=True):
            ids += encoded.ids + end * ends
        while len(ids) > recipe.window:
            yield torch.tensor(ids[: recipe.window + 1])
            ids = ids[recipe.window :]


def _epoch(sections: Sequence[Section], recipe: Recipe, generator: random.Random) -> Iterator[tuple[str, bool]]:
    """Texts, and whether each ends there: sections, cut before some paragraphs, and dialogues about some of them."""
    for section in generator.sample(sections, len(sections)):
        piece = [_plain(section.title) if generator.random() < recipe.plain_share else section.title]
        for paragraph in section.body:
            if generator.random() < recipe.cut_share:
                yield "\n\n".join(piece) + "\n\n", False
                piece = []
            piece.append(paragraph)
        yield "\n\n".join(piece), True
        if generator.random() < recipe.dialogue_share:
            yield question_and_answer(generator.choice(ASKED).format(_asked(section.title)), _answer(section)), True


def _plain(title: str) -> str:
    """A title as somebody types it: The "with" statement → The with statement."""
    return re.sub(r'["“”]', "", title)


def _asked(title: str) -> str:
    plain = _plain(title)
    return plain[0].lower() + plain[1:] if plain.startswith(("The ", "A ", "An ")) else plain


def _answer(section: Section) -> str:
    """A section's first paragraphs, at least one."""
    taken = [section.body[0]]
    for paragraph in section.body[1:]:
        if sum(map(len, taken)) + len(paragraph) > ANSWER_CHARACTERS:
            break
        taken.append(paragraph)
    return "\n\n".join(taken)


def _write(out: Path, model: Any, config: dict[str, Any], tokenizer: Tokenizer) -> None:
    out.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.half() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)  # safetensors writes it for its owner alone
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    special = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    (out / "generation_config.json").write_text(json.dumps(special, indent=2) + "\n")
    save_tokenizer(tokenizer, out, config["max_position_embeddings"])


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[said]}"),
        TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True),
    )  # fmt: skip


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 5)
    return {key: _rounded(inner) for key, inner in value.items()} if isinstance(value, dict) else value


def report_row(report: Report) -> dict[str, object]:
    """The figures for people."""
    return {
        "held-out perplexity": round(report.held_out.perplexity, 1),
        "bits per byte": round(report.held_out.bits_per_byte, 3),
        "training loss": round(report.train_nats, 3),
        "steps": report.steps,
        "epochs": round(report.epochs, 1),
        "tokens/s": round(report.tokens_per_s),
        "parameters": report.parameters,
        "MB": round(report.mb, 2),
        "seconds": round(report.seconds),
    }
