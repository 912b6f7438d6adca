"""Official definitions on inputs that tempt an implementation to be kinder or stricter than they are."""

import pytest

from harness.metrics import METRICS
from harness.metrics.mmmu import normalise, parse_choice, parse_open
from harness.metrics.vqa_accuracy import evalai


def score(name, response, *answers, **about):
    return METRICS[name](response, answers, **about).score


@pytest.mark.parametrize(
    ("response", "answers", "expected"),
    [
        ("paris", ["paris"], 1.0),
        ("  PARIS\n", ["Paris"], 1.0 - 0 / 8),
        ("paris.", ["paris"], 1 - 1 / 6),
        ("ab", ["ax"], 0.5),  # exactly 0.5 is kept
        ("ab", ["xy"], 0.0),
        ("abc", ["axy"], 0.0),  # a third: below the threshold
        ("two  words", ["two words"], 1.0),  # folded white space counts in the length, not in the distance
        ("671", ["670", "671"], 1.0),
        ("67", ["671"], 1 - 1 / 3),
        ("", ["x"], 0.0),
        ("", [""], 1.0),
        ("STRASSE", ["straße"], 1 - 2 / 7),  # upper() makes ß two letters long, lower() leaves it one
    ],
)
def test_anls(response, answers, expected):
    assert score("anls", response, *answers) == pytest.approx(expected)


def test_anls_of_the_peers():
    assert score("anls@pix2struct", "ab", "ax") == 0.0  # their threshold is strict
    assert score("anls@pix2struct", "two  words", "two words") == pytest.approx(1 - 1 / 10)  # nothing is folded
    assert score("anls", "a     ", "ab") == pytest.approx(1 - 1 / 6)  # white space is length officially
    assert score("anls@lmms-eval", "a     ", "ab") == 0.5


@pytest.mark.parametrize(
    ("text", "processed"),
    [
        ("The STOP sign", "stop sign"),
        ("ten,two", "tentwo"),
        ("None", "0"),
        ("dont", "don't"),
        ("it's", "it 's"),
        ("yes!", "yes"),
        ("x-b", "x b"),
        ("x - b", "x b"),  # the mark touches a space: deleted, not replaced
        ("a-b", "b"),  # replaced by a space first, so "a" is an article
        ("3.5", "3.5"),
        ("end.", "end"),
        ("what?\n", "what"),
        ("1,000", "1000"),
        ("", ""),
        ("." * 40, "." * 8),  # only the first 32 periods go
        ("a (b)", "b"),
        ("x/y", "x y"),
    ],
)
def test_evalai_processor(text, processed):
    assert evalai(text) == processed


@pytest.mark.parametrize(("agreeing", "expected"), [(10, 1.0), (4, 1.0), (3, 0.9), (2, 0.6), (1, 0.3), (0, 0.0)])
def test_vqa_accuracy_leaves_one_reference_out(agreeing, expected):
    references = ["stop"] * agreeing + [f"other{k}" for k in range(10 - agreeing)]
    assert score("vqa_accuracy", "Stop.", *references) == pytest.approx(expected)
    assert score("vqa_accuracy@molmo", "Stop.", *references) == pytest.approx(min(1.0, agreeing / 3))


def test_vqa_accuracy_with_one_reference_is_always_zero():
    assert score("vqa_accuracy", "stop", "stop") == 0.0


def test_vqav2_normalises_only_where_the_references_differ():
    assert score("vqav2", "Yes", *["yes"] * 10) == 0.0
    assert score("vqav2", "yes\n", *["yes"] * 10) == 1.0
    assert score("vqav2@lmms-eval", "Yes.", *["yes"] * 10) == 1.0
    assert score("vqav2", "Yes.", *["yes"] * 9, "no") == 1.0
    assert score("vqav2", "the 2", *["Two"] * 3, *["3"] * 7) == pytest.approx(0.9)
    assert score("vqav2@lmms-eval", "the 2", *["Two"] * 10) == 0.0  # "2" against the raw "Two"


@pytest.mark.parametrize(
    ("response", "answer", "official", "swapped"),
    [
        ("105", "100", 1, 1),
        ("105.3", "100", 0, 0),
        ("105.2", "100", 0, 1),  # 5% of the response is more
        ("95", "100", 1, 0),
        ("94.9", "100", 0, 0),
        ("0", "0", 1, 1),
        ("0.0", "0", 0, 0),  # a reference of 0 is text
        ("0", "5", 0, 0),
        ("-10", "-10.5", 1, 1),
        ("10", "-10", 0, 0),
        ("5%", "0.05", 1, 1),
        ("5", "5%", 0, 0),
        ("50%%", "50%", 1, 1),
        ("1,000", "1000", 0, 0),
        ("1_000", "1000", 1, 1),
        ("2019", "2010", 1, 1),
        ("nan", "nan", 0, 0),
        ("Blue", "blue", 1, 1),
        (" blue", "blue", 0, 0),
        ("", "blue", 0, 0),
        ("%", "%", 1, 1),
        ("٥", "5", 1, 1),  # float() reads any digits
    ],
)
def test_relaxed_accuracy(response, answer, official, swapped):
    assert score("relaxed_accuracy", response, answer) == official
    assert score("relaxed_accuracy@qwen-vl", response, answer) == swapped
    assert score("relaxed_accuracy@lmms-eval", f" {response}\n", answer) == score(
        "relaxed_accuracy", response.strip(), answer
    )


