"""Flamingo's perceiver resampler (arXiv 2204.14198), in the sizes of open_flamingo/src/helpers.py."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness.models.connectors import CONNECTORS, Inputs


def feed_forward(width: int, mult: int = 4) -> nn.Sequential:
    """Norm, linear, GELU, linear; no biases."""
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, mult * width, bias=False),
        nn.GELU(),
        nn.Linear(mult * width, width, bias=False),
    )


class Attention(nn.Module):
    """Multi-head attention without biases from one sequence to another."""

    def __init__(self, width: int, memory: int, heads: int, head_dim: int):
        super().__init__()
        self.heads, inner = heads, heads * head_dim
        self.query, self.out = nn.Linear(width, inner, bias=False), nn.Linear(inner, width, bias=False)
        self.key_value = nn.Linear(memory, 2 * inner, bias=False)

    def forward(self, tokens: Tensor, memory: Tensor) -> Tensor:
        """(B, T, width) attends to (B, M, memory) -> (B, T, width)."""
        key, value = self.key_value(memory).chunk(2, dim=-1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query(tokens), key, value))
        attended = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        found: Tensor = self.out(attended)
        return found


@CONNECTORS.register("perceiver_resampler")
class PerceiverResampler(nn.Module):
    """Learned latents attend to the visual tokens and themselves, six times. They keep the encoder's channels: the
    LLM's sequence never holds them, its cross-attention layers do the projecting."""

    def __init__(
        self, inputs: Inputs, width: int, latents: int = 64, depth: int = 6, heads: int = 8, head_dim: int = 64
    ):
        super().__init__()
        features = inputs[0][1]
        self.latents = nn.Parameter(torch.randn(1, latents, features))
        self.norms = nn.ModuleList(nn.LayerNorm(features) for _ in range(2 * depth))
        self.attentions = nn.ModuleList(Attention(features, features, heads, head_dim) for _ in range(depth))
        self.forwards = nn.ModuleList(feed_forward(features) for _ in range(depth))
        self.norm = nn.LayerNorm(features)

    def forward(self, tokens: Tensor) -> Tensor:
        """Visual tokens (B, N, features) -> (B, latents, features)."""
        latents = self.latents.expand(len(tokens), -1, -1)
        steps = zip(self.norms[::2], self.norms[1::2], self.attentions, self.forwards, strict=True)
        for norm_tokens, norm_latents, attention, forward in steps:
            asked = norm_latents(latents)
            latents = attention(asked, torch.cat([norm_tokens(tokens), asked], dim=1)) + latents
            latents = forward(latents) + latents
        found: Tensor = self.norm(latents)
        return found
