"""Latency and accuracy of vision-language models: what resolution, encoder and LLM size cost and buy."""

from harness.api import frontier, load, measure, points

__all__ = ["frontier", "load", "measure", "points"]
__version__ = "0.1.0"
