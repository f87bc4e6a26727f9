"""The CloudFormation template against what reads it: cfn-lint, guard rules, EC2's API, systemd, Docker's command."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import socket
import socketserver
import subprocess
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cfn_guard_rs
import pytest
from cfnlint.api import lint

from deploy import ec2_template, service_model
from deploy.container_environment import ROWS
from deploy.ec2_plan import Plan
from deploy.render import TEMPLATES
from tests.fakes.cloudformation import resolved
from tests.fakes.ec2_models import EVERYTHING, SECTION, planned

HEAD, *RULES = re.split(r"(?m)^(?=rule )", (TEMPLATES / "ec2.guard").read_text())
RULE_NAMES = [rule.split()[1] for rule in RULES]
KINDS = {
    "least": SECTION,
    "everything": EVERYTHING,
    "graviton": SECTION | {"instance_type": "c8g.2xlarge"},
    "cuda": SECTION | {"instance_type": "g6.xlarge"},
    "inf2": SECTION | {"instance_type": "inf2.8xlarge"},
}
Template = dict[str, Any]


@pytest.fixture(params=KINDS)
def plan(request: pytest.FixtureRequest, tmp_path: Path) -> Plan:
    return planned(tmp_path, KINDS[request.param])


def with_defaults(plan: Plan) -> Template:
    """The template with this plan's parameters as its defaults, so that a linter sees them."""
    parameters = plan.template["Parameters"]
    filled = {
        name: parameters[name] | {"Default": json.loads(value) if parameters[name]["Type"] == "Number" else value}
        for name, value in plan.parameters.items()
    }
    assert filled.keys() == parameters.keys(), "every parameter is given, and no other"
    return plan.template | {"Parameters": filled}


def test_cfn_lint_has_nothing_to_say(plan: Plan) -> None:
    found = lint(json.dumps(with_defaults(plan)), regions=["eu-west-1", "us-east-1"])
    assert [f"{match.rule.id} {match.message}" for match in found] == []


def test_cfn_lint_reads_it(tmp_path: Path) -> None:
    broken = with_defaults(planned(tmp_path))
    broken["Resources"]["LaunchTemplate"]["Properties"]["LaunchTemplateData"]["KeyNames"] = "x"
    assert [match.rule.id for match in lint(json.dumps(broken), regions=["eu-west-1"])] == ["E3002"]


def test_parameters_take_what_the_plan_gives(plan: Plan) -> None:
    for name, given in plan.template["Parameters"].items():
        value = plan.parameters[name]
        assert value in map(str, given.get("AllowedValues", [value])), name
        assert re.fullmatch(given.get("AllowedPattern", ".*").strip("^$"), value), name
        if given["Type"] == "Number":
            assert given.get("MinValue", 0) <= float(value) <= given.get("MaxValue", 1e9), name


@pytest.mark.parametrize("evil", ["'", '"', "`", "$(", "\\", "\n", " ", ";"])
def test_no_parameter_of_the_script_takes_what_a_shell_would(evil: str) -> None:
    parameters = ec2_template.template()["Parameters"]
    for name in re.findall(r"'\$\{(\w+)\}'", ec2_template.SETTINGS):
        given = parameters.get(name)
        if given is None or given["Type"] == "Number":
            continue
        for value in (f"x{evil}", f"/x{evil}", f"arn:aws:ssm:eu-west-1:123456789012:parameter/x{evil}"):
            assert not re.fullmatch(given["AllowedPattern"].strip("^$"), value), name


def failing(template: Template) -> set[str]:
    """Names of the guard rules that do not hold."""
    return {name for name, rule in zip(RULE_NAMES, RULES, strict=True) if not _holds(template, name, rule)}


def _holds(template: Template, name: str, rule: str) -> bool:
    try:
        return bool(cfn_guard_rs.run_checks(template, HEAD + rule).compliant == [name])
    except json.JSONDecodeError:
        return False  # of a report beyond 8 KiB this version returns only the end; only failures are as long


