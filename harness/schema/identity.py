"""What makes two results the same: the keys by which a run goes on where another one ended."""

from __future__ import annotations

from typing import Any

from harness.schema.base import fingerprint
from harness.schema.components import Component
from harness.schema.execution import Machine
from harness.schema.parts import HubModel
from harness.schema.points import Point
from harness.schema.records import SCHEMA_VERSION
from harness.schema.suites import Suite

DECIDES_ANSWERS = {"device", "device_name", "driver", "instructions", "pools", "libraries"}
"""Fields of a machine on which an answer may depend: which of two equal machines gave it does not matter."""


def component_key(component: Component, machine: Machine) -> str:
    """What makes two measurements measurements of the same thing."""
    return fingerprint([SCHEMA_VERSION, component.key_content, machine.model_dump(mode="json")])


def evaluation_key(point: Point, suite: Suite, machine: Machine, rows: str) -> str:
    """What makes two evaluations the same: weights, input, suite and the rows it draws; how latency is measured does
    not, nor what a question lets one choose from, which decides neither an answer nor its score."""
    left_out: dict[str, Any] = {"checkpoint": True, "suites": True, "protocol": True}
    if isinstance(point.model, HubModel):
        left_out["model"] = {"name", "title", "path", "revision", "native", "llm", "source"}
    content = point.model_dump(mode="json", exclude=left_out)
    asked = suite.model_dump(mode="json", exclude={"fields": {"options"}})
    there = machine.model_dump(mode="json", include=DECIDES_ANSWERS)
    return fingerprint([SCHEMA_VERSION, content, asked, there, rows])
