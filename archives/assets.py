"""A model's weights and tokenizer, and what is made from them before packaging: golden answer and compiled artefact.

Knows nothing of archive formats.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from model_configs import HANDLERS_DIR, ROOT
from model_configs.errors import Failed, KitError
from model_configs.schema import AnyModelConfig, Assets
from servekit import fingerprint
from servekit.settings import EmbeddingSettings

# What a transformers or sentence-transformers folder needs at run time; pickled weights are left out on purpose.
MODEL_FILES = ("*.json", "*.txt", "*.model", "*.safetensors", "*/config.json")
CODE_FILES = ("*.py",)
SCRIPT_FILES = ("model.pt",)
KEY_LENGTH = 16
KEPT = 3
# The program that makes a handler's golden answer and artefacts, and the sources that its outcome depends on.
SHARED_SOURCES = tuple(f"servekit/{name}.py" for name in ("aot", "fingerprint", "golden", "native", "settings"))
_ENCODER = (
    "servekit.encoders.build",
    ("servekit/encoders/*.*", "servekit/quantise.py", *SHARED_SOURCES, "servekit/sentence_files.py"),
)
BUILDERS = {
    "embedding_handler.py": _ENCODER,
    "retrieval_handler.py": _ENCODER,
    "classifier_handler.py": (
        "servekit.classifiers.build",
        ("servekit/classifiers/*.py", "servekit/quantise.py", *SHARED_SOURCES, "servekit/images.py"),
    ),
    "llama_handler.py": (
        "servekit.generation.build",
        ("servekit/generation/build.py", "servekit/engines/kernels.*", "servekit/engines/llama.py", *SHARED_SOURCES),
    ),
}
# Settings that say how a worker serves and leave its golden answer and artefacts as they are. Whoever tries them out,
# as `kit.py tune` does, compiles nothing anew.
_OF_AN_ENCODER = {
    **dict.fromkeys(("threads", "pinning", "max_request_bytes", "max_padding", "max_texts_per_request"), True),
    "max_pass_tokens": True,
    "warmup": True,
    "compile": {"batch_buckets", "length_buckets", "require_artifacts"},
}
SERVING_ONLY: dict[str, dict[str, Any]] = {
    "embedding_handler.py": _OF_AN_ENCODER,
    "retrieval_handler.py": _OF_AN_ENCODER,
    "classifier_handler.py": dict.fromkeys(("threads", "pinning", "max_request_bytes", "max_padding"), True),
    "llama_handler.py": dict.fromkeys(
        ("threads", "pinning", "max_request_bytes", "max_batch", "prefill_chunk", "heartbeat_s"), True
    ),
}
# torchao quantises when an archive is built. It stands beside the environment, for builders alone: a worker that finds
# it imports it with transformers, 1.4 s more for nothing.
QUANTISER = Path(sys.prefix) / "int8"


def find_weights(config: AnyModelConfig) -> Path:
    """The folder that holds the model. Raises KitError that says what is missing and where to put it."""
    assets: Assets = config.model.assets
    if assets.package and assets.package_folder:
        return _checked(_package_folder(assets.package, assets.package_folder), config)
    if assets.path:
        folder = ROOT / Path(assets.path).expanduser()
        if folder.is_dir():
            return _checked(folder, config)
    if assets.hub:
        return _checked(_from_hub(config), config)
    raise KitError(
        f"{config.model.name}: there are no weights: {assets.path} is not a folder",
        "put config.json, the tokenizer's files and model.safetensors there",
    )


def state(config: AnyModelConfig) -> str:
    """Where the weights are, or what is missing, in a word or a line; nothing is fetched."""
    source = config.model.assets
    if source.package is None and source.path and not (ROOT / Path(source.path).expanduser()).is_dir():
        return f"missing: {source.path}" + (f", else from the hub: {source.hub}" if source.hub else "")
    if source.package is None and not source.path:
        return f"from the hub: {source.hub}"
    try:
        find_weights(config)
    except KitError as error:
        return f"missing: {error}"
    return "here"


def trusts_code(config: AnyModelConfig) -> bool:
    """Whether the YAML lets Python code that comes with the weights run."""
    return bool(getattr(config.handler, "trust_remote_code", False))


def file_patterns(config: AnyModelConfig) -> tuple[str, ...]:
    """Which files of a folder a model runs on: .py files only where they are trusted, TorchScript where it is meant."""
    is_script = getattr(config.handler, "source", "") == "torchscript"
    return MODEL_FILES + (CODE_FILES if trusts_code(config) else ()) + (SCRIPT_FILES if is_script else ())


def model_files(folder: Path, config: AnyModelConfig) -> list[Path]:
    """The files of folder that go into the model's archive, sorted, relative to it."""
    patterns = file_patterns(config)
    found = {path.relative_to(folder) for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    return sorted(found)


def prepare(config: AnyModelConfig, weights: Path, cache: Path) -> Path:
    """The folder with what this handler's builder makes (golden.json, compiled artefact), built once for each input.

    cache: where such folders are kept, by prepared_key. Takes about 35 s the first time with compile.mode aot, nothing
    after that. Raises Failed with the builder's own words.
    """
    program, _ = BUILDERS[config.model.handler]
    settings = config.resolved_handler.model_dump_json(exclude_unset=True)
    calibration = calibration_folder(config)
    done = cache / f"{config.model.name}-{prepared_key(config, weights)}"
    if done.is_dir():
        return done
    _require_tools(config, weights)
    cache.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=cache, prefix=".building-") as building,
        _compiling() as (python, inductor_dir),
    ):
        out = Path(building) / "out"
        out.mkdir()
        environment = {
            **{key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
            "PYTHONPATH": f"{HANDLERS_DIR}{os.pathsep}{QUANTISER}",
            "PYTHONHASHSEED": "0",
            "TORCHINDUCTOR_CACHE_DIR": str(inductor_dir),
            "TOKENIZERS_PARALLELISM": "false",
        }
        command = [str(python), "-m", program, str(weights), str(out), config.model.name, settings]
        command += [str(calibration)] if calibration else []
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise Failed(f"{config.model.name}: building its artefacts failed:\n{result.stderr.strip()[-4000:]}")
        if not done.is_dir():  # another build of the same key may have been faster
            out.rename(done)
    prune(cache, config.model.name)
    return done


def prepared_key(config: AnyModelConfig, weights: Path) -> str:
    """Of everything that the outcome of prepare depends on."""
    program, sources = BUILDERS[config.model.handler]
    kept = config.resolved_handler.model_dump_json(exclude=SERVING_ONLY[config.model.handler])
    parts = [program, kept, json.dumps(fingerprint.machine(), sort_keys=True)]
    parts += [f"{p}:{fingerprint.file_sha256(weights / p)}" for p in model_files(weights, config)]
    parts += [
        f"{p.name}:{fingerprint.file_sha256(p)}" for pattern in sources for p in sorted(HANDLERS_DIR.glob(pattern))
    ]
    if calibration := calibration_folder(config):
        parts += [f"{p.name}:{fingerprint.file_sha256(p)}" for p in sorted(calibration.rglob("*.*"))]
    return hashlib.sha256(chr(10).join(parts).encode()).hexdigest()[:KEY_LENGTH]


def prune(cache: Path, name: str) -> None:
    """Remove all but the last KEPT folders that were prepared for a model: each holds its weights once more."""
    pattern = f"{name}-{'[0-9a-f]' * KEY_LENGTH}"
    for stale in sorted(cache.glob(pattern), key=lambda folder: folder.stat().st_mtime)[:-KEPT]:
        shutil.rmtree(stale)


def calibration_folder(config: AnyModelConfig) -> Path | None:
    """The folder of typical inputs, None when the YAML names none. Raises KitError when it is not there."""
    if not config.model.assets.calibration:
        return None
    folder = ROOT / Path(config.model.assets.calibration).expanduser()
    if not folder.is_dir():
        raise KitError(
            f"{config.model.name}: model.assets.calibration: {config.model.assets.calibration} is not a folder",
            "put some dozens of typical images there, or .txt files with a text a line",
        )
    return folder


def _require_tools(config: AnyModelConfig, weights: Path) -> None:
    settings = config.handler
    needs = dict(settings.needs)
    if isinstance(settings, EmbeddingSettings) and settings.compile.mode == "aot":
        by_inductor = _levels_by_inductor(config, weights)
        levels = fingerprint.levels()
        here = levels[0] if levels else "none that is known"
        for level, reason in by_inductor.items():
            if level not in levels:
                raise KitError(
                    f"{config.model.name}: for {level} nothing can be compiled here: this CPU is {here}, and for the "
                    f"kernels, {reason}",
                    f"build the archive on a machine that is {level}, and add its artefacts here: kit.py archive "
                    f"{config.model.name} --artifacts-from ARCHIVE",
                )
        if not by_inductor:
            needs.pop("torchao", None)
    if "compiler" in needs and not any(map(shutil.which, [os.environ.get("CXX", "g++"), "g++", "clang++"])):
        raise KitError(
            f"{config.model.name}: {needs['compiler']} needs a C++ compiler, and there is none",
            f"install g++ or clang++, or set {needs['compiler'].split(':')[0]} to eager",
        )
    if "torchao" in needs and not (QUANTISER / "torchao").is_dir():
        raise KitError(
            f"{config.model.name}: {needs['torchao']} needs torchao, and it is not in {QUANTISER}",
            f"make int8, or pip install --no-deps --target {QUANTISER} --requirement requirements-int8.txt",
        )


def _levels_by_inductor(config: AnyModelConfig, weights: Path) -> dict[str, str]:
    """The kinds of CPU that an encoder's archive has no kernels for, and why."""
    from servekit.encoders.artefacts import unfit  # not above: it imports torch
    from servekit.encoders.module import encoder_spec

    spec = encoder_spec(config.model.name, weights, config.handler)
    wanted = config.handler.compile.machines or fingerprint.levels()[:1]
    return {level: reason for level in wanted if (reason := unfit(spec, level))}


@contextmanager
def _compiling() -> Iterator[tuple[Path, Path]]:
    """This Python and a folder for Inductor, by paths that are the same wherever the project lies, and ours alone.

    Inductor names its files by a hash over the compiler's command line, which holds the path of torch's headers, and
    __FILE__ is compiled into the artefact: without this, two clones never make the same archive.
    """
    folder = Path(tempfile.gettempdir()) / f"servekit-inductor-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise KitError(f"{folder} belongs to somebody else or is open to others", "remove it, or set TMPDIR")
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        work, environment = folder / "work", folder / "environment"
        shutil.rmtree(work, ignore_errors=True)
        environment.unlink(missing_ok=True)
        environment.symlink_to(sys.prefix)
        try:
            yield environment / Path(sys.executable).relative_to(sys.prefix), work
        finally:
            shutil.rmtree(work, ignore_errors=True)
            environment.unlink()


def _package_folder(package: str, folder: str) -> Path:
    try:
        distribution = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        raise KitError(
            f"the package {package}, which carries the weights, is not installed", f"pip install --no-deps {package}"
        ) from None
    return Path(str(distribution.locate_file(folder)))


def _from_hub(config: AnyModelConfig) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    assets = config.model.assets
    try:
        patterns = list(file_patterns(config))
        return Path(snapshot_download(str(assets.hub), revision=assets.revision, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError, OSError) as error:
        local = f"{assets.path} is not a folder, and " if assets.path else ""
        wish = f"put its files into {assets.path}" if assets.path else "set model.assets.path to a folder that has it"
        raise KitError(
            f"{config.model.name}: there are no weights: {local}the hub gave no {assets.hub} ({type(error).__name__})",
            f"{wish} (config.json, tokenizer files, model.safetensors, …)",
        ) from error


def _checked(folder: Path, config: AnyModelConfig) -> Path:
    assets, source = config.model.assets, getattr(config.handler, "source", "transformers")
    wanted = {"torchscript": "model.pt", "module": "model.safetensors"}.get(source, "config.json")
    if not (folder / wanted).exists():
        raise KitError(f"{folder} has no {wanted}: it is not a {source} model", "see model.assets in the YAML")
    if source != "torchscript" and not list(folder.glob("*.safetensors")):
        raise KitError(
            f"{folder} has no *.safetensors; pickled weights are not loaded",
            "convert them: model.save_pretrained(folder, safe_serialization=True)",
        )
    for name, wanted in assets.sha256.items():
        path = folder / name
        found = fingerprint.file_sha256(path) if path.exists() else "no such file"
        if found != wanted:
            raise KitError(
                f"{path}: sha256 is {found}, the YAML says {wanted}", "get the weights again, or correct the YAML"
            )
    return folder
