"""Latency and accuracy of vision-language models: what resolution, encoder and LLM size cost and buy."""

from harness.api import frontier, load, measure, records

__all__ = ["frontier", "load", "measure", "records"]
__version__ = "0.1.0"
