"""A no-archive folder with everything but a model, for what only reads archives."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from servekit.golden import Golden

GOLDEN = Golden({"inputs": ["a"]}, "vectors", [[1.0]], 0.001)


def fake_archive(folder: Path, name: str, **torchserve: int) -> Path:
    """An archive of an embedding model of this name, with these keys of TorchServe's."""
    for part in ("MAR-INF", "artefacts", "model"):
        (folder / part).mkdir(parents=True)
    manifest = {"model": {"modelName": name, "modelVersion": "1.0", "handler": "embedding_handler.py"}}
    (folder / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))
    (folder / "model-config.yaml").write_text(yaml.safe_dump({"minWorkers": 1, **torchserve, "handler": {}}))
    GOLDEN.save(folder / "artefacts")
    (folder / "model" / "weights").write_bytes(b"weights")
    (folder / "embedding_handler.py").write_text("")
    return folder
