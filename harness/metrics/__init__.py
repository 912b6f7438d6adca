"""What an answer is worth: one file for each benchmark's definition, quirks included.

A metric takes the raw response and the references of one question, and sometimes facts about it, and returns what it
read and the score in 0..1. `METRICS` has them by name: `anls`, or `anls@pix2struct` for the protocol of a peer that
scores the same benchmark differently. The plain name is the benchmark's own definition, where it has one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from harness.registry import Registered


class Graded(NamedTuple):
    """One answer's score, and what was read from the response."""

    score: float
    parsed: str | None
    """None: the definition found nothing that it could compare. Such an answer is wrong, counted and never guessed."""
    chance: float = 0.0
    """What the definition's own guess at random would score on average."""


@dataclass(frozen=True)
class Metric:
    """A definition with its name and its source."""

    name: str
    function: Callable[..., Graded]
    source: str
    """Paper, or official script."""

    @property
    def benchmark(self) -> str:
        """The name without its protocol."""
        return self.name.partition("@")[0]

    @property
    def protocol(self) -> str:
        """Whose definition it is."""
        return self.name.partition("@")[2] or "official"

    def __call__(self, response: str, answers: Sequence[str], **about: Any) -> Graded:
        """Judge a raw response against the references of its question."""
        if not answers:
            raise ValueError(f"{self.name}: a question without reference answers")
        return self.function(response, answers, **about)


METRICS: Registered[Metric] = Registered("metrics")


def metric(name: str, source: str) -> Callable[[Callable[..., Graded]], Metric]:
    """Make a function available as `METRICS[name]`."""

    def register(function: Callable[..., Graded]) -> Metric:
        return METRICS.register(name)(Metric(name, function, source))

    return register
