"""Run by `kit.py archive` in a process of its own: writes a language model's golden answer and the CPU's kernels.

    python -m servekit.generation.build MODEL_DIR OUT_DIR NAME SETTINGS_JSON

Writes OUT_DIR/golden.json; for the torch engine on CPU, OUT_DIR/kernels.so; for the neuron engine, where its library is
installed, OUT_DIR/neuron, compiled with no device. The golden answer is transformers' own,
greedy, in float32. Where the engine computes in less, only its first token has to agree; the openai engine's server is
not asked, so any text is right.
"""

from __future__ import annotations

import importlib
import shutil
import sys
from pathlib import Path

import torch

from servekit.engines import kernels
from servekit.golden import Golden
from servekit.settings import LlamaSettings

GOLDEN_PROMPT = "The with statement is used to"
GOLDEN_TOKENS = 12


def make_golden(model_dir: Path, settings: LlamaSettings) -> Golden:
    """What transformers.generate continues GOLDEN_PROMPT with."""
    exact = settings.chosen_engine == "torch" and settings.amp in ("auto", "f32") and settings.quantize == "none"
    parameters = {"max_new_tokens": GOLDEN_TOKENS}
    body: dict[str, object] = {"inputs": GOLDEN_PROMPT, "parameters": parameters, "stream": False}
    if settings.chosen_engine == "openai":
        return Golden(body, "text", [""], 0.0)

    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_dir, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32, local_files_only=True)
    inputs = tokenizer(GOLDEN_PROMPT, return_tensors="pt", return_token_type_ids=False)
    new = GOLDEN_TOKENS if exact else 1
    with torch.inference_mode():
        whole = model.generate(**inputs, max_new_tokens=new, do_sample=False)[0]
    text = tokenizer.decode(whole[inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return Golden(body, "text", [text], 0.0)


def main(model_dir: str, out_dir: str, name: str, settings_json: str) -> None:
    """See the module's docstring."""
    settings = LlamaSettings.model_validate_json(settings_json)
    make_golden(Path(model_dir), settings).save(Path(out_dir))
    if settings.chosen_engine == "torch" and settings.mode in ("auto", "kernels") and shutil.which("g++"):
        kernels.build(Path(out_dir))
        print(f"{name}: kernels built")
    if settings.chosen_engine == "neuron" and has_neuronx():
        from servekit.engines.neuron import compile_artifacts

        # The archive's own folder for weights is not there yet: an absolute path stands for it.
        absolute = settings.model_copy(update={"model_checkpoint_dir": str(Path(model_dir).resolve())})
        rows = 1 if settings.max_batch == "auto" else settings.max_batch
        compile_artifacts(name, Path(model_dir), absolute, rows, Path(out_dir) / "neuron")
        print(f"{name}: compiled for Neuron")


def has_neuronx() -> bool:
    """Whether the real transformers-neuronx is installed: the package of that name on PyPI raises when imported."""
    try:
        importlib.import_module("transformers_neuronx")
    except ImportError:
        return False
    return True


if __name__ == "__main__":
    main(*sys.argv[1:])
