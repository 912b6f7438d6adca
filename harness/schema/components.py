"""Components: what is timed on its own.

The latency of an encoder depends on its architecture and the resolution, that of an LLM on its architecture and the
number of tokens. So a grid of E encoders x R resolutions x L LLMs is E x R encoders and one LLM for each distinct
number of tokens, and a point's time to first token is composed of them.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, TypeAdapter

from harness.schema.base import Count, Frozen, Pixels, Positive
from harness.schema.execution import Execution, TimingProtocol
from harness.schema.parts import Connector, Encoder, Fusion, HubModel, Llm, connector_inputs
from harness.schema.points import RANDOM
from harness.schema.stages import STAGES

_NAMES: dict[str, set[str]] = {
    "encoder": {"name", "title", "source", "native"},
    "also": {"name", "title", "source"},
    "llm": {"name", "title", "source"},
    "connector": {"name", "title", "source"},
    "fusion": {"name", "title", "source"},
    "model": {"name", "title", "path", "revision", "native", "llm", "source"},
}
"""What a part is called and where it comes from decides no latency."""


class _Component(Frozen):
    """What all kinds have."""

    execution: Execution
    visual_tokens: Count
    text_tokens: Count = 0
    protocol: TimingProtocol

    STAGES: ClassVar[tuple[str, ...]]
    """What a measurement times."""
    MAIN_STAGE: ClassVar[str] = ""
    """The stage that it is measured for; empty: all of them together."""
    IS_WHOLE: ClassVar[bool] = False
    """Whether it is a whole VLM."""
    SHARED: ClassVar[set[str]] = set()
    """Fields that change neither the modules nor their weights: components that differ in them alone share both."""

    @property
    def name(self) -> str:
        """Short name for a line of progress or an error."""
        raise NotImplementedError

    @property
    def stages(self) -> tuple[str, ...]:
        """What a measurement of this component times: no prefill over visual tokens where none are in the sequence."""
        return self.STAGES if self.visual_tokens else tuple(name for name in self.STAGES if name != "prefill_visual")

    @property
    def key_content(self) -> dict[str, Any]:
        """Everything that decides its latency, as plain content."""
        names = {name: fields for name, fields in _NAMES.items() if name in type(self).model_fields}
        if "also" in names:
            names["also"] = {"__all__": names["also"]}  # type: ignore[assignment]
        left_out: dict[str, Any] = {"protocol": {"blocks", "repeats"}, **names}
        if "checkpoint" in type(self).model_fields:
            left_out["checkpoint"] = True
        return self.model_dump(mode="json", exclude=left_out, exclude_none=True)

    @property
    def modules(self) -> str:
        """Equal for components that share their modules: what resolution and token counts do not change."""
        return self.model_dump_json(exclude={"visual_tokens", "text_tokens", "protocol", *self.SHARED})


class EncoderComponent(_Component):
    """A vision encoder of random weights."""

    kind: Literal["encoder"] = "encoder"
    encoder: Encoder
    resolution: Pixels
    tiles: Positive = 1

    STAGES = ("preprocess", "transfer", "encode")
    MAIN_STAGE = "encode"
    SHARED = {"resolution", "tiles"}

    @property
    def name(self) -> str:
        """Short name for a line of progress or an error."""
        tiled = f" x {self.tiles}" if self.tiles > 1 else ""
        return f"encoder {self.encoder.name} {self.resolution}px{tiled}"


class HandoverComponent(_Component):
    """Visual tokens on their way from the runtime of an encoder to that of the LLM: `execution` is where they go."""

    kind: Literal["handover"] = "handover"
    source: Execution
    features: Positive
    tiles: Positive = 1

    STAGES = ("handover",)
    MAIN_STAGE = "handover"

    @property
    def name(self) -> str:
        """Short name for a line of progress or an error."""
        there = f"{self.source.runtime} ({self.source.device}) to {self.execution.runtime} ({self.execution.device})"
        return f"handover {there} {self.visual_tokens} x {self.features}"


class ConnectorComponent(_Component):
    """A connector of random weights; shapes are all that it needs of its neighbours."""

    kind: Literal["connector"] = "connector"
    connector: Connector
    inputs: tuple[tuple[Positive, Positive], ...]
    """Visual tokens of one image or tile, and channels, that each encoder hands to it."""
    width: Positive
    """Of the LLM's embeddings."""
    tiles: Positive = 1

    STAGES = ("project",)
    MAIN_STAGE = "project"
    SHARED = {"tiles"}

    @property
    def name(self) -> str:
        """Short name for a line of progress or an error."""
        given = " + ".join(f"{tokens} x {features}" for tokens, features in self.inputs)
        return f"connector {self.connector.name} {given} to {self.width}, {self.visual_tokens} tokens"


