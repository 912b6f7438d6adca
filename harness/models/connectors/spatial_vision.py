"""Cambrian-1's spatial vision aggregator (SVA, arXiv 2406.16860; vision_sampler.py, cambrian_arch.py)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from harness.models.connectors import CONNECTORS, Inputs, side_of, to_map, to_tokens


class SpatialVisionLayer(nn.Module):
    """Each query attends to its own window of every encoder's map.

    `windows`: how many tokens of each encoder lie in a query's window. The memory holds, for each query, the windows
    one behind the other and last the first encoder's mean.
    """

    def __init__(self, width: int, hidden: int, windows: Sequence[int], heads: int = 16):
        super().__init__()
        self.windows, self.heads = tuple(windows), heads
        self.context = nn.Linear(hidden, hidden, bias=False)
        self.into = nn.Linear(width + hidden, hidden, bias=False)
        self.places = nn.ParameterList(nn.Parameter(torch.randn(n, hidden)) for n in windows if n > 1)
        self.query = self._projection(hidden)
        self.keys = nn.ModuleList(self._projection(hidden) for _ in windows)
        self.values = nn.ModuleList(self._projection(hidden) for _ in windows)
        self.out = nn.Linear(hidden, hidden, bias=False)
        self.norm = nn.LayerNorm(hidden)
        self.back = nn.Sequential(
            nn.Linear(hidden, hidden, bias=False), nn.GELU(), nn.Linear(hidden, width, bias=False)
        )

    @staticmethod
    def _projection(hidden: int) -> nn.Sequential:
        return nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, hidden, bias=False))

    def forward(self, queries: Tensor, memory: Tensor) -> Tensor:
        """Queries (Q, 1, width) and memory (Q, sum of windows + 1, hidden) -> (Q, 1, width)."""
        *maps, context = torch.split(memory, [*self.windows, 1], dim=1)
        inner = self.into(torch.cat([queries, self.context(context)], dim=-1))
        places = iter(self.places)
        maps = [window + next(places) if window.shape[1] > 1 else window for window in maps]
        parts = (
            self.query(inner),
            torch.cat([key(window) for key, window in zip(self.keys, maps, strict=True)], dim=1),
            torch.cat([value(window) for value, window in zip(self.values, maps, strict=True)], dim=1),
        )
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        attended = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        found: Tensor = self.back(self.norm(inner + self.out(attended))) + queries
        return found


@CONNECTORS.register("spatial_vision_aggregator")
class SpatialVisionAggregator(nn.Module):
    """A grid of queries gathers what several encoders saw, each at its place.

    `grids`: side to which each encoder's map is brought (bilinear), a multiple of the grid of queries. `memory` holds
    the windows of the last image, for the layers within the LLM that look at them again.
    """

    def __init__(
        self, inputs: Inputs, width: int, grids: Sequence[int], queries: int = 576, hidden: int = 1024, depth: int = 3
    ):
        super().__init__()
        self.side, self.grids = side_of(queries), tuple(grids)
        if len(self.grids) != len(inputs) or any(grid % self.side for grid in self.grids):
            raise ValueError(f"grids={list(grids)}: one multiple of {self.side} is expected for each of {len(inputs)}")
        self.towers = nn.ModuleList(
            nn.Sequential(nn.Linear(features, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.LayerNorm(hidden))
            for _, features in inputs
        )
        windows = [(grid // self.side) ** 2 for grid in self.grids]
        self.query = nn.Parameter(torch.randn(1, hidden))
        self.layers = nn.ModuleList(SpatialVisionLayer(hidden, hidden, windows) for _ in range(depth))
        self.proj = nn.Sequential(nn.Linear(hidden, width), nn.GELU(), nn.Linear(width, width))
        self.memory: Tensor | None = None

    def _window(self, tokens: Tensor, grid: int) -> Tensor:
        """Tokens (1, N, C) of one encoder -> (queries, window, C)."""
        if tokens.shape[1] != grid**2:
            resized = nn.functional.interpolate(to_map(tokens), (grid, grid), mode="bilinear", align_corners=False)
            tokens = to_tokens(resized)
        step = grid // self.side
        cells = tokens[0].reshape(self.side, step, self.side, step, -1).transpose(1, 2)
        return cells.reshape(self.side**2, step**2, -1)

    def forward(self, *features: Tensor) -> Tensor:
        """Visual tokens (1, N_i, features_i) of every encoder -> (1, queries, width)."""
        seen = zip(features, self.grids, self.towers, strict=True)
        # Resampled before they are projected, as in Cambrian's towers.
        windows = [tower(self._window(tokens, grid)) for tokens, grid, tower in seen]
        context = windows[0].mean((0, 1), keepdim=True).expand(self.side**2, 1, -1)
        self.memory = torch.cat([*windows, context], dim=1)
        queries = self.query[None].expand(self.side**2, 1, -1)
        for layer in self.layers:
            queries = layer(queries, self.memory)
        projected: Tensor = self.proj(queries.transpose(0, 1))
        return projected