def test_every_guard_rule_holds(plan: Plan) -> None:
    assert failing(resolved(plan.template, plan.parameters)) == set()


def _set(path: str, value: Any) -> Callable[[Template], None]:
    def change(template: Template) -> None:
        *parents, last = path.split(".")
        node: Any = template["Resources"]
        for part in parents:
            node = node[int(part)] if isinstance(node, list) else node[part]
        if value is ...:
            del node[last]
        elif isinstance(node, list):
            node[int(last)] = value
        else:
            node[last] = value

    return change


def _attribute(key: str, value: str) -> Callable[[Template], None]:
    def change(template: Template) -> None:
        for each in template["Resources"]["LoadBalancer"]["Properties"]["LoadBalancerAttributes"]:
            if each["Key"] == key:
                each["Value"] = value

    return change


def _statement(sid: str, **changes: Any) -> Callable[[Template], None]:
    def change(template: Template) -> None:
        statements = template["Resources"]["InstanceRole"]["Properties"]["Policies"][0]["PolicyDocument"]["Statement"]
        (found,) = (each for each in statements if each["Sid"] == sid)
        for key, value in changes.items():
            if value is ...:
                del found[key]
            else:
                found[key] = value

    return change


DATA = "LaunchTemplate.Properties.LaunchTemplateData"
INGRESS = "LoadBalancerGroup.Properties.SecurityGroupIngress.0"
BROKEN = [
    ("metadata_by_token_and_not_from_the_container", _set(f"{DATA}.MetadataOptions.HttpTokens", "optional")),
    ("metadata_by_token_and_not_from_the_container", _set(f"{DATA}.MetadataOptions.HttpPutResponseHopLimit", 2)),
    ("metadata_by_token_and_not_from_the_container", _set(f"{DATA}.MetadataOptions", ...)),
    ("no_ssh_key", _set(f"{DATA}.KeyName", "mine")),
    ("no_public_address", _set(f"{DATA}.NetworkInterfaces.0.AssociatePublicIpAddress", True)),
    ("no_public_address", _set(f"{DATA}.NetworkInterfaces.0.AssociatePublicIpAddress", ...)),
    ("volumes_are_encrypted", _set(f"{DATA}.BlockDeviceMappings.0.Ebs.Encrypted", False)),
    ("volumes_are_encrypted", _set(f"{DATA}.BlockDeviceMappings.0.Ebs.Encrypted", ...)),
    ("volumes_are_encrypted", _set(f"{DATA}.BlockDeviceMappings.0.Ebs.VolumeType", "gp2")),
    ("only_443_and_8080_are_reached", _set(f"{INGRESS}.CidrIp", "0.0.0.0/0")),
    ("only_443_and_8080_are_reached", _set("LoadBalancerGroup.Properties.SecurityGroupIngress.1.CidrIpv6", "::/0")),
    ("only_443_and_8080_are_reached", _set(f"{INGRESS}.FromPort", 80)),
    ("only_443_and_8080_are_reached", _set(f"{INGRESS}.IpProtocol", "-1")),
    ("only_443_and_8080_are_reached", _set("InstancesFromLoadBalancer.Properties.ToPort", 8082)),
    ("only_443_and_8080_are_reached", _set("InstancesFromLoadBalancer.Properties.FromPort", 8081)),
    ("only_443_and_8080_are_reached", _set("InstancesFromLoadBalancer.Properties.CidrIp", "10.0.0.0/8")),
    ("the_load_balancer_is_internal", _set("LoadBalancer.Properties.Scheme", "internet-facing")),
    ("the_load_balancer_is_internal", _attribute("routing.http.drop_invalid_header_fields.enabled", "false")),
    ("the_load_balancer_is_internal", _attribute("access_logs.s3.enabled", "false")),
    ("tls_from_1_2", _set("Listener.Properties.SslPolicy", "ELBSecurityPolicy-2016-08")),
    ("tls_from_1_2", _set("Listener.Properties.Protocol", "HTTP")),
    ("tls_from_1_2", _set("Listener.Properties.Port", 80)),
    ("true_health", _set("TargetGroup.Properties.HealthCheckPath", "/ping")),
    ("true_health", _set("TargetGroup.Properties.Port", 8081)),
    ("true_health", _set("TargetGroup.Properties.HealthCheckPort", "8081")),
    ("true_health", _set("Instances.Properties.HealthCheckType", "EC2")),
    ("updates_wait_for_right_answers", _set("Instances.CreationPolicy", ...)),
    ("updates_wait_for_right_answers", _set("Instances.UpdatePolicy.AutoScalingRollingUpdate.WaitOnResourceSignals", False)),
    ("logs_end", _set("ContainerLogs.Properties.RetentionInDays", ...)),
    ("buckets_are_closed_and_kept", _set("AccessLogs.DeletionPolicy", "Delete")),
    ("buckets_are_closed_and_kept", _set("AccessLogs.Properties.BucketEncryption", ...)),
    ("buckets_are_closed_and_kept", _set("AccessLogs.Properties.PublicAccessBlockConfiguration.BlockPublicPolicy", False)),
    ("roles_may_do_no_more_than_they_need", _statement("ArchiveFiles", Action="s3:*")),
    ("roles_may_do_no_more_than_they_need", _statement("ArchiveFiles", Resource="*")),
    ("roles_may_do_no_more_than_they_need", _statement("Keys", Resource="*")),
    ("roles_may_do_no_more_than_they_need", _statement("Metrics", Condition=...)),
    ("roles_may_do_no_more_than_they_need", _set("InstanceRole.Properties.ManagedPolicyArns", ["arn:aws:iam::aws:policy/AdministratorAccess"])),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "change"), BROKEN)
