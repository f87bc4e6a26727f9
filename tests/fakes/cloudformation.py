"""As much of CloudFormation as tests need: parameters and conditions of a template, filled in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

GONE = object()


def resolved(template: Mapping[str, Any], parameters: Mapping[str, str]) -> dict[str, Any]:
    """The template's resources with these parameters: no Fn::If, no Ref of a parameter, none that has no condition."""
    values = {name: str(given.get("Default", "")) for name, given in template["Parameters"].items()} | dict(parameters)
    filled = _Filled(template, values)
    resources = {
        name: filled.value(each)
        for name, each in template["Resources"].items()
        if "Condition" not in each or filled.holds({"Condition": each["Condition"]})
    }
    return {"Resources": resources}


class _Filled:
    def __init__(self, template: Mapping[str, Any], values: Mapping[str, str]) -> None:
        self._template, self._values = template, values

    def holds(self, condition: Mapping[str, Any]) -> bool:
        ((kind, inner),) = condition.items()
        if kind == "Condition":
            return self.holds(self._template["Conditions"][inner])
        if kind == "Fn::Not":
            return not self.holds(inner[0])
        if kind == "Fn::Equals":
            one, other = (str(self.value(each)) for each in inner)
            return one == other
        raise ValueError(kind)

    def value(self, node: Any) -> Any:
        if isinstance(node, list):
            return [found for each in node if (found := self.value(each)) is not GONE]
        if not isinstance(node, dict):
            return node
        if node == {"Ref": "AWS::NoValue"}:
            return GONE
        if "Ref" in node and node["Ref"] in self._values:
            return self._values[node["Ref"]]
        if "Fn::If" in node:
            name, good, bad = node["Fn::If"]
            return self.value(good if self.holds({"Condition": name}) else bad)
        if "Fn::FindInMap" in node:
            first, second, third = (self.value(each) for each in node["Fn::FindInMap"])
            return self._template["Mappings"][first][second][third]
        return {key: found for key, each in node.items() if (found := self.value(each)) is not GONE}
