"""A sweep's plan and last run: points, the keys of their results, claims."""

from __future__ import annotations

from pydantic import model_validator

from harness.schema.base import Count, Frozen, Line, Slug
from harness.schema.components import Part, PartName
from harness.schema.points import ComposedModel, Point


class Planned(Frozen):
    """A point of a sweep and where its results are found."""

    point: Point
    components: dict[PartName, str]
    """Part -> key. `composed_vlm` is there for the few points that are also measured directly."""
    evaluations: dict[str, str]
    """Suite -> key."""
    blind: dict[str, str] = {}
    """Suite -> key of the same evaluation with grey images, where one is taken."""
    place: str = ""
    """Machine and device where it is measured (`Machine.place`); empty: unknown."""
    command: str
    no_accuracy: Line = ""
    """Why it is not asked anything; empty if it is."""

    @model_validator(mode="after")
    def _has_known_parts(self) -> Planned:
        llms = [part for part in map(Part, self.components) if part.kind == "llm"]
        depths = [part for part in llms if part.layers]
        composed = isinstance(self.point.model, ComposedModel)
        if len(depths) == 1 or (depths and (not composed or len(depths) < len(llms))):
            raise ValueError("an LLM is measured whole, or with several numbers of layers")
        return self


class Claim(Frozen):
    """A published claim, with the points that stand for its sides here."""

    id: str
    statement: str
    kind: str
    """What it is about: `ttft_ratio`, `ttft_reduction`, `token_ratio`, `encoder_params_ratio`, `score_delta`, ..."""
    published: float
    rounding: float
    """Half a unit of the last digit of the published value."""
    source: str
    references: tuple[Point, ...] = ()
    """What the candidate is compared with; several where the public record contradicts itself."""
    candidate: Point | None = None
    parameters: dict[str, int] = {}
    """Of a claim about sizes: weights of each side's encoder, by its name."""


class Pins(Frozen):
    """The very entries that a run rests on, each by the hash of its line in the store."""

    measurements: dict[str, dict[Count, str]]
    """Key of a component -> block -> entry."""
    evaluations: dict[str, str]
    """Key of an evaluation -> entry."""


class Manifest(Frozen):
    """The last run of a sweep on each machine: which results belong to it."""

    name: Slug
    title: Line
    published: str = ""
    """Training recipe whose published scores stand beside the latencies; empty: accuracy was measured."""
    points: tuple[Planned, ...]
    claims: tuple[Claim, ...] = ()
    pins: Pins | None = None
    """None while the first run has not ended: what is newest counts until then."""
    command: str
    started: str
