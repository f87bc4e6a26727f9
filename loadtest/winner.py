"""What a search leaves behind: the winner's YAML, made from the model's own, and the evidence beside it.

Knows nothing of how the winner was found.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import yaml

from loadtest import tuned
from loadtest.candidates import Candidate, key
from loadtest.tuned import Tuned
from loadtest.yaml_edit import edited
from model_configs.errors import KitError
from model_configs.schema import AnyModelConfig, load_file

DOCUMENT_FILE, WORDS_FILE, PAGE_FILE = "tune.json", "tune.md", "tune.html"
NOTE = "# Tuned on"


def written(found: Tuned, config: AnyModelConfig, folder: Path, source: Path, *, into_source: bool) -> Tuned:
    """Write the winner's YAML and the evidence into folder. source: the model's own YAML, if there is one.

    into_source: the winner goes there as well, when it is better than what stands there. Raises OSError.
    """
    text, target = _yaml(found, config, source, folder), folder / f"{config.model.name}.yaml"
    target.write_text(text)
    if into_source and found.improved:
        target = source
        target.write_text(text)
    found = replace(found, yaml=str(target))
    (folder / DOCUMENT_FILE).write_text(json.dumps(tuned.document(found), indent=2) + "\n")
    (folder / WORDS_FILE).write_text(tuned.markdown(found))
    (folder / PAGE_FILE).write_text(tuned.page(found))
    return found


def tuned_yaml(text: str, config: AnyModelConfig, winner: Candidate, check: Callable[[str], AnyModelConfig]) -> str:
    """The YAML with the winner's keys, every comment kept; without comments where that does not read back right.

    config: what text holds. check: reads a YAML's text.
    """
    wanted = winner.apply(config)
    try:
        changed = edited(text, dict(winner.overrides))
        if check(changed).model_dump() == wanted.model_dump():
            return changed
    except (KitError, ValueError, yaml.YAMLError):
        pass  # a spelling that the edit did not understand
    return yaml.safe_dump(wanted.model_dump(mode="json", exclude_unset=True), sort_keys=False, allow_unicode=True)


def _yaml(found: Tuned, config: AnyModelConfig, source: Path, folder: Path) -> str:
    """The winner's YAML: the model's own with other values, or one of its own where that is not what was searched."""
    draft = folder / "draft.yaml"

    def check(text: str) -> AnyModelConfig:
        draft.write_text(text)
        return load_file(draft)

    try:
        if source.exists() and key(own := load_file(source)) == key(config):
            text = tuned_yaml(source.read_text(), own, found.winner, check)
        else:
            text = tuned_yaml("", config, found.winner, check)
    finally:
        draft.unlink(missing_ok=True)
    return with_note(text, f"{NOTE} {found.machine['date']}: {tuned.headline(found)}") if found.improved else text


def with_note(text: str, note: str) -> str:
    """The YAML with a comment before its first key, instead of one that an earlier search left."""
    lines = [line for line in text.splitlines(keepends=True) if not line.startswith(NOTE)]
    place = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return "".join([*lines[:place], f"{note}\n", *lines[place:]])
