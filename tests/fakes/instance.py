"""An instance without EC2: a folder as its /, commands that note how they were called, and the script's settings."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy import ec2_template
from model_configs import HANDLERS_DIR
from model_configs.archive_files import SUMS_FILE
from servekit.golden import Golden

COMMANDS = (
    "amazon-cloudwatch-agent-ctl", "aws", "cfn-signal", "cloud-init", "dnf", "docker", "journalctl", "nvidia-smi",
    "systemctl",
)  # fmt: skip
GOLDEN = Golden({"inputs": ["hello"]}, "vectors", [[3.0, 4.0]], 1e-4)
TIMEOUT_S = 120


def settings(**changes: str) -> dict[str, str]:
    """What CloudFormation fills into the script."""
    return {
        "AWS::StackName": "servekit-minilm",
        "AWS::Region": "eu-west-1",
        "Image": "123456789012.dkr.ecr.eu-central-1.amazonaws.com/servekit:cpu",
        "ImageArchitecture": "amd64",
        "Accelerator": "none",
        "GatewaySettings": '{"max_concurrent": 8}',
        "ArchiveBucket": "models",
        "ArchivePrefix": "servekit/ec2/servekit-minilm/0123456789abcdef",
        "ArchiveSha256": "0" * 64,
        "KeysArn": "arn:aws:ssm:eu-west-1:123456789012:parameter/servekit/minilm/keys",
        "KeysVersion": "3",
        "AgentConfiguration": "/servekit/servekit-minilm/cloudwatch-agent",
        "BootLogs": "/servekit/servekit-minilm/boot",
        "ContainerLogs": "/servekit/servekit-minilm/container",
        "ResponseTimeout": "10",
        "StartTimeout": "300",
        **changes,
    }


def script(**changes: str) -> str:
    """The user data as an instance gets it."""
    values = settings(**changes)
    head = re.sub(r"\$\{([A-Za-z:0-9]+)\}", lambda match: values[match[1]], ec2_template.SETTINGS)
    return head + ec2_template.script()


def write_archive(folder: Path, golden: Golden = GOLDEN) -> str:
    """A no-archive folder with as much as the script looks at. Returns the sha256 of its sums."""
    for name in ("__init__.py", "golden.py"):
        (folder / "servekit").mkdir(parents=True, exist_ok=True)
        shutil.copy(HANDLERS_DIR / "servekit" / name, folder / "servekit" / name)
    (folder / "artefacts").mkdir()
    golden.save(folder / "artefacts")
    (folder / "a file with spaces").write_text("weights")
    sums = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }
    (folder / SUMS_FILE).parent.mkdir()
    (folder / SUMS_FILE).write_text(json.dumps({"sha256": sums}))
    return hashlib.sha256((folder / SUMS_FILE).read_bytes()).hexdigest()


@dataclass
class Instance:
    """folder: of its own. keys: what the keys' parameter holds; environment: for the commands."""

    folder: Path
    port: int
    keys: Any = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.root.mkdir()
        commands = self.folder / "bin"
        commands.mkdir()
        for name in COMMANDS:
            (commands / name).symlink_to(Path(__file__).with_name("instance_commands.sh"))

    @property
    def root(self) -> Path:
        """Its /."""
        return self.folder / "root"

    @property
    def s3(self) -> Path:
        """What is in the bucket, where the archive is."""
        return self.folder / "s3"

    @property
    def key_files(self) -> list[Path]:
        """Of the gateway."""
        return sorted((self.root / "etc/servekit/keys").glob("*.json"))

    def calls(self, beginning: str = "") -> list[str]:
        """Commands that were called, one a line; those that begin so."""
        found = (self.root / "calls").read_text().splitlines()
        return [call for call in found if call.startswith(beginning)]

    def boot(self, text: str) -> subprocess.CompletedProcess[str]:
        """Run the user data."""
        user_data = self.folder / "user-data"
        user_data.write_text(text)
        (self.root / "keys").write_text(self.keys if isinstance(self.keys, str) else json.dumps(self.keys))
        scratch = self.folder / "tmp"
        scratch.mkdir(exist_ok=True)
        return subprocess.run(
            ["/bin/bash", str(user_data)],
            env={
                "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.defpath}",
                "TMPDIR": str(scratch),
                "BOOT_ROOT": str(self.root),
                "BOOT_PORT": str(self.port),
                "BOOT_PAUSE_S": "0",
                "BOOT_FLUSH_S": "0",
                "BOOT_SETTLE_S": "0",
                "FAKE_ROOT": str(self.root),
                "FAKE_S3": str(self.s3),
                "FAKE_PYTHON": sys.executable,
                **self.environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
