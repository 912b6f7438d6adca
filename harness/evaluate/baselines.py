"""What a score has to be read against: guessing, the majority answer, and the same model without sight.

- *Guessing* is what an answerer earns on average who knows a question's kind and the answers that are possible, and
  draws one of them: of a multiple choice the letters of its own options (so 1 / options), of a yes/no question yes or
  no (a half), of any other the answers of its kind. Each is scored with the suite's own metric, so that ANLS and VQA
  accuracy give it their partial credit. It is an expectation, computed and not drawn, unless that would take more than
  `BUDGET` judgements. ("Random" of VQA, Antol et al. 2015; "random choice" of MMMU, Yue et al. 2023; half of POPE's
  answers are yes, Li et al. 2023.)
- *Majority* is what the one possible answer earns that earns most, for each kind of question. It is chosen by the
  references of these very questions: an upper bound of what a constant answer per kind earns, not a score that could
  have been predicted. ("Per question type prior" of VQA, "local prior" of GQA, Hudson and Manning 2019, "frequent
  choice" of MMMU, which choose it by other questions or by these.)
- *Blind* is the same model with the same prompts and as many visual tokens, shown a grey image (every channel
  `GREY`) of the same size in place of each one: what it knows without looking. ("Language only" of VQA v1 and v2, Goyal
  et al. 2017. MMStar, Chen et al. 2024, leaves the image out, which changes the prompt and the number of tokens.)

A question is of a kind, as its suite says, and of a form: `options`, `yes/no` or `open`. Both baselines take the two
together, because yes/no questions stand among others where a suite has no kinds (GQA). A form is read from the options
of a question, or from its commonest reference, as VQAv2's answer types are. Possible answers of an open kind are the
commonest references of its questions, each text once, whatever its case and white space.
"""

from __future__ import annotations

import json
import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from harness.metrics import METRICS
from harness.schema import Prior, Score
from harness.stats import Difference, paired_difference

GREY = 128
"""Every channel of every pixel that a blind model is shown: mid-grey of 8 bits."""
BUDGET = 100_000
"""Most (question, answer) pairs of a kind that are judged. Where there are more, guessing is the mean over answers that
are drawn for each question (seed 0), and the majority is sought among the commonest: half of the budget each."""
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

Form = Literal["options", "yes/no", "open"]


class Asked(Protocol):
    """What has to be known of a question; see `harness.suites.questions.Question`."""

    @property
    def answers(self) -> tuple[str, ...]:
        """Its references."""

    @property
    def kind(self) -> str:
        """As the suite calls it; may be empty."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the metric needs beside the references."""

    @property
    def options(self) -> int:
        """How many options it has; 0 for none."""


def folded(text: str) -> str:
    """A text without case and superfluous white space."""
    return " ".join(text.lower().split())


def commonest(answers: Sequence[str]) -> str:
    """The reference that most people gave; the first of several."""
    return Counter(answers).most_common(1)[0][0]


def form_of(question: Asked) -> Form:
    """What is answered to a question."""
    if question.options:
        return "options"
    return "yes/no" if folded(commonest(question.answers)) in ("yes", "no") else "open"


def priors(metric: str, questions: Iterable[Asked], budget: int = BUDGET) -> tuple[Prior, ...]:
    """What guessing and the majority answer score by `metric`, for each kind and form; nothing where it is graded
    externally."""
    if not metric:
        return ()
    groups: dict[tuple[str, Form], list[Asked]] = defaultdict(list)
    for question in questions:
        groups[question.kind, form_of(question)].append(question)
    return tuple(_prior(metric, *about, group, budget) for about, group in sorted(groups.items()))