class FusionComponent(_Component):
    """The layers within an LLM that attend to visual features, alone."""

    kind: Literal["fusion"] = "fusion"
    fusion: Fusion
    width: Positive
    """Of the LLM's hidden states."""

    STAGES = ("fuse",)
    MAIN_STAGE = "fuse"

    @property
    def name(self) -> str:
        """Short name for a line of progress or an error."""
        return f"fusion {self.fusion.name} {self.visual_tokens}+{self.text_tokens} tokens"


class LlmComponent(_Component):
    """An LLM of random weights; its vocabulary has its real size here."""

    kind: Literal["llm"] = "llm"
    llm: Llm

    STAGES = ("tokenize", "transfer", "prefill", "sample", "prefill_visual")
    MAIN_STAGE = "prefill"

    @property
    def name(self) -> str:
        """Short name for a line of progress or an error."""
        return f"llm {self.llm.name} {self.visual_tokens}+{self.text_tokens} tokens"


class ComposedVlmComponent(_Component):
    """A whole VLM of parts, with its trained weights or random ones, to check the composed sum."""

    kind: Literal["composed_vlm"] = "composed_vlm"
    encoder: Encoder
    also: tuple[Encoder, ...] = ()
    connector: Connector
    fusion: Fusion | None = None
    llm: Llm
    resolution: Pixels
    tiles: Positive = 1
    weights: str = RANDOM
    """`random`, or the hash of its checkpoint."""
    checkpoint: str = ""

    STAGES = (*(stage for stage in STAGES if stage not in ("handover", "fuse")), "prefill_visual", "ttft_fused")
    """The layers of a fusion run within its prefill."""
    IS_WHOLE = True

    @property
    def name(self) -> str:
        """Short name for a line of progress or an error."""
        return f"vlm {self.encoder.name} + {self.llm.name} {self.resolution}px"

    @property
    def inputs(self) -> tuple[tuple[int, int], ...]:
        """Visual tokens of one image or tile, and channels, that each encoder hands to the connector."""
        return connector_inputs(self.encoder, self.also, self.resolution)

    @property
    def modules(self) -> str:
        """Equal for VLMs that share their modules; a connector that is more than a projection tells places apart."""
        plain = self.connector.visual_tokens(4096) == 4096
        same = {"visual_tokens", "text_tokens", "protocol", "tiles"}
        return self.model_dump_json(exclude=same | ({"resolution"} if plain else set()))


class HubComponent(_Component):
    """A VLM as its authors published it. Its own code tokenizes while it preprocesses, and projects while it
    encodes."""

    kind: Literal["hub"] = "hub"
    model: HubModel
    resolution: Pixels
    weights: str

    STAGES = ("preprocess", "transfer", "encode", "prefill", "sample", "prefill_visual", "ttft_fused")
    IS_WHOLE = True

    @property
    def name(self) -> str:
        """Short name for a line of progress or an error."""
        return f"hub model {self.model.name} {self.resolution}px"


KINDS: dict[str, type[_Component]] = {
    "encoder": EncoderComponent,
    "handover": HandoverComponent,
    "connector": ConnectorComponent,
    "fusion": FusionComponent,
    "llm": LlmComponent,
    "composed_vlm": ComposedVlmComponent,
    "hub": HubComponent,
}

Component = Annotated[
    EncoderComponent
    | HandoverComponent
    | ConnectorComponent
    | FusionComponent
    | LlmComponent
    | ComposedVlmComponent
    | HubComponent,
    Field(discriminator="kind"),
]

COMPONENT: TypeAdapter[Component] = TypeAdapter(Component)
"""Reads a component of any kind."""

MAIN_STAGES = (
    *((kind, noun.MAIN_STAGE) for kind, noun in KINDS.items() if noun.MAIN_STAGE),
    ("hub", "encode"),
    ("hub", "prefill"),
)
"""The stages of a point that are reported with their evidence, by the component that has them."""


class Part(str):
    """A component's place in a point, as text: `encoder`, `encoder@1` (the second of several), `llm`, `llm@5` (an LLM
    at so many of its layers). Raises `ValueError` for anything else."""

    __slots__ = ("at", "kind")
    kind: str
    at: int
    """Which of several, or how many layers; 0 for the first, or for all layers."""

    def __new__(cls, text: str) -> Part:
        """Read it."""
        made = super().__new__(cls, text)
        kind, mark, number = text.partition("@")
        if kind not in KINDS or (mark and not (number.isdecimal() and len(number) < 6)):
            raise ValueError(f"{text!r} is not a part of a point")
        made.kind, made.at = kind, int(number or 0)
        return made

    @classmethod
    def of(cls, kind: str, at: int = 0) -> Part:
        """A part by its kind, and which of several, or how many layers."""
        return cls(f"{kind}@{at}" if at else kind)

    @property
    def layers(self) -> int:
        """Layers of an LLM that is measured at a few depths; 0 for anything else."""
        return self.at if self.kind == "llm" else 0

    @property
    def stages(self) -> tuple[str, ...]:
        """What a measurement of it times."""
        return KINDS[self.kind].STAGES


PartName = Annotated[str, AfterValidator(Part)]
"""A part as a key of a record."""