@pytest.mark.parametrize(
    ("response", "answer", "exact", "lmms", "llava", "vlmevalkit"),
    [
        ("yes", "yes", 1, 1, 1, 1),
        ("Yes.", "yes", 0, 1, 1, 0),
        (" red ", "red", 0, 1, 0, 1),
        ("red circle", "red", 0, 0, 0, 0),
        ("", "red", 0, 0, 0, 0),
        ("t-shirt", "tshirt", 0, 1, 0, 0),
        ("the red", "red", 0, 0, 0, 0),
    ],
)
def test_gqa(response, answer, exact, lmms, llava, vlmevalkit):
    names = ("gqa", "gqa@lmms-eval", "gqa@llava", "gqa@vlmevalkit")
    assert [score(name, response, answer) for name in names] == [exact, lmms, llava, vlmevalkit]


@pytest.mark.parametrize(
    ("response", "official", "lmms"),
    [
        ("B", 1, 1),
        ("b", 0, 1),
        ("B. a dog", 1, 1),
        ("B.", 0, 1),
        ("b. a dog", 0, 0),
        ("B)", 0, 0),
        ("(B)", 0, 0),
        (" B\n", 0, 1),
        ("The answer is B.", 1, 0),
        ("The answer is B. The answer is C.", 0, 0),
        ("A", 0, 0),
        ("", 0, 0),
    ],
)
def test_scienceqa(response, official, lmms):
    assert score("scienceqa", response, "B") == official
    assert score("scienceqa@lmms-eval", response, "B") == lmms


def test_what_no_rule_can_read_is_unparsed_and_wrong():
    assert METRICS["scienceqa"]("a dog", ["B"]) == (0.0, None, 0.0)
    assert METRICS["seed_bench"]("(B)", ["B"]) == (0.0, None, 0.0)
    assert METRICS["ai2d"]("a dog", ["B"]) == (0.0, None, 0.0)
    assert METRICS["pope@lmms-eval"]("Maybe.", ["yes"]) == (0.0, None, 0.0)
    assert METRICS["mmmu"]("A. red", ["A"], choices=["red", "blue"]) == (0.0, None, 0.5)  # officially a random letter


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("A", 1),
        ("a", 1),
        ("a.", 1),
        ("A)", 1),
        ("(A)", 1),
        ("A. cat", 1),
        ("A cat", 0),
        ("a. cat", 0),
        ("B", 0),
        ("", 0),
    ],
)
def test_ai2d(response, expected):
    assert score("ai2d", response, "A") == expected


@pytest.mark.parametrize(("response", "expected"), [("D", 1), ("Dog", 1), ("d", 1), ("(D)", 0), (" D.", 1), ("", 0)])
def test_seed_bench(response, expected):
    assert score("seed_bench", response, "D") == expected


@pytest.mark.parametrize(
    ("response", "official", "lmms", "vlmevalkit"),
    [
        ("Yes", "yes", "yes", "yes"),
        ("No", "no", "no", "no"),
        ("Yes.", "yes", None, "yes"),
        ("No, there is not.", "no", None, "no"),
        ("There is no dog. Yes", "no", None, None),
        ("NO", "yes", "no", "no"),  # neither No, nor not, nor no
        ("blah", "yes", None, None),
        ("Yes\nno", "yes", None, None),  # officially a word ends at a space only
        ("", "yes", None, None),
    ],
)
def test_pope(response, official, lmms, vlmevalkit):
    names = ("pope", "pope@lmms-eval", "pope@vlmevalkit")
    assert [METRICS[name](response, ["yes"]).parsed for name in names] == [official, lmms, vlmevalkit]
    assert METRICS["pope"](response, ["yes"]).score == float(official == "yes")


@pytest.mark.parametrize(
    ("response", "answer", "dataset", "expected"),
    [
        ("The sign says STOP", "stop", "", 1),
        ("two\nlines", "two lines", "", 1),
        ("10", "0", "", 1),
        ("sto p", "stop", "", 0),
        ("x ^ 2", "x^2", "HME100k", 1),
        ("X^2", "x^2", "HME100k", 0),
        ("", "a", "", 0),
    ],
)
def test_ocrbench(response, answer, dataset, expected):
    assert score("ocrbench", response, answer, dataset=dataset) == expected


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("B", "B"),
        ("(B)", "B"),
        ("B.", "B"),
        ("The answer is B", "B"),
        ("A or B", "B"),  # the last one
        ("(A) and B", "A"),  # brackets come first
        ("It must be the blue one, I think", "B"),
        ("blue", None),  # the text of an option counts in more than five words only
        ("It is red or rather blue in the end", "B"),
        ("", None),
        ("b", None),
    ],
)
def test_mmmu_choice(response, letter):
    assert parse_choice(response, ["red", "blue"]) == letter


def test_mmmu_open():
    assert normalise("1,234.567") == [1234.57]
    assert normalise("A") == [" a", "a "]
    assert parse_open("x = 1,200.") == {1200.0, 200.0}  # officially the tail of a number with commas is one more
    assert parse_open("So the answer is 3.5 cm.") == {"3.5 cm", 3.5}
    assert score("mmmu", "The answer is 3.5 cm.", "3.50") == 1
    assert score("mmmu", "The answer is 3.5 cm.", "3.6") == 0
    assert score("mmmu", "It is a triangle", "triangle", "circle") == 1
    assert score("mmmu", "-7", "-7") == 1
    assert score("mmmu", "7", "-7") == 0
    assert score("mmmu", "", "x") == 0


def test_a_question_without_references_is_an_error_not_a_zero():
    for name, metric in METRICS.items():
        with pytest.raises(ValueError, match=name):
            metric("x", [])


def test_every_benchmark_has_a_definition_under_its_plain_name_and_every_one_its_source():
    assert {metric.benchmark for metric in METRICS.values()} == {n for n in METRICS if "@" not in n}
    assert all(metric.source for metric in METRICS.values())
    assert METRICS["anls@pix2struct"].protocol == "pix2struct"
    assert METRICS["anls"].protocol == "official"
