"""Points: the cells of a sweep's grid."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from harness.schema.base import Frozen, HarnessError, Pixels, Positive
from harness.schema.execution import Execution, TimingProtocol
from harness.schema.parts import Connector, Encoder, Fusion, HubModel, Llm, System, connector_inputs
from harness.schema.suites import Suite

RANDOM = "random"
"""Weights that were never trained: latency does not depend on their values."""


def grid_of(tiles: int) -> int:
    """Tiles along one side of the grid that stands beside an overview; 1 for one tile alone."""
    grid = math.isqrt(max(tiles - 1, 1))
    if tiles < 1 or tiles == 2 or (tiles > 1 and grid * grid + 1 != tiles):
        raise HarnessError(f"tiles={tiles}: 1 is expected, or a grid and its overview: 5 (2 x 2), 10 (3 x 3), 17, ...")
    return grid


class ComposedModel(Frozen):
    """A VLM put together from an encoder, a connector and an LLM."""

    kind: Literal["composed"] = "composed"
    system: System | None = None
    """What the parts make up, if that has a name."""
    encoder: Encoder
    also: tuple[Encoder, ...] = ()
    """More encoders that see the same image, each at its native resolution."""
    connector: Connector
    fusion: Fusion | None = None
    llm: Llm
    tiles: Positive = 1
    """Squares that an image is cut into: 1, or a grid of g x g and an overview (AnyRes): g^2 + 1."""

    @model_validator(mode="after")
    def _has_a_grid(self) -> ComposedModel:
        try:
            grid_of(self.tiles)
        except HarnessError as error:
            raise ValueError(str(error)) from error
        return self

    def visual_tokens(self, resolution: int) -> int:
        """What the connector leaves of (resolution / stride)^2 a tile."""
        return self.tiles * self.connector.visual_tokens(self.encoder.visual_tokens(resolution))

    def inputs(self, resolution: int) -> tuple[tuple[int, int], ...]:
        """Visual tokens of one image or tile, and channels, that each encoder hands to the connector."""
        return connector_inputs(self.encoder, self.also, resolution)

    @property
    def title(self) -> str:
        """Name on a page."""
        return self.system.title if self.system else self.encoder.title


Model = Annotated[ComposedModel | HubModel, Field(discriminator="kind")]


class Point(Frozen):
    """One cell of the grid: everything that decides what is measured."""

    model: Model
    resolution: Pixels
    """Side of the square that the (first) encoder sees, in pixels. Of a hub model at its own size it is its
    processor's, in the terms in which another one is asked for: `harness.models.hub.resolution_of`."""
    vision: Execution
    """Where images become visual tokens."""
    language: Execution
    """Where connector and LLM run."""
    weights: str
    """`random`, or a prefix of the SHA-256 of the checkpoint's weights, configuration and tokenizer."""
    checkpoint: str = ""
    """`shipped:<name>` or the folder as it was given; not part of the identity, the weights' hash is."""
    suites: tuple[Suite, ...]
    """What the trained VLM is asked; nothing where the weights are random."""
    protocol: TimingProtocol

    @model_validator(mode="after")
    def _knows_its_tokens(self) -> Point:
        if isinstance(self.model, HubModel) and self.model.tokens is None:
            raise ValueError("a hub model's tokens are expected")
        return self

    @property
    def visual_tokens(self) -> int:
        """Visual tokens that the connector leaves; of a hub model what its processor makes of the bench's images."""
        if isinstance(self.model, HubModel):
            return self.model.tokens[0] if self.model.tokens else 0
        return self.model.visual_tokens(self.resolution)

    @property
    def text_tokens(self) -> int:
        """Text tokens of a prompt of the bench."""
        if isinstance(self.model, HubModel) and self.model.tokens:
            return self.model.tokens[1]
        return self.protocol.text_tokens

    @property
    def sequence_tokens(self) -> int:
        """How many of the visual tokens are in the LLM's sequence; none where text only attends to them."""
        fusion = self.model.fusion if isinstance(self.model, ComposedModel) else None
        return 0 if fusion is not None and not fusion.in_sequence else self.visual_tokens

    @property
    def hands_over(self) -> bool:
        """Whether visual tokens have to go from one runtime, device or precision to another."""
        one, other = self.vision, self.language
        return (one.runtime, one.device, one.dtype) != (other.runtime, other.device, other.dtype)

    @property
    def tiles(self) -> int:
        """Squares that an image is cut into; what a hub model does of the kind is its processor's affair."""
        return self.model.tiles if isinstance(self.model, ComposedModel) else 1

    @property
    def input_px(self) -> int:
        """Side of the whole input: that of the grid of tiles."""
        return self.resolution * grid_of(self.tiles)

    @property
    def name(self) -> str:
        """Short name for a line of progress or an error."""
        model = self.model
        if isinstance(model, HubModel):
            return f"{model.name} {self.resolution}px"
        if model.system is not None:
            return " ".join([model.system.name, f"{self.input_px}px", *model.system.changed])
        tiled = f" in {model.tiles} tiles" if model.tiles > 1 else ""
        return f"{model.encoder.name} {self.input_px}px{tiled} {model.llm.name}"
