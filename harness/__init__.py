"""Latency and accuracy of vision-language models: what resolution, encoder and LLM size cost and buy."""

from typing import Any

__all__ = ["frontier", "load", "measure", "points"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """The functions for notebooks, imported when they are asked for: a process that measures needs none of them."""
    if name not in __all__:
        raise AttributeError(f"module 'harness' has no attribute {name!r}")
    from harness import api

    return getattr(api, name)
