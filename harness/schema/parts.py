"""The parts of a VLM, and whole VLMs as their authors published them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, PositiveFloat, model_validator

from harness.schema.base import Count, Frozen, Pixels, Plain, Positive

LAYERS, WIDTH, VOCABULARY = 1024, 2**20, 2**24
"""Most layers, channels and tokens of a vocabulary that a part may have: an order beyond what was ever built."""
PARAMETERS = 10**13
"""Most weights of a part."""
_LAYERS = re.compile(r"(^|_)(layers?|depths?|blocks)$")
_WIDTHS = re.compile(r"(^|_)(size|dims?|widths?|features|channels|heads|chans)$")


def check_sizes(args: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments of an architecture, if something could be built of them; `ValueError` otherwise.

    Looks at names: layers and depths (lists of them by their sum), sizes, dimensions, widths, channels, heads.
    """
    layers, width = 1, 1
    for name, value in args.items():
        numbers = [each for each in (value if isinstance(value, list | tuple) else [value]) if _is_whole(each)]
        if not numbers:
            continue
        if _LAYERS.search(name):
            low, most, layers = 0, LAYERS, max(layers, sum(numbers))
            numbers.append(sum(numbers))
        elif name == "vocab_size":
            low, most = 0, VOCABULARY
        elif _WIDTHS.search(name):
            low, most, width = 0, WIDTH, max(width, *numbers)
        else:
            low, most = -(2**31), 2**31
        if wrong := [number for number in numbers if not low <= number <= most]:
            raise ValueError(f"{name}={wrong[0]}: {low} to {most} is expected")
    if layers * width**2 > PARAMETERS:
        raise ValueError(f"{layers} layers of width {width} are more than {PARAMETERS:.0e} weights")
    return args


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


Sizes = Annotated[Plain, AfterValidator(check_sizes)]
"""Keyword arguments of an architecture."""


class Encoder(Frozen):
    """A vision encoder, built by timm or from any importable class."""

    name: str
    title: str
    """Name on a page, e.g. `FastViTHD`."""
    timm: str = ""
    """Entry point of `timm.create_model`."""
    target: str = ""
    """`package.module:Class` in place of a timm model: a module that maps pixels (B, 3, R, R) to visual tokens
    (B, N, features) or to a map (B, features, H, W)."""
    args: Sizes = {}
    """Keyword arguments of the entry point or class; they may override the architecture's sizes."""
    stride: Pixels
    """Pixels per visual token along one side, over all stages."""
    features: Positive
    """Channels of a visual token before the connector."""
    mean: tuple[float, float, float]
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat]
    """Normalisation of the pixels, in units of 0..1."""
    native: Pixels
    """Resolution that the architecture was published for, in pixels."""
    tokens: Positive | None = None
    """Visual tokens that it leaves at every resolution: pruning in the tower, or maps resampled to one grid."""
    crop: bool = False
    """Whether pixels beyond the last whole patch are dropped (SigLIP at 384 sees 378); otherwise they are refused."""
    source: str
    """Where the numbers above come from."""

    @model_validator(mode="after")
    def _one_of_two(self) -> Encoder:
        if bool(self.timm) == bool(self.target):
            raise ValueError("either timm or target is expected")
        return self

    def visual_tokens(self, resolution: int) -> int:
        """Number of visual tokens of one `resolution` x `resolution` image."""
        return self.tokens or (resolution // self.stride) ** 2


def connector_inputs(encoder: Encoder, also: Sequence[Encoder], resolution: int) -> tuple[tuple[int, int], ...]:
    """Visual tokens of one image or tile, and channels, that each of several encoders hands to a connector: the first
    sees the image at `resolution`, the others at their own."""
    first = encoder.visual_tokens(resolution), encoder.features
    return first, *((each.visual_tokens(each.native), each.features) for each in also)


class Connector(Frozen):
    """What maps visual tokens to the LLM's width, and often to fewer."""

    name: str
    title: str = ""
    """Name on a page; empty where a connector is only a projection."""
    kind: str
    """A class that `harness.models.connectors` registers."""
    args: Sizes = {}
    """Keyword arguments of the class."""
    tokens: Positive | None = None
    """Visual tokens that it makes of an image or tile, however many come in: queries, or the cells of a grid."""
    shrink: Positive = 1
    """Side of the square of visual tokens that become one: pooling, pixel shuffle."""
    source: str = ""

    def visual_tokens(self, count: int) -> int:
        """What it makes of the `count` visual tokens of one image or tile."""
        return self.tokens or count // self.shrink**2


class Fusion(Frozen):
    """Layers between those of the LLM that attend to visual features (Flamingo, Cambrian-1)."""

    name: str
    title: str
    kind: str
    """A class that `harness.models.fusions` registers."""
    args: Sizes = {}
    every: Positive
    """One such layer is inserted every so many layers of the LLM."""
    first: Count
    """The LLM's layer, from 0, before which the first one stands."""
    count: Positive
    """How many there are."""
    memory: tuple[Positive, Positive, Positive]
    """Shape (rows, keys, channels) of what they attend to: every token to one row, or each visual token to its own."""
    in_sequence: bool
    """Whether visual tokens are in the LLM's sequence as well; otherwise its prefill holds text only."""
    source: str


class System(Frozen):
    """A whole VLM of the literature, put together from parts."""

    name: str
    title: str
    parameters: PositiveFloat | None = None
    """Millions, as its source counts or implies them at its own resolution; None where it does not say."""
    visual_tokens: Positive | None = None
    """At its own resolution, as published."""
    source: str
    """Where its parts and the numbers come from, and what here differs from it."""
    changed: tuple[str, ...] = ()
    """Overrides of its parts (`llm=qwen2_1_5b`): then it is not the published system any more."""


class Llm(Frozen):
    """A decoder, built by transformers from its configuration class."""

    name: str
    title: str
    architecture: str
    """`model_type` of transformers, e.g. `qwen2`."""
    config: Sizes
    """Fields of the configuration class; `vocab_size` 0 takes the tokenizer's size (reference family only)."""
    source: str

    @model_validator(mode="after")
    def _has_sizes(self) -> Llm:
        for name in ("hidden_size", "num_hidden_layers"):
            size = self.config.get(name)
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise ValueError(f"config.{name}={size}: a whole number above 0 is expected")
        return self


class Template(Frozen):
    """How a dialogue is written for an LLM: text and special tokens around what is asked and said."""

    name: str
    bos: str
    """What every sequence begins with; empty for LLMs without such a token."""
    system: str
    """What stands before the first turn."""
    user: str
    """Before what is asked."""
    reply: str
    """Between what is asked and the answer."""
    end: str
    """The one token that ends an answer."""
    after: str
    """Between that token and the next turn."""
    source: str


class HubModel(Frozen):
    """A whole VLM as its authors published it, in the hub's format."""

    kind: Literal["hub"] = "hub"
    name: str
    title: str
    path: str
    """Hub id, or a folder."""
    revision: str | None = None
    """Commit or tag of the hub; None: the newest."""
    native: Pixels | None = None
    """Resolution that it was published for, in pixels; None: what its processor says."""
    override: Pixels | None = None
    """Resolution that was asked for; see `harness.models.hub.set_resolution` for what it means to each. None: the
    processor's own, nothing of it is changed."""
    tokens: tuple[Positive, Positive] | None = None
    """Visual tokens of the bench's images and text tokens of its prompts, as its processor makes them; None until it
    was asked."""
    llm: str = ""
    """Title of its LLM."""
    source: str = ""
