"""OpenAI's GET /v1/models, which its clients ask before anything else. Knows nothing of what the model does."""

from __future__ import annotations

import orjson

PATH = "v1/models"


def render_models(model_name: str) -> bytes:
    """The list of models: this one."""
    model = {"id": model_name, "object": "model", "created": 0, "owned_by": "servekit"}
    return orjson.dumps({"object": "list", "data": [model]})
