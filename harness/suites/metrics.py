"""Metrics with their official definitions. One registered function `(response, answers) -> score in 0..1` each."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from rapidfuzz.distance import Levenshtein

Metric = Callable[[str, Sequence[str]], float]
METRICS: dict[str, Metric] = {}


def metric(function: Metric) -> Metric:
    """Make a function available under its own name."""
    METRICS[function.__name__] = function
    return function


@metric
def anls(response: str, answers: Sequence[str]) -> float:
    """Average normalised Levenshtein similarity of DocVQA (Biten et al. 2019), as the official RRC evaluation has it.

    The distance is over lower-cased text with folded white space, the length is that of the raw strings in upper
    case, and a similarity below 0.5 counts 0 (exactly 0.5 is kept).
    """
    if not answers:
        raise ValueError("anls: a question without reference answers")
    said = _folded(response)
    best = 0.0
    for answer in answers:
        length = max(len(answer.upper()), len(response.upper()))
        distance = Levenshtein.distance(_folded(answer), said)
        best = max(best, 1.0 - (distance / length if length else 0.0))
    return best if best >= 0.5 else 0.0


def _folded(text: str) -> str:
    return " ".join(text.strip().lower().split())


@metric
def vqa_accuracy(response: str, answers: Sequence[str]) -> float:
    """VQA accuracy of TextVQA: EvalAI's answer processor on both sides, leave-one-out over the references.

    Source: mmf's `TextVQAAccuracyEvaluator` (also LLaVA's `m4c_evaluator.py`): for each reference, min(1, matches
    among the others / 3); the mean over all references.
    """
    if not answers:
        raise ValueError("vqa_accuracy: a question without reference answers")
    said = evalai(response)
    references = [evalai(answer) for answer in answers]
    matches = references.count(said)
    total = 0.0
    for reference in references:
        others = matches - (reference == said)
        total += min(1.0, others / 3.0)
    return total / len(references)


@metric
def gqa_exact_match(response: str, answers: Sequence[str]) -> float:
    """GQA as lmms-eval scores it: equality with the one reference, case and punctuation ignored."""
    if len(answers) != 1:
        raise ValueError(f"gqa_exact_match: {len(answers)} reference answers, GQA has one")
    return float(_bare(response.strip()) == _bare(answers[0]))


def _bare(text: str) -> str:
    return text.lower().translate(_NO_PUNCTUATION)


_NO_PUNCTUATION = str.maketrans("", "", r"""!"#$%&'()*+,-./:;<=>?@[\]^_`{|}~""")

_NUMBERS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5",
    "six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip
_ARTICLES = {"a", "an", "the"}
_MARKS = [";", "/", "[", "]", '"', "{", "}", "(", ")", "=", "+", "\\", "_", "-", ">", "<", "@", "`", ",", "?", "!"]
# The official pattern: its look-behind is mistyped, and it is called with re.UNICODE (32) where a count belongs.
_PERIOD = re.compile(r"(?!<=\d)(\.)(?!\d)")
_PERIODS_REPLACED = 32
_COMMA = re.compile(r"(\d)(,)(\d)")
_CONTRACTIONS = {
    "aint": "ain't", "arent": "aren't", "cant": "can't", "couldve": "could've", "couldnt": "couldn't",
    "couldn'tve": "couldn't've", "couldnt've": "couldn't've", "didnt": "didn't", "doesnt": "doesn't", "dont": "don't",
    "hadnt": "hadn't", "hadnt've": "hadn't've", "hadn'tve": "hadn't've", "hasnt": "hasn't", "havent": "haven't",
    "hed": "he'd", "hed've": "he'd've", "he'dve": "he'd've", "hes": "he's", "howd": "how'd", "howll": "how'll",
    "hows": "how's", "Id've": "I'd've", "I'dve": "I'd've", "Im": "I'm", "Ive": "I've", "isnt": "isn't",
    "itd": "it'd", "itd've": "it'd've", "it'dve": "it'd've", "itll": "it'll", "let's": "let's", "maam": "ma'am",
    "mightnt": "mightn't", "mightnt've": "mightn't've", "mightn'tve": "mightn't've", "mightve": "might've",
    "mustnt": "mustn't", "mustve": "must've", "neednt": "needn't", "notve": "not've", "oclock": "o'clock",
    "oughtnt": "oughtn't", "ow's'at": "'ow's'at", "'ows'at": "'ow's'at", "'ow'sat": "'ow's'at", "shant": "shan't",
    "shed've": "she'd've", "she'dve": "she'd've", "she's": "she's", "shouldve": "should've", "shouldnt": "shouldn't",
    "shouldnt've": "shouldn't've", "shouldn'tve": "shouldn't've", "somebody'd": "somebodyd",
    "somebodyd've": "somebody'd've", "somebody'dve": "somebody'd've", "somebodyll": "somebody'll",
    "somebodys": "somebody's", "someoned": "someone'd", "someoned've": "someone'd've", "someone'dve": "someone'd've",
    "someonell": "someone'll", "someones": "someone's", "somethingd": "something'd", "somethingd've": "something'd've",
    "something'dve": "something'd've", "somethingll": "something'll", "thats": "that's", "thered": "there'd",
    "thered've": "there'd've", "there'dve": "there'd've", "therere": "there're", "theres": "there's",
    "theyd": "they'd", "theyd've": "they'd've", "they'dve": "they'd've", "theyll": "they'll", "theyre": "they're",
    "theyve": "they've", "twas": "'twas", "wasnt": "wasn't", "wed've": "we'd've", "we'dve": "we'd've",
    "weve": "we've", "werent": "weren't", "whatll": "what'll", "whatre": "what're", "whats": "what's",
    "whatve": "what've", "whens": "when's", "whered": "where'd", "wheres": "where's", "whereve": "where've",
    "whod": "who'd", "whod've": "who'd've", "who'dve": "who'd've", "wholl": "who'll", "whos": "who's",
    "whove": "who've", "whyll": "why'll", "whyre": "why're", "whys": "why's", "wont": "won't",
    "wouldve": "would've", "wouldnt": "wouldn't", "wouldnt've": "wouldn't've", "wouldn'tve": "wouldn't've",
    "yall": "y'all", "yall'll": "y'all'll", "y'allll": "y'all'll", "yall'd've": "y'all'd've",
    "y'alld've": "y'all'd've", "y'all'dve": "y'all'd've", "youd": "you'd", "youd've": "you'd've",
    "you'dve": "you'd've", "youll": "you'll", "youre": "you're", "youve": "you've",
}  # fmt: skip


def evalai(text: str) -> str:
    """EvalAI's answer processor (mmf `EvalAIAnswerProcessor`), its quirks included."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = text.replace("\n", " ").replace("\t", " ").strip()
    out = text
    for mark in _MARKS:
        if mark + " " in text or " " + mark in text or _COMMA.search(text):
            out = out.replace(mark, "")
        else:
            out = out.replace(mark, " ")
    out = _PERIOD.sub("", out, count=_PERIODS_REPLACED)
    words = [_NUMBERS.get(word, word) for word in out.lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)