def test_a_guard_rule_fails_where_the_template_is_broken(
    rule: str, change: Callable[[Template], None], tmp_path: Path
) -> None:
    plan = planned(tmp_path)
    template = resolved(plan.template, plan.parameters)
    change(template)
    assert failing(template) == {rule}


def test_every_guard_rule_is_broken_by_some_test() -> None:
    assert {rule for rule, _ in BROKEN} == set(RULE_NAMES)


def as_sent(node: Any) -> Any:
    """What CloudFormation would make of a value: a number of a number's text, some name of what is only known then."""
    if isinstance(node, list):
        return [as_sent(each) for each in node]
    if isinstance(node, dict):
        if any(key.startswith("Fn::") or key == "Ref" for key in node):
            return "a-name"
        return {key: as_sent(each) for key, each in node.items()}
    if isinstance(node, str) and re.fullmatch(r"\d+(\.\d+)?", node):
        return float(node) if "." in node else int(node)
    return node


def test_ec2s_own_api_takes_the_launch_template(plan: Plan) -> None:
    resources = resolved(plan.template, plan.parameters)["Resources"]
    data = as_sent(resources["LaunchTemplate"]["Properties"]["LaunchTemplateData"])
    request = {"LaunchTemplateName": "servekit", "LaunchTemplateData": data}
    assert service_model.problems("ec2", "CreateLaunchTemplate", request) == []
    data["InstanceType"] = "c7i.huge"
    data["BlockDeviceMappings"][0]["Ebs"]["VolumeType"] = "gp9"
    assert len(service_model.problems("ec2", "CreateLaunchTemplate", request)) == 2


def test_cloudwatchs_own_api_takes_the_alarms(plan: Plan) -> None:
    resources = resolved(plan.template, plan.parameters)["Resources"]
    alarms = {name: each for name, each in resources.items() if each["Type"] == "AWS::CloudWatch::Alarm"}
    assert set(alarms) == {"GatewayErrors", "LoadBalancerErrors", "UnhealthyInstances", "NoHealthyInstance", "Latency"}
    for name, alarm in alarms.items():
        request = {"AlarmName": name, **as_sent(alarm["Properties"])}
        assert service_model.problems("cloudwatch", "PutMetricAlarm", request) == [], name


