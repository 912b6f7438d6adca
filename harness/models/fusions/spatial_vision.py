"""Cambrian-1's vision samplers within the LLM (arXiv 2406.16860, cambrian_llama.py)."""

from __future__ import annotations

from collections.abc import Sequence

from harness.models.connectors.spatial_vision import SpatialVisionLayer
from harness.models.fusions import FUSIONS


@FUSIONS.register("spatial_vision_sampler")
class SpatialVisionSampler(SpatialVisionLayer):
    """Visual tokens in the sequence look at the encoders' maps again, each at its window."""

    def __init__(self, width: int, memory: int, windows: Sequence[int]):
        super().__init__(width, memory, windows)