def _prior(metric: str, kind: str, form: Form, group: Sequence[Asked], budget: int) -> Prior:
    """The two baselines of one group."""
    possible = possible_answers(form, group)
    equal: dict[str, list[Asked]] = defaultdict(list)  # questions that any answer earns the same of
    for question in group:
        equal[json.dumps([question.answers, dict(question.facts), question.options], default=str)].append(question)
    exact = len(equal) * len(possible) <= budget
    few = max(1, budget // (2 * len(equal)))
    likely = possible if exact else possible[:few]
    rng = random.Random(0)
    guess, totals = 0.0, [0.0] * len(likely)
    for same in equal.values():
        first = same[0]
        scores = _earned(metric, first, likely)
        totals = [total + len(same) * score for total, score in zip(totals, scores, strict=True)]
        own = scores[: first.options or None]
        if not exact:
            own = _earned(metric, first, rng.sample(possible, min(few, len(possible))))
        guess += len(same) * math.fsum(own) / len(own)
    best = max(range(len(likely)), key=totals.__getitem__)
    return Prior(
        kind=kind,
        form=form,
        questions=len(group),
        guess=min(1.0, guess / len(group)),
        majority=min(1.0, totals[best] / len(group)),
        answer=likely[best],
        exact=exact,
    )


def _earned(metric: str, question: Asked, answers: Iterable[str]) -> list[float]:
    """What each of these answers to a question scores."""
    return [METRICS[metric](answer, question.answers, **question.facts).score for answer in answers]


def possible_answers(form: Form, group: Iterable[Asked]) -> list[str]:
    """The answers of a group, the commonest first: letters, yes and no as the references spell them, or texts."""
    group = list(group)
    if form == "options":
        return list(LETTERS[: max(question.options for question in group)])
    spelled: dict[str, Counter[str]] = defaultdict(Counter)
    for question in group:
        answer = commonest(question.answers)
        spelled[folded(answer)][answer] += 1
    if form == "yes/no":
        for answer in ("yes", "no"):
            spelled[answer][answer] += 0
    ordered = sorted(spelled.values(), key=lambda spellings: -spellings.total())
    return [spellings.most_common(1)[0][0] for spellings in ordered]


@dataclass(frozen=True)
class Baselines:
    """What stands beside a score, of the whole or of one kind of question; NaN where it is not known."""

    guess: float = math.nan
    majority: float = math.nan
    majority_answer: str = ""
    """The constant answer of each of its kinds and forms, the most frequent first."""
    blind: float = math.nan
    above_blind: float = math.nan
    """Score minus blind score, question by question."""
    above_blind_low: float = math.nan
    above_blind_high: float = math.nan
    """95% interval, clustered by image: Student's t of paired differences."""
    above_blind_stderr: float = math.nan
    blind_like: bool | None = None
    """Whether the score is within the error of its blind run; None where there is none."""


def baselines_of(score: Score, blind: Score | None, kind: str | None = None) -> Baselines:
    """The baselines of a score, or of one of its kinds. `blind` has to be of the same questions; its priors stand in
    for those that an old record of the score lacks."""
    known = [p for p in score.priors or (blind.priors if blind else ()) if kind is None or p.kind == kind]
    found: dict[str, Any] = {}
    if known:
        count = sum(prior.questions for prior in known)
        ordered = sorted(known, key=lambda prior: -prior.questions)
        found = {
            "guess": math.fsum(prior.questions * prior.guess for prior in known) / count,
            "majority": math.fsum(prior.questions * prior.majority for prior in known) / count,
            "majority_answer": ", ".join(prior.answer for prior in ordered),
        }
    if blind is not None:
        above = difference(score, blind, kind)
        values = [answer.score or 0.0 for answer in blind.answers if kind is None or answer.kind == kind]
        found |= {
            "blind": math.fsum(values) / len(values),
            "above_blind": above.value,
            "above_blind_low": above.low,
            "above_blind_high": above.high,
            "above_blind_stderr": above.stderr,
            "blind_like": is_blind_like(above),
        }
    return Baselines(**found)


def difference(score: Score, blind: Score, kind: str | None = None) -> Difference:
    """A score minus its blind run's, paired by question and clustered by image."""
    unseen = {answer.question_id: answer.score or 0.0 for answer in blind.answers}
    answers = [answer for answer in score.answers if kind is None or answer.kind == kind]
    return paired_difference(
        [unseen[answer.question_id] for answer in answers],
        [answer.score or 0.0 for answer in answers],
        [answer.image for answer in answers],
    )


def is_blind_like(above: Difference) -> bool:
    """Whether the interval of score minus blind score reaches down to 0: sight is not shown to have helped."""
    return not above.low > 0


def mean_baselines(parts: Sequence[Baselines]) -> Baselines:
    """What stands beside the unweighted mean over suites, whose questions are independent of one another; NaN where one
    of them lacks it. The interval is the normal one of the suites' standard errors."""
    count = len(parts)
    guess, majority, blind = (
        math.fsum(getattr(part, what) for part in parts) / count for what in ("guess", "majority", "blind")
    )
    if math.isnan(blind):
        return Baselines(guess, majority)
    value = math.fsum(part.above_blind for part in parts) / count
    reach = 1.96 * math.sqrt(math.fsum(part.above_blind_stderr**2 for part in parts)) / count
    return Baselines(
        guess, majority, "", blind, value, value - reach, value + reach, reach / 1.96, not value - reach > 0
    )
