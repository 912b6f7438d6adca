"""Published scores beside measured latencies, marked as what they are."""

import pandas as pd
import pytest

from conftest import ENCODER, LLM, make_point, make_result
from harness.analysis.published import HERE, encoder_latencies, read_scores, with_published
from harness.analysis.table import table_of
from harness.report.sections.points import readable
from harness.report.write import write_report
from harness.schema import Connector, HarnessError, Measurement, System
from harness.storage import store

RECIPE = "LLaVA-1.5"


def point(encoder, llm, resolution, stride=64):
    return make_point(
        encoder=ENCODER.model_copy(update={"title": encoder, "name": encoder, "stride": stride, "crop": True}),
        llm=LLM.model_copy(update={"title": llm, "name": llm}),
        resolution=resolution,
    )


def results():
    points = [point("FastViTHD", "Qwen2-0.5B", 1024), point("ViT-L/14", "Vicuna-7B", 336, 14)]
    points.append(point("Other", "None", 256))
    return [make_result(point=p, right=None) for p in points]


def test_a_score_is_joined_by_encoder_llm_resolution_and_recipe(tmp_path):
    table = with_published(table_of(results()), tmp_path, RECIPE)
    assert table["accuracy"].tolist()[0] == pytest.approx(0.5589)
    assert table["published_TextVQA"].tolist()[1] == pytest.approx(0.582)
    assert pd.isna(table["accuracy"].tolist()[2])  # nothing was published: missing, not zero
    assert table["accuracy_source"].tolist()[0].startswith("published, LLaVA-1.5: ")
    cells = readable(table)["accuracy"].tolist()
    assert cells[0] == "0.559 (published)"
    assert cells[2] == "–"


def test_encoders_with_as_many_tokens_keep_their_own_scores(tmp_path):
    """Two points of one LLM, resolution and number of tokens: neither has the other's scores."""
    pair = [
        point("FastViTHD", "Vicuna-7B", 512),
        point("ConvNeXt-L", "Vicuna-7B", 512, 32),
        point("Own", "Vicuna-7B", 512),
    ]
    table = with_published(table_of([make_result(point=p, right=None) for p in pair]), tmp_path, RECIPE)
    assert table["published_TextVQA"].tolist()[:2] == pytest.approx([0.593, 0.610])
    assert pd.isna(table["published_TextVQA"].tolist()[2])


def test_an_average_needs_all_of_its_five(tmp_path):
    (tmp_path / "published").mkdir()
    scores = read_scores(tmp_path)
    mine = scores[(scores["encoder"] == "FastViTHD") & (scores["metric"] != "Avg5") & (scores["metric"] != "GQA")]
    mine.to_csv(tmp_path / "published" / "accuracy.csv", index=False)
    table = with_published(table_of(results()), tmp_path, RECIPE)
    assert "accuracy" not in table.columns or table["accuracy"].isna().all()


def test_a_report_says_that_its_accuracies_are_published(tmp_path):
    found = results()
    for result in found:
        for blocks in result.measurements.values():
            for measurement in blocks.values():
                store.append(tmp_path, measurement)
    store.write_manifest(
        tmp_path, store.make_manifest("mine", "Mine", [result.planned for result in found], "command", RECIPE)
    )
    folder, _ = write_report(tmp_path, "mine", tmp_path / "reports")
    page = (folder / "index.html").read_text()
    assert "accuracies are published values, not measured here" in page
    assert "Published scores, not measured here" in page
    assert len(store.read_all(tmp_path, Measurement)) > 3


@pytest.mark.parametrize(
    ("content", "said"),
    [("a,b\n1,2\n", "the column encoder is missing"), ("", "not readable")],
)
def test_a_file_that_is_none_is_named(content, said, tmp_path):
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "accuracy.csv").write_text(content)
    with pytest.raises(HarnessError, match=said):
        read_scores(tmp_path)


def test_a_recipe_that_nobody_published_is_named(tmp_path):
    with pytest.raises(HarnessError, match=r"published_recipe=mine: .*LLaVA-1\.5"):
        with_published(table_of(results()), tmp_path, "mine")


def test_every_published_figure_has_its_source():
    for name in ("accuracy", "encoder_latency", "prefill_latency", "claims"):
        table = pd.read_csv(HERE / f"{name}.csv")
        assert len(table) > 10
        assert table["source"].notna().all()


def test_a_system_has_the_scores_of_its_name_and_number_of_tokens(tmp_path):
    system = System(name="m3_7b", title="LLaVA-1.5-M3-7B", source="tests")
    pooled = Connector(name="m3_36", title="M3 to 36", kind="average_pool", args={"shrink": 4}, shrink=4)
    whole = point("ViT-L/14", "Vicuna-7B", 336, 14)
    fewer = whole.model_copy(update={"model": whole.model.model_copy(update={"system": system, "connector": pooled})})
    table = with_published(table_of([make_result(point=p, right=None) for p in (whole, fewer)]), tmp_path, RECIPE)
    assert table["published_POPE"].tolist() == pytest.approx([0.859, 0.855])
    assert table["published_TextVQA"].isna().tolist() == [False, True]
    assert table["accuracy"].isna().tolist() == [False, True]  # Avg-5 needs its five
    assert table["encoder_title"].tolist() == ["ViT-L/14", "LLaVA-1.5-M3-7B, 36 tokens"]


def test_both_series_of_fastvithds_latencies_stand_side_by_side(tmp_path):
    table = encoder_latencies(table_of(results()), tmp_path)
    both = table[table["encoder"] == "FastViTHD"]
    assert both["series"].tolist() == ["main", "table4"]
    assert both["published"].tolist() == pytest.approx([0.1163, 0.2356])
    assert both["here"].tolist() == pytest.approx([4 * 1.035e-3] * 2)
    assert table["encoder"].tolist() == ["FastViTHD", "FastViTHD", "ViT-L/14"]


def test_a_picture_for_each_metric_that_more_points_have_than_the_average(tmp_path):
    found = results()
    for result in found:
        for blocks in result.measurements.values():
            for measurement in blocks.values():
                store.append(tmp_path, measurement)
    path = tmp_path / "published" / "accuracy.csv"
    path.parent.mkdir()
    path.write_text(
        "recipe,system,encoder,llm,resolution,visual_tokens,metric,score,source\n"
        "r,,FastViTHD,Qwen2-0.5B,1024,256,POPE,80,t\nr,,ViT-L/14,Vicuna-7B,336,576,POPE,70,t\n"
        "r,,Other,None,256,16,POPE,60,t\n"
    )
    store.write_manifest(
        tmp_path, store.make_manifest("mine", "Mine", [result.planned for result in found], "command", "r")
    )
    folder, _ = write_report(tmp_path, "mine", tmp_path / "reports")
    assert (folder / "published-POPE.png").is_file()
    assert not (folder / "frontier.png").exists()
    assert "Published latencies of the same encoders" in (folder / "index.html").read_text()
