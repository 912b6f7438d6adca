"""Projections of each visual token alone."""

from __future__ import annotations

from torch import Tensor, nn

from harness.models.connectors import CONNECTORS, Inputs


@CONNECTORS.register("mlp2x_gelu")
class Mlp2xGelu(nn.Module):
    """LLaVA-1.5's and FastVLM's projector: linear, GELU, linear."""

    def __init__(self, inputs: Inputs, width: int):
        super().__init__()
        self.linear_1 = nn.Linear(inputs[0][1], width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Visual tokens (B, N, features) -> (B, N, width)."""
        projected: Tensor = self.linear_2(nn.functional.gelu(self.linear_1(tokens)))
        return projected


@CONNECTORS.register("identity")
class Identity(nn.Module):
    """Nothing: the tower ends in a projection of its own (Qwen2-VL's merger)."""

    def __init__(self, inputs: Inputs, width: int):
        super().__init__()
        if inputs[0][1] != width:
            raise ValueError(f"the encoder gives {inputs[0][1]} channels, the LLM takes {width}")

    def forward(self, tokens: Tensor) -> Tensor:
        """Visual tokens (B, N, width), as they are."""
        return tokens
