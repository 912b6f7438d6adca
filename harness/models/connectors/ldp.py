"""MobileVLM V2's lightweight downsample projector (LDPv2, arXiv 2402.03766, mobilevlm/model/vision_projector.py)."""

from __future__ import annotations

from torch import Tensor, nn

from harness.models.connectors import CONNECTORS, Inputs, to_map, to_tokens


@CONNECTORS.register("ldpv2")
class LdpV2(nn.Module):
    """Two linear maps for each token, average pooling to a grid, and a depthwise convolution that tells positions."""

    def __init__(self, inputs: Inputs, width: int, grid: int = 12):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(inputs[0][1], width), nn.GELU(), nn.Linear(width, width))
        self.grid = grid
        self.position = nn.Conv2d(width, width, 3, padding=1, groups=width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Visual tokens (B, N, features) -> (B, grid^2, width)."""
        pooled = nn.functional.adaptive_avg_pool2d(to_map(self.mlp(tokens)), self.grid)
        return to_tokens(self.position(pooled) + pooled)