def test_scaling_is_there_only_where_it_is_asked_for(tmp_path: Path) -> None:
    least, most = planned(tmp_path), planned(tmp_path, EVERYTHING)
    assert "Scaling" not in least.resources()
    assert "Scaling" in most.resources()
    assert resolved(least.template, least.parameters)["Resources"].keys() == least.resources().keys()
    scaling = resolved(most.template, most.parameters)["Resources"]["Scaling"]["Properties"]
    request = as_sent({"PolicyName": "x", **scaling, "AutoScalingGroupName": "x"})
    assert service_model.problems("autoscaling", "PutScalingPolicy", request) == []


def test_template_and_user_data_are_small_enough(plan: Plan) -> None:
    assert ec2_template.size_problems(ec2_template.body(plan.template)) == []
    assert ec2_template.size_problems("x" * 51_201) == ["the template: 51201 bytes, 51200 at most"]


def test_nothing_but_the_gateway_is_published() -> None:
    everything = [ec2_template.script(), ec2_template.SETTINGS, (TEMPLATES / "ec2.yaml").read_text()]
    for text in everything:
        assert not re.search(r"\b808[12]\b|\b707[01]\b", text)


def test_the_agent_writes_what_its_role_may() -> None:
    resources = ec2_template.template()["Resources"]
    agent = ec2_template.agent(gpu=True)
    statements = {
        each["Sid"]: each
        for each in resources["InstanceRole"]["Properties"]["Policies"][0]["PolicyDocument"]["Statement"]
        if "Sid" in each
    }
    assert statements["Metrics"]["Condition"]["StringEquals"]["cloudwatch:namespace"] == agent["metrics"]["namespace"]
    assert "--namespace ServeKit" in (TEMPLATES / "ec2-neuron-monitor.service").read_text()
    groups = {each["log_group_name"] for each in agent["logs"]["logs_collected"]["files"]["collect_list"]}
    assert groups == {"${BootLogs}"}
    assert {"Fn::GetAtt": ["BootLogs", "Arn"]} in statements["Logs"]["Resource"]
    assert len(json.dumps(agent)) < 4096, "a standard parameter of SSM"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze: apt-get install systemd")
@pytest.mark.parametrize("unit", ["servekit", "neuron-monitor"])
def test_systemd_takes_the_units(unit: str, tmp_path: Path) -> None:
    text = (TEMPLATES / f"ec2-{unit}.service").read_text().replace("/usr/bin/docker", "/bin/true")
    file = tmp_path / f"{unit}.service"
    file.write_text(text)
    (tmp_path / "docker.service").write_text("[Service]\nExecStart=/bin/true\n")
    environment = {**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"}

    def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["systemd-analyze", *arguments], env=environment, capture_output=True, text=True, check=False, timeout=60
        )

    done = analyze("verify", str(file))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    file.write_text(text.replace("Restart=", "Restrat="))
    assert "Unknown key 'Restrat' in section [Service]" in analyze("verify", str(file)).stderr
    if unit == "servekit":
        file.write_text(text)
        assert analyze("security", "--offline=true", "--threshold=20", str(file)).returncode == 0, "exposure above 2.0"


def test_an_instance_signals_once_the_load_balancer_believes_it() -> None:
    checks = ec2_template.template()["Resources"]["TargetGroup"]["Properties"]
    settle_s = int(re.findall(r"BOOT_SETTLE_S:-(\d+)", ec2_template.script())[0])
    assert settle_s >= (checks["HealthyThresholdCount"] + 1) * checks["HealthCheckIntervalSeconds"]
    spare_s = int(re.findall(r"START_TIMEOUT_S - (\d+)", ec2_template.script())[0])
    assert spare_s > 60 + settle_s, "the golden request's minute, and this"


def test_the_unit_drains_longer_than_the_container() -> None:
    unit = (TEMPLATES / "ec2-servekit.service").read_text()
    drain = int(re.findall(r"docker stop --time=(\d+)", unit)[0])
    assert drain > 30
    assert int(re.findall(r"TimeoutStopSec=(\d+)", unit)[0]) > drain


