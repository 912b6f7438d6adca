"""VQA accuracy (Antol et al. 2015; Goyal et al. 2017): TextVQA and VQAv2, ten references a question."""

from __future__ import annotations

import re
from collections.abc import Sequence

from harness.metrics import Graded, metric

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


@metric("vqa_accuracy", "facebookresearch/mmf TextVQAAccuracyEvaluator, LLaVA m4c_evaluator.py")
def vqa_accuracy(response: str, answers: Sequence[str]) -> Graded:
    """EvalAI's processor on both sides; for each reference min(1, matches among the others / 3), and their mean.

    So three agreeing references of ten give 0.9, and a single reference always 0.
    """
    said = evalai(response)
    return Graded(_leave_one_out(said, [evalai(answer) for answer in answers]), said)


@metric("vqa_accuracy@molmo", "allenai/molmo olmo/eval/vqa.py")
def vqa_accuracy_of_all(response: str, answers: Sequence[str]) -> Graded:
    """min(1, matches / 3) over all references, without leaving one out."""
    said = evalai(response)
    return Graded(min(1.0, [evalai(answer) for answer in answers].count(said) / 3), said)


@metric("vqav2", "GT-Vision-Lab/VQA PythonEvaluationTools/vqaEvaluation/vqaEval.py")
def vqav2(response: str, answers: Sequence[str]) -> Graded:
    """Response and references are normalised only where the references differ: "Yes" against ten "yes" scores 0."""
    said, known = _one_line(response), [_one_line(answer) for answer in answers]
    if len(set(known)) > 1:
        said, known = normalise(said), [normalise(answer) for answer in known]
    return Graded(_leave_one_out(said, known), said)


@metric("vqav2@lmms-eval", "lmms_eval/tasks/vqav2, LLaVA scripts/convert_vqav2_for_submission.py")
def vqav2_processed(response: str, answers: Sequence[str]) -> Graded:
    """The official rule on a response that went through EvalAI's processor, as submissions do."""
    return vqav2(evalai(response), answers)


def _leave_one_out(said: str, references: Sequence[str]) -> float:
    matches = references.count(said)
    return sum(min(1.0, (matches - (reference == said)) / 3) for reference in references) / len(references)


def evalai(text: str) -> str:
    """EvalAI's answer processor (mmf `EvalAIAnswerProcessor`), its quirks included."""
    return normalise(_one_line(text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()))


def normalise(text: str) -> str:
    """The official evaluation's `processPunctuation` and `processDigitArticle`."""
    words = [_NUMBERS.get(word, word) for word in without_punctuation(text).lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def without_punctuation(text: str) -> str:
    """Marks become spaces; where one touches a space, or a comma stands between digits, they are deleted."""
    out = text
    for mark in _MARKS:
        touching = mark + " " in text or " " + mark in text or _COMMA.search(text)
        out = out.replace(mark, "" if touching else " ")
    return _PERIOD.sub("", out, count=_PERIODS_REPLACED)


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()
