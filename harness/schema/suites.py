"""Accuracy suites: where rows come from, how they are asked and scored."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from harness.schema.base import Frozen, Positive, Slug

DRAWN = "drawn"
"""Path of the suites that are drawn when they are asked for."""


class Source(Frozen):
    """Where a suite's rows come from."""

    path: str
    """Hub id, folder or file in the hub's layout; `drawn` for what this project draws."""
    also: tuple[str, ...] = ()
    """Other ids under which the hub has the same data."""
    name: str | None = None
    """Configuration of the dataset."""
    split: str
    revision: str | None = None
    """Commit or tag of the hub; None: the newest."""
    images: dict[str, str] | None = None
    """Where images lie in a configuration of their own: its `name` and `split`, and its columns `id` and `image`."""
    stamp: str = ""
    """Of a folder: names, sizes and times of its files, so that changed data is not taken for the same."""


class Suite(Frozen):
    """An accuracy suite: where its rows come from, how it asks and how it scores."""

    name: Slug
    title: str
    stands_for: str = ""
    """The published benchmark whose schema and metric an embedded suite has."""
    metric: str
    """One of `harness.metrics`, with its protocol: `gqa@lmms-eval`; empty where it is graded externally."""
    submission: str = ""
    """Format in which answers are handed to those who judge them (`harness.suites.submissions`)."""
    source: Source
    prompt: str
    """Jinja template over a row's columns."""
    fields: dict[str, str]
    """Jinja expressions: `id`, `answers` (unless graded externally); `image`, `kind`, `options` (what a question lets
    one choose from), `where` (asked only if true)."""
    facts: dict[str, str] = {}
    """Jinja expressions for what the metric, or the submission, needs beside the answers."""
    images: Positive | None = None
    """At most so many images of the split; None: all."""
    max_new_tokens: Annotated[int, Field(ge=1, le=2**20)] = 8
    until: tuple[str, ...] = ()
    """An answer ends before the first of these."""
    version: int = 1
    """Raised when asking or scoring changes what a score means."""
    image: Literal["given", "grey"] = "given"
    """What is shown: each question's own image, or a uniform grey one of its size (`harness.evaluate.baselines`)."""