class Engine(ThreadingHTTPServer):
    """As much of Docker's as its command asks before it makes a container."""

    address_family = socket.AF_UNIX

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), _Asked)  # type: ignore[arg-type] # a path, as its family has it
        self.made: list[Any] = []

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)


class _Asked(BaseHTTPRequestHandler):
    server: Engine

    def do_HEAD(self) -> None:
        self._reply(200, b"")

    def do_GET(self) -> None:
        self._reply(200, b"OK")

    def do_POST(self) -> None:
        self.server.made.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self._reply(500, b'{"message": "no containers here"}')

    def _reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        for name, value in {"Api-Version": "1.44", "Ostype": "linux", "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass

    def address_string(self) -> str:
        return "docker"


@pytest.mark.skipif(shutil.which("docker") is None, reason="no docker command; an engine is not needed")
def test_dockers_own_command_asks_for_a_closed_container(tmp_path: Path) -> None:
    unit = (TEMPLATES / "ec2-servekit.service").read_text().replace("\\\n", " ")
    (line,) = (line for line in unit.splitlines() if line.startswith("ExecStart=/usr/bin/docker"))
    values = {
        "${REGION}": "eu-west-1", "${LOG_GROUP}": "/servekit/x/container", "${INSTANCE}": "i-0", "${IMAGE}": "servekit:cpu",
        "$MACHINE_OPTIONS": "--cap-add=IPC_LOCK --device=/dev/neuron0",
    }  # fmt: skip
    for name, value in values.items():
        line = line.replace(name, value)
    engine = Engine(tmp_path / "docker.sock")
    thread = threading.Thread(target=engine.serve_forever, args=(0.02,))
    thread.start()
    try:
        done = subprocess.run(
            ["docker", *line.split()[1:]],
            env={
                "PATH": os.environ["PATH"], "HOME": str(tmp_path), "DOCKER_HOST": f"unix://{tmp_path}/docker.sock",
                "SERVEKIT_GATEWAY": '{"max_concurrent": 8}',
            },
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
    finally:
        engine.shutdown()
        thread.join()
        engine.server_close()
    assert "no containers here" in done.stderr, done.stderr
    (asked,) = engine.made
    host = asked["HostConfig"]
    assert (asked["Image"], asked["Cmd"]) == ("servekit:cpu", ["serve"])
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert host["CapAdd"] in (["IPC_LOCK"], ["CAP_IPC_LOCK"])
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["Privileged"] is False
    assert host["NetworkMode"] in ("bridge", "default"), "behind a hop, so that it reaches no instance metadata"
    assert list(host["PortBindings"]) == ["8080/tcp"]
    assert set(host["Tmpfs"]) == {"/tmp", "/run"}
    assert "exec" in host["Tmpfs"]["/tmp"].split(","), "compiled code is loaded from there"
    assert {each["Target"]: each["ReadOnly"] for each in host["Mounts"]} == {
        "/opt/ml/model": True, "/etc/servekit/keys": True,
    }  # fmt: skip
    assert host["LogConfig"]["Type"] == "awslogs"
    assert [each["PathOnHost"] for each in host["Devices"]] == ["/dev/neuron0"]
    environment = dict(each.split("=", 1) for each in asked["Env"])
    assert environment == {
        "SERVEKIT_KEYS_DIR": "/etc/servekit/keys",
        "SERVEKIT_GATEWAY": '{"max_concurrent": 8}',
        "SERVEKIT_DRAIN_TIMEOUT_S": "30",
    }
    assert environment.keys() <= {row.variable for row in ROWS}, "the container follows them"


def test_an_old_python_reads_what_the_script_holds() -> None:
    """Amazon Linux 2023's python3 is 3.9."""
    sources = re.findall(r"<<'PYTHON'\n(.*?)\nPYTHON\n", ec2_template.script(), re.DOTALL)
    assert len(sources) == 3
    for source in sources:
        ast.parse(source, feature_version=(3, 9))
