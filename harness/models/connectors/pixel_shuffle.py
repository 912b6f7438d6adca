"""SmolVLM's and Idefics3's connector: pixel shuffle, then one linear map."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness.models.connectors import CONNECTORS, Inputs, side_of, to_map, to_tokens


@CONNECTORS.register("pixel_shuffle")
class PixelShuffle(nn.Module):
    """Squares of `shrink` x `shrink` tokens become one with all of their channels (`Idefics3Connector`)."""

    def __init__(self, inputs: Inputs, width: int, shrink: int):
        super().__init__()
        (tokens, features), *_ = inputs
        if side_of(tokens) % shrink:
            raise ValueError(f"a grid of {side_of(tokens)} x {side_of(tokens)} cannot be shuffled by {shrink}")
        self.shrink = shrink
        self.proj = nn.Linear(features * shrink**2, width, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Visual tokens (B, N, features) -> (B, N / shrink^2, width)."""
        gathered = to_tokens(torch.nn.functional.pixel_unshuffle(to_map(tokens), self.shrink))
        # Channels in the order of Idefics3: row in the square, column in the square, channel.
        batch, count, _ = gathered.shape
        ordered = gathered.reshape(batch, count, -1, self.shrink**2).transpose(2, 3).flatten(2)
        projected: Tensor = self.proj(ordered)
        return projected
