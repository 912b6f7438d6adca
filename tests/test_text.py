"""What a report writes into Markdown, CSV and pictures, whatever its records hold."""

import csv
import io
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.report.text import cell, decimals, inert, joined, label, markdown, number_of, quantity, unit_for, write_csv
from harness.schema import file_stem, one_line

HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "a|b",
    "a\r| b |\n",
    "`code` ``",
    "[x](javascript:alert(1))",
    "![x](http://evil.example/a.png)",
    "<http://evil.example>",
    "https://evil.example www.evil.example a@evil.example",
    "**bold** __bold__ _it_ *it* ~~gone~~",
    "&lt;b&gt; &amp;",
    "\\| \\",
    "\x00\x1b[31mred\x07",
    "$\\frac{1}{0}$ $x",
    "=cmd|' /C calc'!A0",
    "A\u202eB\ufffe",
)


@pytest.mark.parametrize(("count", "said"), [(0, "0 points"), (1, "1 point"), (2, "2 points")])
def test_one_thing_has_no_plural(count, said):
    assert number_of(count, "point") == said
    assert number_of(1, "pass", "passes") == "1 pass"
    assert number_of(3, "pass", "passes") == "3 passes"


@pytest.mark.parametrize("text", HOSTILE)
def test_a_markdown_cell_shows_exactly_its_text(text):
    parser = (
        pytest.importorskip("markdown_it").MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    )
    tokens = parser.parse(markdown(pd.DataFrame({"a": [text, "next"], "b": ["other", text]})))
    inline = [token for token in tokens if token.type == "inline"]
    assert len(inline) == 6  # two heads, four cells: nothing was split
    for token in inline:
        assert {child.type for child in token.children} <= {"text", "text_special", "html_entity"}
    shown = ["".join(child.content for child in token.children) for token in inline]
    assert shown[2] == shown[5] == one_line(text, 2000)


def test_github_makes_no_link_of_a_bare_address():
    for text in ("https://evil.example", "see www.evil.example", "a@evil.example"):
        assert not any(part in cell(text) for part in ("://", "www.", "@evil"))
    assert cell("FastVLM-0.5B @1024, anls@pix2struct") == "FastVLM-0.5B @1024, anls@pix2struct"
    assert cell("doc_read") == "doc_read"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "＝1"])
def test_a_spreadsheet_computes_nothing_of_a_text(text, tmp_path):
    path = tmp_path / "a.csv"
    write_csv(pd.DataFrame({text: [text, "plain"], "n": [-1.5, 2.0]}), path)
    rows = list(csv.reader(io.StringIO(path.read_text())))
    assert rows[0][0].startswith("'")
    assert rows[1] == [f"'{one_line(text)}", "-1.5"]
    assert rows[2] == ["plain", "2.0"]


def test_numbers_are_read_back_as_they_were(tmp_path):
    table = pd.DataFrame(
        {
            "text": ["-1", None, "a\x00b\rc"],
            "number": [-1.0e-7, math.nan, math.inf],
            "whole": [-1, 2, 3],
            "flag": [True, False, True],
            "mixed": pd.Series([-0.25, None, "-x"], dtype=object),
        }
    )
    write_csv(table, tmp_path / "a.csv")
    back = pd.read_csv(tmp_path / "a.csv")
    np.testing.assert_array_equal(back["number"], table["number"])
    assert back["whole"].tolist() == [-1, 2, 3]
    assert back["flag"].tolist() == [True, False, True]
    assert back["text"].fillna("").tolist() == ["'-1", "", "a\\x00b c"]
    assert back["mixed"].fillna("").tolist() == ["-0.25", "", "'-x"]
    assert inert(-3) == -3


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text_is_one_printable_line_in_a_cell_and_in_a_label(text):
    for made in (cell(text), label(text), str(inert(text))):
        assert made.isprintable()
        assert not made.startswith(("=", "+", "-", "@")) or made in (cell(text), label(text))
    assert len(label(text)) <= 41
    assert not label(text).startswith("_")


@settings(max_examples=200, deadline=None)
@given(st.text(), st.text())
def test_a_file_stem_is_a_name_in_its_folder_and_two_names_have_two(one, other):
    for stem in (file_stem(one), file_stem(other)):
        assert 0 < len(stem) <= 60
        assert stem.isascii()
        assert not set(stem) & set("/\\: \0")
        assert not stem.startswith(".")
    assert (file_stem(one) == file_stem(other)) == (one == other)


@pytest.mark.parametrize(
    ("value", "low", "high", "said"),
    [
        (6.2345, 5.86, 6.80, "6.23 (5.86–6.80)"),
        (22.8712, 20.31, 26.21, "22.9 (20.3–26.2)"),
        (37.2897, 35.8267, 39.2200, "37.3 (35.8–39.2)"),
        (112.47, 58.7, 216.9, "112 (59–217)"),
        (3.2112, 3.2009, 3.2215, "3.211 (3.201–3.221)"),
        (37.2897, -math.inf, math.inf, "37.3 (1 block)"),
        (0.0, 0.0, 0.0, "0 (0–0)"),
    ],
)
def test_a_value_has_the_digits_that_its_interval_supports(value, low, high, said):
    assert quantity(value, low, high) == said


def test_times_are_seconds_from_ten_on():
    assert unit_for([0.001, 9.99]) == ("ms", 1e3)
    assert unit_for([0.001, 10.0, math.nan]) == ("s", 1.0)
    assert unit_for([]) == ("ms", 1e3)
    assert decimals(5000.0, 1000.0, 9000.0) == 0


@pytest.mark.parametrize(
    ("parts", "said"), [([], ""), (["a"], "a"), (["a", "b"], "a and b"), (list("abc"), "a, b and c")]
)
def test_parts_of_a_sentence(parts, said):
    assert joined([*parts]) == said
