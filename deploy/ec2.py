"""A model on EC2: plan, apply, status, destroy its stack. A front: the modules named ec2_… do it.

plan: from the YAML, the archive and the account to a template and its parameters. apply: the archive goes to S3, then a
change set is made, shown and executed; instances tell how they start.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from deploy import RUN_DIR, ec2_archive, ec2_rehearsal, ec2_status
from deploy import aws as aws_session
from deploy.aws import Aws
from deploy.ec2_boot import SILENCE, BootLog
from deploy.ec2_parameters import section
from deploy.ec2_plan import Plan, image_uri, plan, require_whole, stack_name
from deploy.ec2_stack import DEAD, EMULATED_POLL_S, NEVER_MADE, POLL_S, Stack, require_settled
from deploy.hosting import images
from deploy.hosting import place as places
from deploy.hosting.calls import Calls, explained
from deploy.hosting.steps import Step
from deploy.outcome import Outcome
from model_configs.errors import Failed, KitError
from model_configs.schema import AnyModelConfig
from printing import err, table

FORMAT = "no-archive"
Build = Callable[[AnyModelConfig, str], Path]
NO_KEYS = ("ParameterNotFound", "ResourceNotFoundException")


def run(
    config: AnyModelConfig, action: str, build: Build, *, emulated: bool, dry_run: bool, region: str | None
) -> Outcome:
    """Do it. Raises KitError and Failed."""
    section(config)
    if not emulated and action in ("plan", "apply"):
        require_whole(config)
    aws = aws_session.session(emulated, region)
    calls = Calls(aws, dry_run)
    with explained(f"deploy ec2 {config.model.name} {action}"):
        poll_s = EMULATED_POLL_S if emulated else POLL_S
        stack = Stack(aws.client("cloudformation"), stack_name(config.model.name), poll_s)
        if action == "plan":
            return _plan(_planned(config, aws, build))
        if action == "apply":
            return _apply(_planned(config, aws, build), calls, stack)
        if action == "status":
            seen = ec2_status.look(aws, stack)
            return Outcome(seen.instances, seen.document(), failed=seen.problem)
        return _destroy(config, calls, stack)


def _planned(config: AnyModelConfig, aws: Aws, build: Build) -> Plan:
    if aws.emulated:
        config = ec2_rehearsal.with_account(config, aws)
        for line in ec2_rehearsal.CANNOT_SHOW:
            err.print(f"rehearsal: {line}")
    place = places.of(aws)
    image = images.resolved(aws, image_uri(config, place))
    made = plan(config, build(config, FORMAT), place, image, _keys_version(aws, section(config).keys_arn or ""))
    for line in made.advice:
        err.print(line)
    return made


def _plan(made: Plan) -> Outcome:
    folder = _write(made)
    rows = [{"resource": name, "type": each["Type"]} for name, each in made.resources().items()]
    return Outcome(rows, _document(made) | {"template": str(folder / "template.json"), "resources": len(rows)})


def _apply(made: Plan, calls: Calls, stack: Stack) -> Outcome:
    status = require_settled(stack)
    fresh = status is None or status in DEAD
    request = made.change_set("CREATE" if fresh else "UPDATE")
    if calls.dry_run:
        return _dry(made, calls, [*ec2_archive.steps(made.where, made.archive), *_stack_steps(request)])
    _upload(made, calls)
    if status in DEAD:
        err.print(f"{stack.name} is {status}: it is deleted first")
        stack.delete(err.print)
    boot = BootLog(calls.client("logs"), f"/servekit/{stack.name}/boot")
    changes = stack.propose(request)
    if changes is not None:
        table(changes)
        _execute(stack, request, boot)
    seen = ec2_status.look(calls.aws, stack)
    state = "no changes" if changes is None else "created" if fresh else "updated"
    rows = [{"stack": stack.name, "state": state, "url": seen.url}]
    return Outcome(rows, _document(made) | {"changes": changes or []} | seen.document() | {"state": state})


def _execute(stack: Stack, request: dict[str, Any], boot: BootLog) -> None:
    try:
        stack.execute(request, err.print, boot.lines)
    except Failed as error:
        raise Failed(str(error) if boot.heard or "Instances: " not in str(error) else f"{error}\n{SILENCE}") from None


def _destroy(config: AnyModelConfig, calls: Calls, stack: Stack) -> Outcome:
    status = stack.status()
    there = status not in NEVER_MADE
    if there and not calls.aws.emulated and stack.parameters().get("DeletionProtection") == "true":
        raise KitError(
            f"{stack.name} is protected from deletion",
            f"deploy.ec2.deletion_protection: false, then kit.py deploy ec2 {config.model.name} apply",
        )
    left = []
    if there and (bucket := stack.resources().get("AccessLogs")):
        left.append(f"bucket {bucket}: the load balancer's access logs are yours to delete")
    if calls.dry_run and status:
        calls.make(Step("cloudformation", "DeleteStack", {"StackName": stack.name}, "the stack"))
    elif not calls.dry_run:
        stack.delete(err.print)
    left += ec2_archive.remove(calls, ec2_archive.layout(config.model.name, section(config), places.of(calls.aws)))
    for line in left:
        err.print(f"left: {line}")
    document: dict[str, Any] = {
        "stack": stack.name,
        "was": status,
        "state": "nothing there" if status is None else "nothing was called" if calls.dry_run else "destroyed",
        "left": left,
        "dry_run": calls.dry_run,
    }
    if calls.aws.emulated and not calls.dry_run:
        from deploy import emulator

        ec2_rehearsal.forget(config, calls.aws)
        document["emulator_stopped"] = emulator.stop_if_unused()
    return Outcome([{key: document[key] for key in ("stack", "was", "state")}], document)


def _dry(made: Plan, calls: Calls, steps: list[Step]) -> Outcome:
    template = {"TemplateBody": str(_write(made) / "template.json")}
    for step in steps:
        is_long = "TemplateBody" in step.request
        calls.make(replace(step, request=step.request | template) if is_long else step)
    document = _document(made) | {"dry_run": True, "calls": [step.document() for step in steps]}
    return Outcome([{"stack": made.stack, "calls": len(steps), "state": "nothing was called"}], document)


def _stack_steps(request: dict[str, Any]) -> list[Step]:
    named = {key: request[key] for key in ("StackName", "ChangeSetName")}
    return [
        Step("cloudformation", "CreateChangeSet", request, "what changes"),
        Step("cloudformation", "ExecuteChangeSet", named, "the change"),
    ]


def _upload(made: Plan, calls: Calls) -> None:
    columns = (TextColumn("uploading"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=err, transient=True) as shown:
        task = shown.add_task("", total=made.archive.size_bytes)
        count = ec2_archive.put(calls, made.where, made.archive, lambda more: shown.update(task, advance=more))
    err.print(f"archive: {count} of {len(made.archive.files)} files uploaded to {_uri(made)}")


def _keys_version(aws: Aws, arn: str) -> str:
    """Of the keys that are there now, so that other ones change the stack. Raises KitError where there are none."""
    try:
        if ":secretsmanager:" in arn:
            versions = aws.client("secretsmanager").describe_secret(SecretId=arn)["VersionIdsToStages"]
            return next((version for version, stages in versions.items() if "AWSCURRENT" in stages), "")
        return str(aws.client("ssm").get_parameter(Name=arn)["Parameter"]["Version"])
    except ClientError as error:
        if error.response["Error"]["Code"] not in NO_KEYS:
            raise
        hint = "kit.py keys add NAME; then put a JSON list of the key files there"
        raise KitError(f"deploy.ec2.keys_arn: {arn} is not there", hint) from None


def _write(made: Plan) -> Path:
    """For whoever wants to read them, or to go on by hand."""
    folder = RUN_DIR / "ec2" / made.stack
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "template.json").write_text(json.dumps(made.template, indent=1) + "\n")  # below CloudFormation's limit
    (folder / "parameters.json").write_text(json.dumps(made.parameters, indent=2) + "\n")
    return folder


def _document(made: Plan) -> dict[str, Any]:
    return {
        "stack": made.stack,
        "parameters": made.parameters,
        "archive": _uri(made),
        "advice": list(made.advice),
    }


def _uri(made: Plan) -> str:
    return f"s3://{made.where.bucket}/{made.where.archive_prefix(made.archive)}"
