"""Pictures looked at by their artists: what is drawn, where, in which colour, and that hostile titles stay text."""

import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from lxml import etree
from matplotlib.colors import to_hex
from PIL import Image

from conftest import ENCODER, LLM, make_evaluation, make_point, make_result
from harness.analysis.claims import Finding
from harness.analysis.composition import Result
from harness.analysis.table import table_of
from harness.report import figures
from harness.report.figures import COLOURS, FRONT, STAGE_COLOURS, STYLE, VERDICTS, draw_figures
from harness.schema import Claim
from harness.stats import Interval

TITLES = ("$\\frac{", "$x$ & <b>\x00\x1b[31m", "_hidden", "W" * 300, "-->\ufffe<!--", "a\nb\r$")


def point(encoder="one", llm="m", resolution=128, **changes):
    return make_point(
        encoder=ENCODER.model_copy(update={"name": encoder, "title": encoder, "features": 64 + len(encoder)}),
        llm=LLM.model_copy(update={"name": llm, "title": llm, "config": {**LLM.config, "hidden_size": 32 + len(llm)}}),
        resolution=resolution,
        **changes,
    )


def grid(**options):
    """Two encoders with one LLM, one of them with a second LLM as well, at three resolutions."""
    return table_of(
        make_result(point(encoder, llm, side), (0.5 * (k + 1),) * 6, right=(less + 8 * k, less + 6 * k), **options)
        for encoder, llm, less in (("one", "m", 2), ("two", "m", 1), ("one", "ll", 1))
        for k, side in enumerate((64, 128, 192))
    )


@pytest.fixture
def canvas():
    with plt.rc_context(STYLE):
        made = plt.figure(figsize=(6.6, 4.6))
        made.suptitle("title")
        yield made
        plt.close(made)


def panel(canvas, number=0):
    return canvas.axes[number]


def test_hostile_titles_and_suites_make_whole_svgs_and_safe_files_in_the_folder(tmp_path):
    results = []
    names = ("../../x", "user", "s" * 300, "$x_{")
    for title in TITLES[:3]:
        result = make_result(point(title, title), right=None)
        evaluations = {name: make_evaluation("doc_read", 10) for name in names}  # a suite called so would be refused
        planned = result.planned.model_copy(
            update={"evaluations": {name: evaluation.key for name, evaluation in evaluations.items()}}
        )
        results.append(Result(planned, result.measurements, evaluations))
    folder = tmp_path / "report"
    folder.mkdir()
    drawn = draw_figures(table_of(results), folder)
    assert [path for path in tmp_path.rglob("*") if path.parent != folder] == [folder]
    stems = [figure.stem for figure in drawn]
    assert len({stem.casefold() for stem in stems}) == len(stems) == 2 + len(names) + 1 + 3
    assert {path.stem for path in folder.iterdir()} == set(stems)
    for path in folder.glob("*.svg"):
        etree.fromstring(path.read_bytes())
        assert len(path.name) < 80
    assert all(figure.caption.isprintable() for figure in drawn)


@pytest.mark.parametrize("title", TITLES)
def test_a_title_is_text_that_fits_and_not_mathematics(title, canvas, tmp_path):
    table = table_of([make_result(point(title, title)), make_result(point(title, title, 64))])
    figures._breakdown(canvas, table, *figures._stages(table))
    canvas.savefig(tmp_path / "a.svg")
    etree.fromstring((tmp_path / "a.svg").read_bytes())
    for text in panel(canvas).get_yticklabels():
        assert len(text.get_text()) < 90
        assert not text.get_parse_math()


def test_the_frontier_stands_out_and_its_line_is_no_bar(canvas):
    table = grid()
    figures._frontier(canvas, table, "accuracy", "mean accuracy", "ttft_model")
    axes = panel(canvas)
    (band,) = [line for line in axes.lines if to_hex(line.get_color()).upper() == FRONT]
    bars = [bar for container in axes.containers for bar in container.lines[2]]
    assert band.get_linewidth() > 4 * max(bar.get_linewidths()[0] for bar in bars)
    points = [container.lines[0] for container in axes.containers]
    on = [line for line in points if line.get_markersize() > 5]
    off = [line for line in points if line.get_markersize() < 5]
    assert sum(len(line.get_xdata()) for line in on) == table["on_frontier"].sum()
    assert {line.get_alpha() for line in on} == {1.0}
    assert {line.get_alpha() for line in off} == {0.35}
    assert {text.get_text() for text in axes.texts} <= {"64", "128", "192"}
    (legend,) = canvas.legends
    assert legend.get_title().get_text() == "title"


def test_no_frontier_is_drawn_where_all_its_intervals_overlap(canvas):
    table = table_of(
        make_result(point(resolution=side), (k + 1,) * 6, right=(9 + k, 9 + k)) for k, side in enumerate((64, 128))
    )
    figures._frontier(canvas, table, "accuracy", "mean accuracy", "ttft_model")
    assert not [line for line in panel(canvas).lines if to_hex(line.get_color()).upper() == FRONT]
    said = figures._front_text(table, "accuracy", "ttft_model")
    assert said.startswith("The accuracy intervals of the 2 points that no other beats in both overlap")
    assert "On the yellow band: 3 of 9 points" in figures._front_text(grid(), "accuracy", "ttft_model")


def boxes(canvas, axes):
    canvas.draw_without_rendering()
    return [text.get_window_extent() for text in axes.texts]


