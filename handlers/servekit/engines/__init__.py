"""Engines that turn token ids into token ids: base.py is their interface, and there is a file for each."""

from __future__ import annotations

from pathlib import Path

from servekit.engines.base import Engine
from servekit.settings import LlamaSettings


def load_engine(
    name: str, model_dir: Path, settings: LlamaSettings, *, rows: int, device: str, place: int, workers: int
) -> Engine:
    """The engine that the settings name, loaded. model_dir: the archive's root; rows: in flight together.

    place: this worker's among the workers of its model. Raises what the engine raises: it has to read as a sentence.
    """
    folder = model_dir / settings.model_checkpoint_dir
    # Imported where they are used: each needs what the others' machines do not have.
    if settings.chosen_engine == "neuron":
        from servekit.engines.neuron import NeuronEngine

        return NeuronEngine(name, model_dir, settings, rows, place, workers)
    if settings.chosen_engine == "openai":
        from servekit.engines.openai import OpenAIEngine

        return OpenAIEngine(settings.model_copy(update={"max_batch": rows}))
    from servekit.engines.torch import TorchEngine

    return TorchEngine(folder, settings, slots=rows, artefacts=model_dir / "artefacts", device=device)
