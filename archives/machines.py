"""One archive for several kinds of CPU: which it is compiled for, and what other machines compiled for it.

Knows nothing of how artefacts are made.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from archives.build import read_sums
from model_configs.archive_files import ARTEFACTS_FOLDER, read_entry
from model_configs.errors import KitError
from model_configs.schema import AnyModelConfig
from servekit.fingerprint import FINGERPRINT_FILE
from servekit.settings import EmbeddingSettings, Level

SAME = ("torch", "model_sha256", "settings", "kernels")


def compiled_for(config: AnyModelConfig, levels: Sequence[str]) -> AnyModelConfig:
    """The configuration with handler.compile.machines, if there are any. Raises KitError."""
    if not levels:
        return config
    settings, name = config.handler, config.model.name
    if not isinstance(settings, EmbeddingSettings) or settings.compile.mode != "aot":
        raise KitError(f"{name}: --compile-for is for encoders with compile.mode: aot", "leave it out")
    for level in levels:
        if level not in get_args(Level):
            raise KitError(f"--compile-for {level} is none of {', '.join(get_args(Level))}", "kit.py archive --help")
    compile_settings = settings.compile.model_copy(update={"machines": tuple(dict.fromkeys(levels))})
    return config.model_copy(update={"handler": settings.model_copy(update={"compile": compile_settings})})


def adopt(archive: Path, prepared: Path) -> list[str]:
    """Copy what the archive has for kinds of CPU that prepared has nothing for. Returns their names.

    prepared: the folder of assets.prepare, whose own artefact says what fits. Raises KitError for artefacts of another
    torch or model, or for other settings: native code that answers wrong.
    """
    own = sorted(prepared.glob(f"*/{FINGERPRINT_FILE}"))
    if not own:
        raise KitError(f"{archive.name}: this model has no artefacts of its own to compare with", "compile.mode: aot")
    wanted = json.loads(own[0].read_text())
    names, adopted = sorted(read_sums(archive)), []
    for name in names:
        parts = name.split("/")
        if parts[0] != ARTEFACTS_FOLDER or parts[-1] != FINGERPRINT_FILE or (prepared / parts[1]).exists():
            continue
        found = json.loads(read_entry(archive, name))
        for key in SAME:
            if found.get(key) != wanted[key]:
                raise KitError(
                    f"{archive}: {name}: {key} is {found.get(key)}, here {wanted[key]}",
                    "build both archives from the same weights, settings and torch",
                )
        folder = prepared / parts[1]
        folder.mkdir()
        for entry in (each for each in names if each.startswith(f"{ARTEFACTS_FOLDER}/{parts[1]}/")):
            (folder / entry.split("/")[-1]).write_bytes(read_entry(archive, entry))
        adopted.append(parts[1])
    if not adopted:
        raise KitError(f"{archive} has no artefacts that are not here already", "kit.py archive --compile-for … there")
    return adopted