@pytest.mark.parametrize("count", [2, 40])
def test_labels_do_not_cover_each_other(canvas, count):
    axes = canvas.add_subplot()
    places = [(str(100 + k), 1 + k % 7 / 50, 1 + k // 7 / 50) for k in range(count)]
    axes.plot([0, 2], [0, 2])
    figures._annotate(axes, places, [(x, y) for _, x, y in places])
    found = boxes(canvas, axes)
    assert 1 <= len(found) <= count
    for k, one in enumerate(found):
        assert not one.count_overlaps(found[k + 1 :])


def test_accuracy_ends_where_the_data_end_and_guessing_is_drawn_only_where_it_is_known(canvas):
    table = grid().assign(shapes_guess=0.25)
    figures._accuracy(canvas, table, ["doc_read", "shapes"])
    left, right = canvas.axes
    top = max(table["doc_read_high"].max(), table["shapes_high"].max())
    assert left.get_ylim() == pytest.approx((0, min(1.0, 1.06 * top)))
    dotted = [[line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == ":"] for axes in (left, right)]
    assert dotted == [[], [0.25]]


def test_latency_draws_an_encoder_once_and_prefill_against_visual_tokens(canvas):
    table = grid()
    figures._latency(canvas, table)
    left, right = canvas.axes
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["one", "two"]
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["m", "ll"]
    assert right.get_xlabel() == "visual tokens"
    lines = [container.lines[0] for container in right.containers]
    assert sorted(set(lines[0].get_xdata())) == sorted(set(table["visual_tokens"]))
    one, two = (container.lines[0] for container in left.containers)
    np.testing.assert_allclose(
        *(line.get_ydata().astype(float) for line in (one, two))
    )  # they lie on each other, and both are seen
    assert one.get_linestyle() != two.get_linestyle()
    assert one.get_markersize() > two.get_markersize()
    assert one.get_markerfacecolor() == "none"
    for axes, stage in ((left, "encode"), (right, "prefill")):
        low, high = axes.get_ylim()
        assert low > 0.8 * 1e3 * table[stage].min()
        assert high < 2.5 * 1e3 * table[stage].max()


def test_efficiency_has_lines_of_per_cent(canvas):
    figures._efficiency(canvas, grid())
    texts = [text.get_text().strip() for text in panel(canvas).texts]
    assert "100%" in texts
    shares = [text for text in texts if re.fullmatch(r"\d+%", text)]
    assert len(shares) >= 3
    assert len([line for line in panel(canvas).lines if line.get_linestyle() == "--"]) == len(shares) - 1


def test_breakdown_is_sorted_and_grouped_with_totals_and_without_invisible_stages(canvas):
    table = grid()
    for name in ("tokenize", "tokenize_low", "tokenize_high"):
        table[name] = 1e-6
    stages, rest = figures._stages(table)
    assert rest == ["tokenize"]
    figures._breakdown(canvas, table, stages, rest)
    axes = panel(canvas)
    texts = [text.get_text() for text in axes.texts]
    groups = [text for text in texts if " · " in text]
    assert sorted(groups) == ["one · ll", "one · m", "two · m"]
    totals = [float(text) for text in texts if text not in groups]
    assert totals == pytest.approx(1e3 * table.sort_values(["encoder", "llm", "resolution"])["ttft_user"], abs=0.1)
    assert [text.get_text() for text in axes.get_yticklabels()] == ["64 px", "128 px", "192 px"] * 3
    (legend,) = canvas.legends
    assert [text.get_text() for text in legend.get_texts()][-1] == "other"
    canvas.draw_without_rendering()
    assert not legend.get_window_extent().overlaps(axes.get_window_extent())
    assert not {c.lower() for c in STAGE_COLOURS.values()} & {c.lower() for c in COLOURS}


def finding(value, verdict, definition="ttft_paper", kind="ttft_ratio"):
    claim = Claim(id="a", statement="s", kind=kind, published=3.0, rounding=0.05, source="here")
    return Finding(claim, "slow", "$fast", definition, Interval(value, 0.9 * value, 1.1 * value), verdict)


def test_claims_have_a_title_numbers_the_verdicts_colour_and_say_who_is_faster(canvas, tmp_path):
    shown = [finding(3.5, "holds"), finding(2.0, "differs", "ttft_user")]
    figures._claims(canvas, shown)
    axes = panel(canvas)
    texts = {text.get_text(): text.get_color() for text in axes.texts}
    assert texts["3.5x"] == VERDICTS["holds"]
    assert texts["2x"] == VERDICTS["differs"]
    assert "3x" in texts
    assert "candidate faster" in axes.get_xlabel()
    assert axes.get_xlim()[0] < 1 < axes.get_xlim()[1]
    (drawn,) = figures.draw_claims(shown, pd.DataFrame(), tmp_path)
    assert "Right of 1 the candidate is faster. Bars: 95% intervals." in drawn.caption
    etree.fromstring((tmp_path / "claims.svg").read_bytes())
    with Image.open(tmp_path / "claims.png") as picture:
        assert picture.width > 1000


def test_bars_are_named_only_where_there_are_any():
    one_block = table_of([make_result(scales=(1.0,), right=None)])
    assert figures._bars(one_block, "ttft_user") == ""
    assert figures._bars(grid(), "accuracy") == " Bars: 95% intervals."
    assert "Bars" not in figures._front_text(one_block.assign(accuracy=0.5), "accuracy", "ttft_model")


def test_a_picture_is_named_once_even_if_a_suite_is_called_like_another(tmp_path):
    gallery = figures.Gallery(tmp_path)
    for name in ("frontier-user", "frontier-user", "Frontier-User"):
        gallery.add(name, name, "c", pd.DataFrame(), lambda canvas: canvas.add_subplot(), 2.0)
    assert len({figure.stem.casefold() for figure in gallery.figures}) == 3
    assert len(list(tmp_path.glob("*.png"))) == 3
