"""Honeybee's C-Abstractor (arXiv 2312.06742, khanrc/honeybee projectors.py), which MM1 found no better than others."""

from __future__ import annotations

from functools import partial

import torch
from timm.layers import LayerNorm2d
from timm.models.regnet import RegStage
from torch import Tensor, nn

from harness.models.connectors import CONNECTORS, Inputs, side_of, to_map, to_tokens


@CONNECTORS.register("c_abstractor")
class CAbstractor(nn.Module):
    """Convolutional stages before and behind an average pooling to a square grid, then two linear maps."""

    def __init__(self, inputs: Inputs, width: int, queries: int = 144, hidden: int = 1024, depth: int = 3):
        super().__init__()
        (tokens, features), *_ = inputs
        self.position = nn.Parameter(torch.randn(1, tokens, features) * 0.02)
        stage = partial(RegStage, stride=1, dilation=1, act_layer=nn.SiLU, norm_layer=LayerNorm2d)
        self.net = nn.Sequential(
            stage(depth, features, hidden), nn.AdaptiveAvgPool2d(side_of(queries)), stage(depth, hidden, hidden)
        )
        self.readout = nn.Sequential(nn.Linear(hidden, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """Visual tokens (B, N, features) -> (B, queries, width)."""
        projected: Tensor = self.readout(to_tokens(self.net(to_map(tokens + self.position))))
        return projected
