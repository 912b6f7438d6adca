"""Flamingo's gated cross-attention (arXiv 2204.14198), in the sizes of open_flamingo/src/helpers.py."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness.models.connectors.perceiver import Attention, feed_forward
from harness.models.fusions import FUSIONS


@FUSIONS.register("gated_cross_attention")
class GatedCrossAttention(nn.Module):
    """Text attends to the image's latents; tanh gates decide how much of it, and of a feed-forward, is added.

    The gates are 0 before training; here they are random, so that an image reaches the output.
    """

    def __init__(self, width: int, memory: int, heads: int = 8, head_dim: int = 64):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, memory, heads, head_dim)
        self.gate, self.gate_forward = nn.Parameter(torch.rand(1)), nn.Parameter(torch.rand(1))
        self.forward_ = feed_forward(width)

    def forward(self, hidden: Tensor, memory: Tensor) -> Tensor:
        """Hidden states (B, T, width) and latents (B, M, memory) -> (B, T, width)."""
        hidden = self.attention(self.norm(hidden), memory) * self.gate.tanh() + hidden
        fused: Tensor = self.forward_(hidden) * self.gate_forward.tanh() + hidden
        return fused
