"""Connectors: what stands between the encoder and the LLM. One registered class each."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from harness.schema import HarnessError

CONNECTORS: dict[str, Callable[[int, int], nn.Module]] = {}


def register(name: str) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Make a class `(features, width) -> module` available as `kind: name`."""

    def add(connector: type[nn.Module]) -> type[nn.Module]:
        CONNECTORS[name] = connector
        return connector

    return add


@register("mlp2x_gelu")
class Mlp2xGelu(nn.Module):
    """LLaVA-1.5's and FastVLM's projector: linear, GELU, linear, for each visual token alone."""

    def __init__(self, features: int, width: int):
        super().__init__()
        self.linear_1 = nn.Linear(features, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Visual tokens (B, N, features) -> (B, N, width)."""
        projected: Tensor = self.linear_2(nn.functional.gelu(self.linear_1(tokens)))
        return projected


def build_connector(kind: str, features: int, width: int) -> nn.Module:
    """The registered connector `kind` from `features` to `width` channels."""
    if kind not in CONNECTORS:
        raise HarnessError(f"unknown connector {kind!r}; there are: {', '.join(sorted(CONNECTORS))}")
    return CONNECTORS[kind](features, width)
