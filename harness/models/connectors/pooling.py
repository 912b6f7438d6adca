"""M3 (Matryoshka Multimodal Models, arXiv 2405.17430): average pooling behind LLaVA-1.5's projector."""

from __future__ import annotations

from torch import Tensor, nn

from harness.models.connectors import CONNECTORS, Inputs, side_of, to_map, to_tokens
from harness.models.connectors.mlp import Mlp2xGelu


@CONNECTORS.register("average_pool")
class AveragePool(Mlp2xGelu):
    """Squares of `shrink` x `shrink` projected tokens become their mean: 24 x 24 are 576, 144, 36, 9 or 1.

    mu-cai/matryoshka-mm, llava_arch.py: the projector runs on all tokens, so that pooling saves the LLM's work alone.
    """

    def __init__(self, inputs: Inputs, width: int, shrink: int):
        super().__init__(inputs, width)
        side = side_of(inputs[0][0])
        if side % shrink:
            raise ValueError(f"a grid of {side} x {side} cannot be pooled by {shrink}")
        self.shrink = shrink

    def forward(self, tokens: Tensor) -> Tensor:
        """Visual tokens (B, N, features) -> (B, N / shrink^2, width)."""
        return to_tokens(nn.functional.avg_pool2d(to_map(super().forward(tokens)), self.shrink))
