"""The CloudWatch alarms that send an update back: requests to put them, as pure functions.

They watch the new fleet alone, by its configuration's name: if they watched the old one too, its errors would send back
the very update that is to end them (developer guide, auto-rollback configuration).
"""

from __future__ import annotations

from typing import Any

from deploy.hosting import names
from model_configs.sagemaker_update import RollbackOn

NAMESPACE = "AWS/SageMaker"
US_PER_MS = 1000


def requests(endpoint: str, config_name: str, watched: RollbackOn, tags: list[dict[str, str]]) -> list[dict[str, Any]]:
    """One PutMetricAlarm request an alarm of the kit's."""
    common = {
        "Namespace": NAMESPACE,
        "Dimensions": [
            {"Name": "EndpointName", "Value": endpoint},
            {"Name": "VariantName", "Value": names.VARIANT},
            {"Name": "EndpointConfigName", "Value": config_name},
        ],
        "Period": watched.period_s,
        "EvaluationPeriods": watched.periods,
        "ComparisonOperator": "GreaterThanThreshold",
        "TreatMissingData": "notBreaching",
        "Tags": tags,
    }
    found = []
    if watched.error_rate is not None:
        found.append(
            {
                "AlarmName": f"{config_name}-error-rate",
                "AlarmDescription": "share of requests that the model answered with 5xx",
                "MetricName": "Invocation5XXErrors",  # 1 or 0 a request, so that the average is the share
                "Statistic": "Average",
                "Threshold": watched.error_rate,
                **common,
            }
        )
    for statistic, limit_ms in watched.latencies.items():
        which = {"Statistic": "Average"} if statistic == "average" else {"ExtendedStatistic": statistic}
        found.append(
            {
                "AlarmName": f"{config_name}-latency-{statistic}",
                "AlarmDescription": f"{statistic} of the time that the model takes, more than {limit_ms:g} ms",
                "MetricName": "ModelLatency",  # in microseconds
                "Threshold": limit_ms * US_PER_MS,
                **which,
                **common,
            }
        )
    return found
