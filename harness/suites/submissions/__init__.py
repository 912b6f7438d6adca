"""Answers to benchmarks that are graded externally, in the form in which they are handed in. No score is made up here.

A format is one file: `ENDING` of what it writes, and `write(answers, model, path)`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from harness.registry import find, modules
from harness.schema import Answer, Evaluation, HarnessError, file_stem

FOLDER = "suites.submissions"
DIGITS = 18
"""Longest id that is a number to everybody who reads it."""


class Format(Protocol):
    """What a module of this folder has."""

    ENDING: str

    def write(self, answers: tuple[Answer, ...], model: str, path: Path) -> None:
        """Write the answers of `model`; raises `HarnessError` where they lack what the format wants."""


def formats() -> list[str]:
    """Names of the formats there are."""
    return list(modules(FOLDER))


def write_submission(evaluation: Evaluation, model: str, folder: Path) -> Path:
    """Write an evaluation's answers for those who grade them; `model` is what the file calls the VLM.

    Raises `HarnessError` where the answers lack what the format wants: nothing is written then.
    """
    name = evaluation.suite.submission
    if evaluation.score is None or name not in formats():  # a record's text is never imported
        raise HarnessError(
            f"{evaluation.suite.name}: no answers, or no form {name!r}; there are: {', '.join(formats())}"
        )
    form: Format = find(FOLDER, name)
    path = folder / f"{file_stem(f'{evaluation.suite.name}-{model}', 120)}.{form.ENDING}"
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"part-{path.name}")  # the ending tells pandas the format
    try:
        form.write(evaluation.score.answers, model, part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def number(answer: Answer) -> int:
    """A question's id, for formats that number their questions."""
    if not answer.question_id.isdecimal() or len(answer.question_id) > DIGITS:
        raise HarnessError(f"question {answer.question_id}: a whole number is expected as its id, to hand it in")
    return int(answer.question_id)


def fact(answer: Answer, name: str) -> object:
    """What the submission needs beside the answer."""
    if name not in answer.facts:
        raise HarnessError(f"question {answer.question_id}: its record has no {name}, which a submission needs")
    return answer.facts[name]
