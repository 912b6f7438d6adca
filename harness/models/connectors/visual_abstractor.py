"""mPLUG-Owl's visual abstractor (arXiv 2304.14178, modeling_mplug_owl.py)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness.models.connectors import CONNECTORS, Inputs


class _Layer(nn.Module):
    """Queries attend to themselves and the visual tokens; a gated feed-forward with a norm inside follows."""

    def __init__(self, hidden: int, features: int, heads: int, inner: int):
        super().__init__()
        self.heads = heads
        self.norm_queries, self.norm_tokens, self.norm = (
            nn.LayerNorm(hidden),
            nn.LayerNorm(features),
            nn.LayerNorm(hidden),
        )
        self.query, self.out = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        self.key, self.value = nn.Linear(features, hidden), nn.Linear(features, hidden)
        self.gate, self.up, self.down = nn.Linear(hidden, inner), nn.Linear(hidden, inner), nn.Linear(inner, hidden)
        self.norm_inner = nn.LayerNorm(inner)

    def forward(self, queries: Tensor, tokens: Tensor, q_places: Tensor, k_places: Tensor) -> Tensor:
        queries = self.norm_queries(queries)  # its residual starts behind the norm
        both = torch.cat([queries, self.norm_tokens(tokens)], dim=1)
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query(queries + q_places), self.key(both + k_places), self.value(both))
        )
        attended = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        mixed = queries + self.out(attended)
        inner = self.norm(mixed)
        found: Tensor = mixed + self.down(self.norm_inner(nn.functional.silu(self.gate(inner)) * self.up(inner)))
        return found


@CONNECTORS.register("visual_abstractor")
class VisualAbstractor(nn.Module):
    """64 queries through six layers, a linear map, and one learned token that ends the image: 65 tokens."""

    def __init__(
        self, inputs: Inputs, width: int, queries: int = 64, layers: int = 6, heads: int = 16, inner: int = 2816
    ):
        super().__init__()
        (tokens, features), *_ = inputs
        self.queries = nn.Parameter(torch.randn(1, queries, features))
        # Sines and cosines in the original, which are no weights either.
        self.places: Tensor
        self.register_buffer("places", torch.randn(queries + tokens, features), persistent=False)
        self.layers = nn.ModuleList(_Layer(features, features, heads, inner) for _ in range(layers))
        self.proj = nn.Linear(features, width)
        self.end = nn.Parameter(torch.randn(1, 1, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """Visual tokens (B, N, features) -> (B, queries + 1, width)."""
        queries = self.queries.expand(len(tokens), -1, -1)
        for layer in self.layers:
            queries = layer(queries, tokens, self.places[: queries.shape[1]], self.places)
        return torch.cat([self.proj(queries), self.end.expand(len(tokens), -1, -1)], dim=1)
