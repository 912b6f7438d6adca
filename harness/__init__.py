"""Latency and accuracy of vision-language models: what resolution, encoder and LLM size cost and buy.

In a notebook: `table = harness.load("resolution")`, `harness.summary(table)`, `harness.frontier(table)`,
`harness.measure("encoder=tiny_vit", "resolution=128")`. At the prompt: `python -m harness`.
"""

from typing import Any

__all__ = [
    "compare",
    "compare_scores",
    "frontier",
    "load",
    "measure",
    "points",
    "reports",
    "summary",
    "sweeps",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """The functions for notebooks, imported when they are asked for: a process that measures needs none of them."""
    if name not in __all__:
        raise AttributeError(f"module 'harness' has no attribute {name!r}")
    from harness import api

    return getattr(api, name)


def __dir__() -> list[str]:
    """What completion offers: the functions, before what happens to be imported."""
    return sorted({*__all__, *globals()})
