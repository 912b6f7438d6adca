"""Connectors: what stands between the encoders and the LLM; one file and one registered class each.

A connector takes the visual tokens (tiles, N, features) of every encoder and gives (tiles, M, width). It is built for a
number of tokens: some have a position embedding. The file is all that a new one needs: nothing else has to name it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from harness.registry import Registered
from harness.schema import Connector, HarnessError

Inputs = Sequence[tuple[int, int]]
"""Visual tokens of one image or tile, and channels, of each encoder."""

CONNECTORS: Registered[Callable[..., nn.Module]] = Registered("models.connectors")
"""Classes `(inputs, width, **args) -> module` by `kind`."""


def build_connector(spec: Connector, inputs: Inputs, width: int) -> nn.Module:
    """`spec` with random weights, from what the encoders give to the LLM's `width` channels."""
    kind = CONNECTORS[spec.kind]
    try:
        return kind(inputs, width, **spec.args)
    except (TypeError, ValueError) as error:
        raise HarnessError(f"connector {spec.name}: {error}") from error


def side_of(tokens: int) -> int:
    """Side of the square grid that so many tokens are; `ValueError` if they are none."""
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise ValueError(f"{tokens} visual tokens are no square grid")
    return side


def to_map(tokens: Tensor) -> Tensor:
    """Tokens (B, H * W, C), row by row -> a map (B, C, H, W)."""
    side = side_of(tokens.shape[1])
    return tokens.transpose(1, 2).reshape(len(tokens), -1, side, side)


def to_tokens(image: Tensor) -> Tensor:
    """A map (B, C, H, W) -> tokens (B, H * W, C), row by row."""
    return image.flatten(2).transpose(1, 2)
