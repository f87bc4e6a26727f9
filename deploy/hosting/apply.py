"""Applies a plan: only what is missing or different, in its order; waits; tells a rollback from a success.

Twice does nothing the second time. What a run that failed has made, the next one keeps.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from deploy.hosting import api_requests, changes, current, logs, names, scaling, sdk, upload, waiting
from deploy.hosting.calls import Calls, explained
from deploy.hosting.changes import Change
from deploy.hosting.layout import Layout
from deploy.hosting.plan import Plan, scaling_steps
from deploy.hosting.steps import Step
from deploy.hosting.upload import Source
from model_configs.errors import Failed, KitError
from printing import err

POLL_S, EMULATED_POLL_S = 15.0, 0.3
PROPAGATION_S = 90.0
"""Until a new role may be taken everywhere."""
UNREADY = ("ould not assume role", "ould not access model data", "ould not find endpoint configuration")
"""What SageMaker says of things that were made a moment ago and are not known everywhere yet."""

Endpoint = dict[str, Any]


class Applier:
    """Applies to one layout. with_sdk: the SageMaker SDK makes the endpoint."""

    def __init__(self, calls: Calls, layout: Layout, *, with_sdk: bool = False) -> None:
        self.calls = calls
        self.layout = layout
        self._with_sdk = with_sdk
        self._poll_s = EMULATED_POLL_S if calls.aws.emulated else POLL_S
        self._policy_arn: str | None = None
        self._deregistered = False

    def describe(self) -> Endpoint | None:
        """The endpoint as it is now."""
        with explained("sagemaker DescribeEndpoint"):
            return current.endpoint(self.calls, self.layout.endpoint)

    def settled(self) -> Endpoint | None:
        """The endpoint, once nothing goes on with it any more, and it is the kit's. Raises KitError and Failed."""
        endpoint = self.describe()
        with explained("sagemaker ListTags"):
            changes.check_owned(self.calls, self.layout.endpoint, endpoint)
        if waiting.is_settled(endpoint) or self.calls.dry_run:
            return endpoint
        timeout_s = waiting.update_timeout_s(self.layout.section)
        done: Endpoint | None = self._told(lambda say: waiting.settled(self.describe, timeout_s, self._poll_s, say))
        return done

    def changes(self, plan: Plan, endpoint: Endpoint | None) -> list[Change]:
        """What apply would do."""
        with explained("reading what is there"):
            return changes.find(self.calls, plan, endpoint)

    def apply(self, plan: Plan) -> list[Change]:
        """Do it. Returns what was done. Raises KitError and Failed."""
        endpoint = self.settled()
        found = self.changes(plan, endpoint)
        if self._with_sdk:
            sdk.check(plan, found)
        todo = [change.step for change in found if change.verb != "keep"]
        files = {step.name for step in todo if step.operation == "PutObject"}
        for step in todo:
            if step.operation == "PutObject":
                if files:
                    self._upload([each for each in changes.sources(plan) if each.step.name in files])
                    files = set()
            elif step.operation == "CreateEndpoint" and self._with_sdk and not self.calls.dry_run:
                self._go(step, endpoint, lambda step: self._make_with_sdk(plan, found))
            elif step.operation in ("CreateEndpoint", "UpdateEndpoint"):
                self._go(step, endpoint, self._patiently)
            elif step.operation == "DeleteEndpoint":
                self.delete(step)
                endpoint = None
            elif self._with_sdk and step.operation in sdk.MADE and not self.calls.dry_run:
                continue
            else:
                self._make(step)
        return found

    def rollback(self) -> tuple[str, str]:
        """Go back to the configuration before. Returns it and the one that was left. Raises KitError and Failed."""
        endpoint = self.settled()
        if endpoint is None:
            raise KitError(f"there is no endpoint {self.layout.endpoint}", "apply makes it")
        now = endpoint["EndpointConfigName"]
        with explained("sagemaker ListTags"):
            previous = current.tags(self.calls, endpoint["EndpointArn"]).get(names.PREVIOUS_TAG)
            kind = current.instance_type(self.calls, previous) if previous else None
        if previous is None or kind is None:
            raise KitError(f"{self.layout.endpoint} has no version to go back to", "change the YAML back, and update")
        with explained("reading what is there"):
            renewed = current.is_scaled(self.calls, self.layout.endpoint) and kind != current.instance_type(
                self.calls, now
            )
        if renewed:
            self._make(changes.deregister(self.layout.endpoint, changes.TYPE_CHANGES))
        back = Step("sagemaker", "UpdateEndpoint", api_requests.rollback(self.layout, previous), f"not {now}")
        self._go(back, endpoint, self._patiently)
        if renewed:
            self._scale()
        return previous, now

    def delete(self, step: Step) -> None:
        """Delete the endpoint and wait until it is gone."""
        self.calls.make(step)
        if not self.calls.dry_run:
            timeout_s = waiting.PROVISION_S
            gone: Callable[[Endpoint | None], bool] = lambda endpoint: endpoint is None  # noqa: E731
            self._told(lambda say: waiting.settled(self.describe, timeout_s, self._poll_s, say, until=gone))

    def _go(self, step: Step, before: Endpoint | None, make: Callable[[Step], object]) -> None:
        """Create or update the endpoint, wait, and remember the configuration that it leaves."""
        make(step)
        if self.calls.dry_run:
            return
        section, wanted = self.layout.section, step.request["EndpointConfigName"]
        most_s = waiting.start_timeout_s(section) if before is None else waiting.update_timeout_s(section)
        try:
            after = self._told(lambda say: waiting.arrived(self.describe, wanted, before, most_s, self._poll_s, say))
        except Failed as error:
            if self._deregistered:  # what was rolled back to is scaled as before
                self._scale()
            raise Failed("\n".join([str(error), *logs.tail(self.calls, self.layout.endpoint)])) from None
        left = before["EndpointConfigName"] if before else wanted
        if left != wanted:
            tag = {"ResourceArn": after["EndpointArn"], "Tags": names.as_list({names.PREVIOUS_TAG: left})}
            self.calls.make(Step("sagemaker", "AddTags", tag, "where rollback goes"))

    def _scale(self) -> None:
        for step in scaling_steps(self.layout):
            self._make(step)

    def _make_with_sdk(self, plan: Plan, found: list[Change]) -> None:
        """The SDK takes a model that is there, but no configuration."""
        if any(change.verb == "keep" and change.step.operation == "CreateEndpointConfig" for change in found):
            old = {"EndpointConfigName": plan.config_name}
            self.calls.make(Step("sagemaker", "DeleteEndpointConfig", old, "the SDK makes it anew"))
        with err.status("the SageMaker SDK"):
            sdk.deploy(plan, self.calls.aws)

    def _make(self, step: Step) -> None:
        request = step.request
        if request.get("AlarmActions") == [scaling.POLICY_ARN] and not self.calls.dry_run:
            step = Step(step.service, step.operation, {**request, "AlarmActions": [self._arn_of_policy()]}, step.why)
        answer = self._patiently(step)
        self._deregistered = self._deregistered or step.operation == "DeregisterScalableTarget"
        if step.operation == "PutScalingPolicy" and request["PolicyName"] == scaling.from_zero_name(
            self.layout.endpoint
        ):
            self._policy_arn = answer.get("PolicyARN")

    def _arn_of_policy(self) -> str:
        """Of the policy that makes the first instance."""
        if self._policy_arn is None:
            client, resource = self.calls.client("application-autoscaling"), names.resource(self.layout.endpoint)
            found = current.policies(client, resource)
            self._policy_arn = str(found[scaling.from_zero_name(self.layout.endpoint)]["PolicyARN"])
        return self._policy_arn

    def _patiently(self, step: Step) -> dict[str, Any]:
        """Make a call, again and again while AWS has not heard everywhere of what was made before it."""
        deadline = time.monotonic() + (0 if self.calls.aws.emulated else PROPAGATION_S)
        while True:
            try:
                return self.calls.make(step)
            except Failed as error:
                if time.monotonic() > deadline or not any(words in str(error) for words in UNREADY):
                    raise
            time.sleep(self._poll_s)

    def _upload(self, missing: list[Source]) -> None:
        if self.calls.dry_run:
            for source in missing:
                self.calls.make(source.step)
            return
        total = sum(source.size_bytes for source in missing)
        err.print(f"s3: {len(missing)} files, {total / 1e6:.1f} MB")
        columns = (TextColumn("uploading"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as shown, explained("s3"):
            task = shown.add_task("", total=total)
            upload.upload(self.calls.client("s3"), missing, lambda count: shown.update(task, advance=count))

    def _told(self, wait: Callable[[Callable[[str], None]], Any]) -> Any:
        """Wait with a line that says for what; where it cannot be overwritten, with one for each news."""
        with err.status(self.layout.endpoint) as shown:
            last = ""

            def say(line: str) -> None:
                nonlocal last
                shown.update(f"{self.layout.endpoint}: {line}")
                if line != last and not err.is_terminal:
                    err.print(f"{self.layout.endpoint}: {line}")
                last = line

            return wait(say)
