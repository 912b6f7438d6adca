"""The sections of a page: which there are, in which order, and that what they hold stays text."""

import re

import pandas as pd
import pytest

from conftest import LLM, failed_measurement, install, make_point, make_report, make_result
from harness import registry
from harness.analysis.composition import Result
from harness.analysis.table import scores_of, table_of
from harness.report.page import prose, write_page
from harness.report.sections import Section, sections_of
from harness.report.sections.checks import checks, notes_of
from harness.report.sections.failures import section as failures
from harness.schema import HarnessError


def titles(report):
    above, below = sections_of(report)
    return [section.title for section in above], [section.title for section in below]


def failed(reason):
    result = make_result(make_point(resolution=192), right=None)
    bad = failed_measurement(status="timeout", reason=reason, component=result.measurements["encoder"][0].component)
    return Result(result.planned, {**result.measurements, "encoder": {0: bad}}, {})


def page_of(report, folder):
    write_page(report, [], folder)
    return (folder / "index.html").read_text()


def test_every_file_is_a_section_with_a_place():
    orders = [module.ORDER for module in registry.ordered("report.sections", "section")]
    assert len(orders) == len(set(orders)) == len(registry.modules("report.sections"))
    assert orders == sorted(orders)


def test_a_section_that_has_nothing_to_say_is_not_there():
    assert titles(make_report()) == ([], ["All points", "Glossary"])
    results = [make_result(), failed("hung")]
    assert titles(make_report(table_of(results), scores=scores_of(results))) == (
        ["Failed point"],
        ["Can these numbers be trusted?", "All points", "All scores", "Glossary"],
    )


def test_a_failed_point_has_its_reason_and_the_command_that_asks_it_again():
    section = failures(make_report(table_of([make_result(), failed("out of luck"), failed("hung")])))
    assert section.title == "Failed points"
    assert section.rows["what happened"].tolist() == [
        "timeout: encoder, block 0: out of luck",
        "timeout: encoder, block 0: hung",
    ]
    assert section.rows["point"].tolist() == ["micro_fastvithd 192 px micro_qwen2"] * 2
    assert section.rows["command"].str.startswith("python -m harness.sweep").all()


def test_a_table_may_be_folded_and_keeps_the_marks_of_its_rows():
    rows = pd.DataFrame({"suite": ["b", "a", "b"], "value": ["1", "2", "3"]})
    pieces = list(Section("t", rows=rows, folded_by="suite", marks=["x", "y", "z"]).tables())
    assert [(name, part["value"].tolist(), list(marks)) for name, part, marks in pieces] == [
        ("b", ["1", "3"], ["x", "z"]),
        ("a", ["2"], ["y"]),
    ]
    assert list(Section("t").tables()) == []


MINE = """
import pandas as pd

from harness.report.sections import Section


def section(report):
    return Section(
        "<Mine>", "It has `code` and **weight**, <b>not markup</b>.", pd.DataFrame({"a<b": ["<script>", "fine"]}),
        marks=["holds", ""], warnings=["<careful>"], remarks=[f"{len(report.points)} results <are> known"],
    )
"""


@pytest.mark.parametrize(("order", "before"), [("", None), ("ORDER = 25", "All points"), ("ORDER = 65", "All points")])
def test_a_section_of_an_installed_package_is_on_the_page_and_is_text(order, before, tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, "sections", mine=f"{order}\n{MINE}")
    page = page_of(make_report(table_of([make_result()]), points=[make_result()]), tmp_path)
    said = page[page.index("<h2>&lt;Mine&gt;</h2>") :]
    assert page.count("&lt;Mine&gt;") == 1
    assert (page.index("&lt;Mine&gt;") < page.index("<h2>All points")) == (before is not None)
    assert '<p class="note">&lt;careful&gt;</p>' in said
    assert "It has <code>code</code> and <b>weight</b>, &lt;b&gt;not markup&lt;/b&gt;." in said
    assert '<tr class="holds"><td>&lt;script&gt;</td></tr>\n<tr><td>fine</td></tr>' in said
    assert "<th>a&lt;b</th>" in said
    assert "1 results &lt;are&gt; known" in said


def test_a_section_without_a_function_is_refused_in_one_line(tmp_path, monkeypatch):
    package = install(tmp_path, monkeypatch, "sections", mine="")
    with pytest.raises(HarnessError, match=f"^section mine: {package}.mine has no function section$"):
        sections_of(make_report())


@pytest.mark.parametrize("text", ["<script>", "`<b>`", "**<b>**", "`**`**`", "&amp;", "** **", "``"])
def test_prose_is_escaped_whatever_it_holds(text):
    assert not re.sub(r"</?(code|b)>|&(lt|gt|amp|#39|#34);", "", str(prose(text))).count("<")
    assert "<script>" not in prose(text)


def rough(result, **marks):
    """Measurements of which these kinds have every pass after warm-up marked."""
    measurements = dict(result.measurements)
    for kind, mark in marks.items():
        measurements[kind] = {
            block: measurement.model_copy(
                update={"samples": measurement.samples.model_copy(update={"marks": ("", *mark)})}
            )
            for block, measurement in result.measurements[kind].items()
        }
    return Result(result.planned, measurements, result.evaluations)


def test_what_is_said_of_marked_passes_is_what_is_done_with_them():
    every, some = ("x",) * 6, ("", "", "", "", "", "x")
    all_marked = rough(make_result(), encoder=every, connector=every, llm=every)
    said = [text for text in checks(table_of([all_marked])) if "marked" in text]
    assert said == [
        "on average, 100.0% of a point's passes are marked as disturbed; none is left unmarked, so all of them count"
    ]
    (text,) = [text for text in checks(table_of([rough(make_result(), encoder=some)])) if "marked" in text]
    assert text.startswith("on average, 5.6% of a point's passes are marked as disturbed; medians leave them out")
    assert "no pass was marked as disturbed" in checks(table_of([make_result()]))


def test_one_encoder_with_two_values_on_a_page_is_explained():
    def of(llm, disturbed):
        wide = LLM.model_copy(update={"name": llm, "title": llm})
        result = make_result(make_point(llm=wide), (1.0, 1.1, 1.2, 1.3, 1.4, 1.5))
        blocks = {b: v.model_copy(update={"disturbed": b in disturbed}) for b, v in result.measurements["llm"].items()}
        return Result(result.planned, {**result.measurements, "llm": blocks}, result.evaluations)

    table = table_of([of("one", ()), of("two", (0, 1))])
    assert table["encode"].nunique() == 2
    (said,) = [text for text in checks(table) if "more than one value" in text]
    assert said.startswith(
        "1 of 1 encoder has more than one value for the same input in the table: the measurements are the same"
    )
    assert not [text for text in checks(table_of([of("one", ()), of("two", ())])) if "more than one value" in text]


def test_a_note_that_is_the_same_for_many_points_is_said_once():
    rows = [
        {"no_accuracy": f"no accuracy: {name} have random weights here", "encoder": name, "llm": "l"} for name in "abc"
    ]
    rows += [{"no_accuracy": "no accuracy: d + l have random weights here", "encoder": "d", "llm": "l"}]
    assert notes_of(pd.DataFrame(rows)) == ["4 points: no accuracy: these parts have random weights here"]
    assert notes_of(pd.DataFrame(rows[:1])) == ["no accuracy: a have random weights here"]
