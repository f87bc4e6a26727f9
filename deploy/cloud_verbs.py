"""The command line's `deploy` verbs, to SageMaker and to EC2: they parse, call one function, print.

Exit codes: 0 done, 1 what was asked for failed or is not in service, 2 usage or configuration.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from deploy import ec2 as to_ec2
from deploy import sagemaker as to_sagemaker
from deploy.outcome import Outcome
from model_configs.errors import Failed
from model_configs.schema import AnyModelConfig, load_model
from printing import report

app = typer.Typer(help="Deploy a model to SageMaker or EC2, or to their emulator.", no_args_is_help=True)
Build = Callable[[AnyModelConfig, str], Path]
"""Builds a model's archive in a format where it changed, and says where it is; kit.py puts it into ctx.obj."""

ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="A model of model_configs/, by name.")]
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the JSON document to FILE too.")]
Region = Annotated[str | None, typer.Option(help="The AWS region, else your configuration's.")]
DryRun = Annotated[bool, typer.Option(help="Print every call, make none.")]


class On(str, Enum):
    """Whose API is called."""

    aws = "aws"
    emulator = "emulator"


class SageMakerAction(str, Enum):
    """What is done about an endpoint."""

    plan = "plan"
    apply = "apply"
    status = "status"
    update = "update"
    rollback = "rollback"
    destroy = "destroy"


class Ec2Action(str, Enum):
    """What is done about a stack."""

    plan = "plan"
    apply = "apply"
    status = "status"
    destroy = "destroy"


class Via(str, Enum):
    """What applies a plan: plain boto3, or the SageMaker SDK's version 2."""

    boto3 = "boto3"
    sdk = "sdk"


OnOption = Annotated[On, typer.Option("--on", help="AWS, or the emulator of this machine.")]


@app.command()
def sagemaker(
    context: typer.Context,
    name: ModelName,
    action: SageMakerAction,
    on: OnOption = On.aws,
    dry_run: DryRun = False,
    via: Annotated[Via, typer.Option(help="What applies the plan.")] = Via.boto3,
    region: Region = None,
    json_file: JsonFile = None,
) -> None:
    """Plan, apply, look at, update, roll back or destroy a model's endpoint on SageMaker."""
    done = to_sagemaker.run(
        load_model(name), action.value, context.obj, emulated=on is On.emulator, dry_run=dry_run, via=via.value,
        region=region,
    )  # fmt: skip
    _report(done, json_file)


@app.command()
def ec2(
    context: typer.Context,
    name: ModelName,
    action: Ec2Action,
    on: OnOption = On.aws,
    dry_run: DryRun = False,
    region: Region = None,
    json_file: JsonFile = None,
) -> None:
    """Plan, apply, look at or destroy a model's stack on EC2: a gateway and TorchServe on each instance."""
    done = to_ec2.run(
        load_model(name), action.value, context.obj, emulated=on is On.emulator, dry_run=dry_run, region=region
    )
    _report(done, json_file)


def _report(done: Outcome, json_file: Path | None) -> None:
    report(done.rows, done.document, json_file)
    if done.failed:
        raise Failed(done.failed)
