"""An account to rehearse in: what deploy.ec2 names of a real one, made in the emulator, and what it cannot show there.

The emulator's CloudFormation, EC2 and load balancers are moto's.
"""

from __future__ import annotations

from typing import Any

from deploy.aws import Aws
from deploy.ec2_parameters import AMI_PARAMETERS, section
from deploy.ec2_plan import stack_name
from model_configs.schema import AnyModelConfig

NOT_MADE = (
    "AWS::AutoScaling::ScalingPolicy",
    "AWS::CloudWatch::Alarm",
    "AWS::EC2::SecurityGroupEgress",
    "AWS::Route53::RecordSet",
    "AWS::S3::BucketPolicy",
)
"""Types that moto's CloudFormation passes over."""
CANNOT_SHOW = (
    f"not made: {', '.join(NOT_MADE)}",
    "instances do not start: no user data runs, no container, no signal; they count as healthy at once",
    "the template's Rules and its parameters' patterns are not checked, and nothing is created in order or rolled back",
    "the load balancer's attributes (access logs, idle timeout, deletion protection) are not kept",
    "a change set does not list what other parameters change, and an update replaces no instance",
    "the parameters of AMIs with drivers are not there: Amazon Linux's takes their place",
)
HOSTNAME = "servekit.rehearsal"
CLIENTS = ("10.0.0.0/8",)


def with_account(config: AnyModelConfig, aws: Aws) -> AnyModelConfig:
    """The model with the emulator's network, certificate and keys; what is missing there is made."""
    ec2 = aws.client("ec2")
    vpc = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"][0]["VpcId"]
    subnets = ec2.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["Subnets"]
    own = section(config)
    rehearsed = own.model_copy(
        update={
            "vpc_id": vpc,
            "subnets": [each["SubnetId"] for each in subnets][:2],
            "load_balancer_subnets": None,
            "certificate_arn": _certificate(aws),
            "keys_arn": _keys(aws, config),
            "ami_parameter": AMI_PARAMETERS["arm64" if own.architecture == "arm64" else "amd64"],
            "ami": None,
            "allowed_cidrs": own.allowed_cidrs or list(CLIENTS),
            "allowed_security_groups": [],
            "kms_key_arn": None,
            "permissions_boundary_arn": None,
        }
    )
    deploy = config.deploy.model_copy(update={"ec2": rehearsed}) if config.deploy else None
    return config.model_copy(update={"deploy": deploy})


def forget(config: AnyModelConfig, aws: Aws) -> None:
    """Take away what with_account made for this model; the certificate only with the last one."""
    ssm = aws.client("ssm")
    ssm.delete_parameters(Names=[_keys_name(config)])
    if not ssm.describe_parameters(ParameterFilters=[_below(HOSTNAME)])["Parameters"]:
        for arn in _certificates(aws):
            aws.client("acm").delete_certificate(CertificateArn=arn)


def _certificates(aws: Aws) -> list[str]:
    found = aws.client("acm").list_certificates()["CertificateSummaryList"]
    return [each["CertificateArn"] for each in found if each["DomainName"] == HOSTNAME]


def _certificate(aws: Aws) -> str:
    found = _certificates(aws)
    return found[0] if found else str(aws.client("acm").request_certificate(DomainName=HOSTNAME)["CertificateArn"])


def _keys(aws: Aws, config: AnyModelConfig) -> str:
    ssm, name = aws.client("ssm"), _keys_name(config)
    if not ssm.get_parameters(Names=[name])["Parameters"]:
        ssm.put_parameter(Name=name, Value="no keys: a rehearsal", Type="SecureString")
    return str(ssm.get_parameter(Name=name)["Parameter"]["ARN"])


def _keys_name(config: AnyModelConfig) -> str:
    return f"/{HOSTNAME}/{stack_name(config.model.name)}/keys"


def _below(folder: str) -> dict[str, Any]:
    return {"Key": "Path", "Option": "Recursive", "Values": [f"/{folder}"]}
