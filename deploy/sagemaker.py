"""A model on SageMaker: plan, apply, status, update, rollback, destroy. A front: deploy/hosting/ does it.

apply makes what is missing and updates what is there; update does so too, and refuses to make an endpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from deploy import aws as aws_session
from deploy.aws import Aws
from deploy.hosting import changes, images, layout, place
from deploy.hosting.apply import Applier
from deploy.hosting.archive import read
from deploy.hosting.calls import Calls, explained
from deploy.hosting.destroy import destroy
from deploy.hosting.plan import Part, Plan, advice, plan
from deploy.hosting.status import read as read_status
from deploy.outcome import Outcome
from model_configs.errors import KitError
from model_configs.schema import AnyModelConfig, load_model
from printing import out

FORMAT = "no-archive"
"""What SageMaker lays out as it is, with nothing to unpack."""
Build = Callable[[AnyModelConfig, str], Path]


def run(
    config: AnyModelConfig,
    action: str,
    build: Build,
    *,
    emulated: bool,
    dry_run: bool,
    via: str,
    region: str | None,
) -> Outcome:
    """Do it. Raises KitError and Failed."""
    layout.of(config, place.Place("", ""))  # a YAML without SageMaker is no reason to start an emulator
    session = aws_session.session(emulated, region)
    calls = Calls(session, dry_run)
    where = layout.of(config, place.of(session))
    if action == "status":
        found = read_status(calls, where)
        return Outcome(found.rows, found.document, failed=found.problem)
    if action == "rollback":
        back, left = Applier(calls, where).rollback()
        document = {"endpoint": where.endpoint, "configuration": back, "left": left, "dry_run": dry_run}
        return Outcome([document], document)
    if action == "destroy":
        return _destroyed(calls, where)
    applier = Applier(calls, where, with_sdk=via == "sdk")
    if action == "update" and applier.describe() is None:
        raise KitError(f"there is no endpoint {where.endpoint}", "apply makes it")
    planned = _plan(config, build, session)
    todo = applier.changes(planned, applier.describe()) if action == "plan" else applier.apply(planned)
    document = {
        "endpoint": where.endpoint,
        "endpoint_config": planned.config_name,
        "changes": changes.documents(todo),
        "dry_run": dry_run,
    }
    return Outcome(changes.rows(todo), planned.document() | document if action == "plan" else document)


def _plan(config: AnyModelConfig, build: Build, session: Aws) -> Plan:
    """Of the archive as it is built now, and the images as their tags are now."""
    for line in advice(config):
        out.print(line)
    where = layout.of(config, place.of(session))
    shadow, parts = where.section.shadow, [_part(config, build, session, where.section.image_uri)]
    if shadow:
        shadowed = load_model(shadow.model) if shadow.model else config
        parts.append(
            _part(shadowed, build, session, shadow.image_uri, shadow.instance_type or where.section.instance_type)
        )
    return plan(config, where.place, *parts)


def _part(
    config: AnyModelConfig, build: Build, session: Aws, image: str | None, instance_type: str | None = None
) -> Part:
    here = place.of(session)
    if image is None:
        kind = instance_type or layout.of(config, here).section.instance_type
        image = images.default_uri(here.account, here.region, here.dns_suffix, images.flavour(kind, config.handler))
    with explained("ecr DescribeImages"):
        image = images.resolved(session, image)
    return Part(read(build(config, FORMAT)), image)


def _destroyed(calls: Calls, where: layout.Layout) -> Outcome:
    done = destroy(calls, where)
    for line in done.left:
        out.print(f"left: {line}")
    document = {
        "endpoint": where.endpoint,
        "removed": changes.documents(done.removed),
        "left": done.left,
        "dry_run": calls.dry_run,
    }
    if calls.aws.emulated and not calls.dry_run:
        from deploy import emulator

        document["emulator_stopped"] = emulator.stop_if_unused()
    return Outcome(changes.rows(done.removed), document)
