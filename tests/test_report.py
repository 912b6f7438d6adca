import base64
import json
import random
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from conftest import (
    ENCODER,
    LLM,
    MACHINE,
    failed_measurement,
    make_evaluation,
    make_measurement,
    make_point,
    make_result,
)
from harness.analysis.claims import Finding
from harness.analysis.composition import Result, load_results
from harness.analysis.table import scores_of, table_of
from harness.report import write_report
from harness.report.__main__ import DEFAULTS, main, parse
from harness.report.page import checks, notes_of, verdict
from harness.report.tables import blocks, deviation, percentile, readable
from harness.schema import HarnessError, Samples
from harness.storage import store


def grid(last=(16, 16), **options):
    results = []
    for k, resolution in enumerate((64, 128)):
        for encoder in ("a", "b"):
            spec = ENCODER.model_copy(update={"name": encoder, "title": f"encoder {encoder}", "features": ord(encoder)})
            scale = (k + 1) * (2 if encoder == "b" else 1)
            point = make_point(encoder=spec, resolution=resolution)
            results.append(make_result(point, (scale,) * 6, right=(5 + 5 * k, last[k]), **options))
    return results


def failed(reason="hung"):
    result = make_result(make_point(resolution=192), right=None)
    bad = failed_measurement(status="timeout", reason=reason, component=result.measurements["encoder"][0].component)
    return Result(result.planned, {**result.measurements, "encoder": {0: bad}}, {})


def elsewhere(result, **changes):
    machine = MACHINE.model_copy(update=changes)
    measurements = {
        kind: {b: v.model_copy(update={"machine": machine}) for b, v in found.items()}
        for kind, found in result.measurements.items()
    }
    return Result(result.planned, measurements, result.evaluations)


def test_frame_has_accuracy_with_errors_and_the_frontier():
    table = table_of(grid())
    assert table["doc_read"].tolist() == [0.25, 0.25, 0.5, 0.5]
    assert table["accuracy"].tolist() == pytest.approx([0.525, 0.525, 0.65, 0.65])
    assert table["on_frontier"].tolist() == [True, False, True, False]
    assert table["source"].unique().tolist() == ["composed"]
    assert table["encode_p99"].isna().all()


def test_a_missing_number_is_missing_never_zero():
    table = table_of([make_result(), failed()])
    assert pd.isna(table["encode"][1])
    assert pd.isna(table["accuracy"][1])
    assert "ttft_fused" not in table.columns  # nothing was measured directly
    shown = readable(table)
    assert shown["encode ms"][1] == "–"
    assert shown["frontier"][1] == "timeout: encoder, block 0: hung"


@pytest.mark.parametrize("changes", [{"host": "f" * 8}, {"driver": "550"}, {"governor": "powersave"}])
def test_machines_have_frontiers_and_curves_of_their_own(changes):
    slow = elsewhere(make_result(scales=(2.0,) * 6), **changes)
    table = table_of([make_result(), slow])
    assert table["on_frontier"].tolist() == [True, True]
    assert table["encoder_title"].nunique() == 2


def test_a_row_says_what_was_measured_directly_and_how_far_the_sum_is_off():
    table = table_of([make_result(scales=(1.1,) * 6, direct=(1.0,) * 6), make_result(make_point(resolution=64))])
    assert table["source"].tolist() == ["composed, checked directly", "composed"]
    row = table.iloc[0]
    assert deviation(row, "residual_ttft_model") == "+10.0% (+10.0 to +10.0)"
    assert deviation(table.iloc[1], "residual_ttft_model") == "–"
    assert row["direct_ttft_model"] == pytest.approx(15 * 1.035e-3)
    assert percentile(row, "encode_p95").startswith("n/a (n=")
    assert blocks(row) == "6"


def write(tmp_path, results):
    for result in results:
        for entry in (
            *(v for found in result.measurements.values() for v in found.values()),
            *result.evaluations.values(),
        ):
            store.append(tmp_path / "results", entry)
    absent = make_result(make_point(resolution=1024), right=None).planned
    keys = {kind: f"absent {kind}" for kind in absent.components}
    points = [result.planned for result in results] + [absent.model_copy(update={"components": keys})]
    store.write_manifest(tmp_path / "results", store.make_manifest("any", "A <title>", points, "command"))
    return write_report(tmp_path / "results", "any", tmp_path / "reports")[0]


def test_report_names_what_is_missing_and_what_failed_and_escapes_everything(tmp_path):
    folder = write(tmp_path, [*grid(), failed("<script>alert(1)</script>")])
    page = (folder / "index.html").read_text()
    assert "1 of the sweep" in page
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "A &lt;title&gt;" in page
    assert (
        "measured on test processor (cpu, float32, 1 thread), 2026-01-02; batch 1, 36 passes of each encoder;" in page
    )
    assert "protocol v2: 6 blocks, in each 1 and 0 s warm-up, 6–6 passes" in page
    assert (folder / "frontier.svg").stat().st_size > 5000
    assert "rest on disturbed blocks" not in page


def test_report_says_when_something_else_used_the_machine(tmp_path):
    result = make_result()
    rough = {b: v.model_copy(update={"disturbed": True}) for b, v in result.measurements["llm"].items()}
    folder = write(tmp_path, [Result(result.planned, {**result.measurements, "llm": rough}, result.evaluations)])
    page = (folder / "index.html").read_text()
    assert "1 of 1 point rests on disturbed blocks" in page
    assert "rests on 6 disturbed" in (folder / "table.md").read_text()


def test_report_of_points_without_accuracy_has_no_frontier_but_latency(tmp_path):
    point = make_point()
    folder = write(tmp_path, [make_result(point, right=None, no_accuracy="no accuracy: random", direct=(1.0,) * 6)])
    assert not (folder / "frontier.png").exists()
    for stem in ("latency", "breakdown", "efficiency"):
        assert (folder / f"{stem}.png").stat().st_size > 5000
    page = (folder / "index.html").read_text()
    assert "no accuracy: random" in page
    assert "off the whole VLM measured directly" in page


def test_report_of_failures_only_still_opens(tmp_path):
    folder = write(tmp_path, [failed("SIGSEGV")])
    assert "timeout: encoder, block 0: SIGSEGV" in (folder / "index.html").read_text()
    assert not list(folder.glob("*.png"))


def test_the_report_needs_no_torch():
    code = "import sys, harness.report; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


SHOWCASE = Path(__file__).parent.parent / "docs" / "showcase"


def test_a_page_is_one_file_with_a_verdict_on_top_and_scores_folded_by_suite(tmp_path):
    folder = write(tmp_path, grid(last=(0, 20)))
    page = (folder / "index.html").read_text()
    assert page.startswith("<!doctype html>")
    start = page.index("</h1>")
    said = '<p class="verdict">2 of 4 points are on the frontier; fastest: encoder a'
    assert page[start + len("</h1>") :].lstrip().startswith(said)
    sources = re.findall(r'src="([^"]+)"', page)
    assert len(sources) == len(list(folder.glob("*.png"))) >= 6
    for source in sources:
        kind, content = source.split(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(content).startswith(b"\x89PNG")
    assert not re.findall(r'(?:href|src)="(?!data:)', page)
    assert re.findall(r"<summary>(.*?)</summary>", page) == ["doc_read: 4 figures", "shapes: 4 figures"]
    assert "width=device-width" in page
    columns = re.findall(r"<th>(.*?)</th>", page[page.index("All points") :])
    assert columns.index("accuracy") < 7


def test_a_report_is_made_again_from_its_own_records(tmp_path):
    folder = write(tmp_path, [make_result(right=None)])
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert main(["any", f"results={tmp_path / 'reports'}", f"reports={tmp_path / 'again'}"]) == 0
    again = {path.name: path.read_bytes() for path in (tmp_path / "again" / "any").iterdir()}
    assert {name for name in before if not name.endswith(".lock")} == set(again)
    assert all(content == before[name] for name, content in again.items())


@pytest.mark.parametrize("name", ["resolution", "claims"])
def test_the_showcase_is_what_its_records_say(name, tmp_path):
    for file in (store.MANIFEST, store.MEASUREMENTS, store.EVALUATIONS):
        (tmp_path / name).mkdir(exist_ok=True)
        shutil.copyfile(SHOWCASE / name / file, tmp_path / name / file)
    _, points = load_results(tmp_path, name)
    shown, made = pd.read_csv(SHOWCASE / name / "table.csv"), table_of(points)
    assert list(shown.columns) == list(made.columns)
    for column in made.columns:
        if pd.api.types.is_numeric_dtype(made[column]):
            np.testing.assert_allclose(shown[column].astype(float), made[column].astype(float), rtol=1e-9)


def test_the_verdict_says_what_was_found_and_claims_nothing_more():
    assert verdict(pd.DataFrame()) == "Nothing was timed."
    assert verdict(table_of(grid(last=(0, 20)))).startswith(
        "2 of 4 points are on the frontier; fastest: encoder a at 64 px with micro Qwen2, 15.5"
    )
    alone = table_of([make_result()])
    assert verdict(alone).startswith(
        "1 of 1 point is on the frontier; the fastest is the most accurate; most accurate: "
    )
    plain = verdict(table_of([make_result(right=None), make_result(make_point(resolution=64), (2.0,) * 6, right=None)]))
    assert plain.startswith(
        "2 points timed, without accuracy; fastest: micro FastViTHD at 128 px with micro Qwen2, 15.5 ms"
    )
    assert "accuracy " not in plain.partition("without accuracy")[2]
    close = [make_result(make_point(resolution=64 * k), (k,) * 6, right=(8 + k, 8 + k)) for k in (1, 2)]
    assert verdict(table_of(close)).startswith(
        "No frontier is claimed, because the intervals of its accuracies all overlap"
    )
    two = verdict(table_of([make_result(), elsewhere(make_result(), host="f" * 8)]))
    assert two.startswith("2 of 2 points are on the frontier of 2 machines, each for itself")
    findings = [Finding(None, "", "", "", None, text) for text in ("holds", "holds", "differs", "undecided")]
    assert verdict(pd.DataFrame(), findings).startswith(
        "Of 4 comparisons with a published claim 2 hold, 1 differs, 1 is undecided;"
    )


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
        "100.0% of a point's passes (mean over points) are marked as disturbed; "
        "no other is left, so that all of them count"
    ]
    (text,) = [text for text in checks(table_of([rough(make_result(), encoder=some)])) if "marked" in text]
    assert text.startswith(
        "5.6% of a point's passes (mean over points) are marked as disturbed; medians leave marked passes out"
    )
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
        "1 of 1 encoder at one input have more than one value in the table: the measurements are the same"
    )
    assert not [text for text in checks(table_of([of("one", ()), of("two", ())])) if "more than one value" in text]


def test_a_note_that_is_the_same_for_many_points_is_said_once():
    rows = [
        {"no_accuracy": f"no accuracy: {name} have random weights here", "encoder": name, "llm": "l"} for name in "abc"
    ]
    rows += [{"no_accuracy": "no accuracy: d + l have random weights here", "encoder": "d", "llm": "l"}]
    assert notes_of(pd.DataFrame(rows)) == ["4 points: no accuracy: these parts have random weights here"]
    assert notes_of(pd.DataFrame(rows[:1])) == ["no accuracy: a have random weights here"]


def changed(result, kind, **changes):
    """The first block's measurement of this kind with these fields."""
    blocks = dict(result.measurements[kind])
    blocks[0] = blocks[0].model_copy(update=changes)
    return Result(result.planned, {**result.measurements, kind: blocks}, result.evaluations)


def samples(measurement, **changes) -> Samples:
    return measurement.samples.model_copy(update=changes)


def inconsistent():
    """Results that the schema allows and that do not fit together, with the reason that a reader is told."""
    good = make_result()
    encoder, llm = good.measurements["encoder"][0], good.measurements["llm"][0]
    seconds = encoder.samples.seconds
    edit = partial(changed, good, "encoder")
    wrong = samples(encoder, seconds={**seconds, "encode": (0.0,) * 7})
    yield edit(samples=wrong), "encoder, block 0: encode is said to have taken 0 s"
    yield edit(component=llm.component), "encoder, block 0: the record is of a component of another kind (llm)"
    apart = {block + 6: measurement for block, measurement in good.measurements["llm"].items()}
    yield (
        Result(good.planned, {**good.measurements, "llm": apart}, good.evaluations),
        "its components were never measured in one block; run the sweep again",
    )
    only = good.planned.model_copy(update={"components": {"encoder": good.planned.components["encoder"]}})
    yield (
        Result(only, good.measurements, good.evaluations),
        "its components are encoder; connector, encoder, llm make it up",
    )
    evaluation = good.evaluations["doc_read"]
    graded = evaluation.model_copy(update={"score": evaluation.score.model_copy(update={"metric": "nope"})})
    yield (
        Result(good.planned, good.measurements, {**good.evaluations, "doc_read": graded}),
        "doc_read: the metric nope does not exist; there are: ",
    )


@pytest.mark.parametrize(
    ("result", "reason"), inconsistent(), ids=lambda value: str(value)[:40] if isinstance(value, str) else ""
)
def test_records_that_do_not_fit_are_a_failed_point_with_its_reason(result, reason):
    other = make_result(make_point(resolution=64))
    table = table_of([result, other])
    assert table["status"].tolist() == ["error", "ok"]
    assert table["reason"][0].startswith(reason)
    assert table["ttft_model"].notna()[1]
    assert readable(table)["frontier"][0].startswith(f"error: {reason}")
    assert len(scores_of([result, other])) >= 2
    if not reason.startswith("doc_read"):
        assert not result.timed
        assert result.times() == {}
        assert "ttft_model" not in table or pd.isna(table["ttft_model"][0])
    else:
        assert pd.isna(table["doc_read"][0])
        assert pd.isna(table["accuracy"][0])  # a mean over fewer suites would be another number


def test_a_stage_that_takes_no_time_on_a_coarse_clock_is_a_number():
    result = make_result()
    blocks = {
        block: measurement.model_copy(
            update={"samples": samples(measurement, seconds={**measurement.samples.seconds, "transfer": (0.0,) * 7})}
        )
        for block, measurement in result.measurements["encoder"].items()
    }
    both = {
        b: v.model_copy(update={"samples": samples(v, seconds={**v.samples.seconds, "transfer": (0.0,) * 7})})
        for b, v in result.measurements["llm"].items()
    }
    (row,) = table_of([Result(result.planned, {**result.measurements, "encoder": blocks, "llm": both}, {})]).to_dict(
        "records"
    )
    assert (row["status"], row["transfer"]) == ("ok", 0.0)


def mutated(value, rng):
    """A JSON value with one change somewhere in it."""
    if isinstance(value, dict) and value:
        key = rng.choice(list(value))
        rest = {name: each for name, each in value.items() if name != key}
        return rest if rng.random() < 0.08 else {**value, key: mutated(value[key], rng)}
    if isinstance(value, list) and value:
        at, chance = rng.randrange(len(value)), rng.random()
        if chance < 0.3:
            return value[:at] if chance < 0.2 else value * 2
        return [*value[:at], mutated(value[at], rng), *value[at + 1 :]]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return rng.choice([0, -1, 1, -value, value * 10**6, 1e300, 1e-300, 10**30, 0.5, 7])
    return rng.choice(
        ["", "<b>", "$x_{", "a\nb\r|", "=1", "../../x", "x" * 400, "\x1b", "error", "vlm", "mm_vet", None]
    )


def mutations(seed):
    """A valid sweep in which one record was changed so that the schema still takes it."""
    rng = random.Random(seed)
    results = [make_result(scales=(1.0, 1.1), direct=(1.0, 1.0)), make_result(make_point(resolution=64), (2.0,))]
    results.append(Result(results[1].planned, results[1].measurements, {}))
    while True:
        which = rng.randrange(2)
        result = results[which]
        if rng.random() < 0.3:
            name = rng.choice(list(result.evaluations))
            try:
                evaluation = type(result.evaluations[name]).model_validate_json(
                    json.dumps(mutated(json.loads(result.evaluations[name].model_dump_json()), rng))
                )
            except (ValueError, HarnessError):
                continue
            results[which] = Result(result.planned, result.measurements, {**result.evaluations, name: evaluation})
        else:
            kind = rng.choice(list(result.measurements))
            measurement = result.measurements[kind][0]
            field = rng.choice(["samples", "component", "work", "ceilings", "memory", "disturbed", "block"])
            try:
                content = json.loads(measurement.model_dump_json())
                measurement = type(measurement).model_validate_json(
                    json.dumps({**content, field: mutated(content[field], rng)})
                )
            except (ValueError, HarnessError):
                continue
            results[which] = Result(
                result.planned,
                {**result.measurements, kind: {**result.measurements[kind], 0: measurement}},
                result.evaluations,
            )
        return results[:2]


def test_whatever_a_record_holds_that_the_schema_takes_the_tables_are_made(tmp_path):
    from harness.report.tables import write_tables

    for seed in range(40):
        results = mutations(seed)
        table = table_of(results)
        write_tables(table, scores_of(results), tmp_path)
        assert len(table) == 2
        assert set(table.loc[table["status"] != "ok", "reason"].map(bool)) <= {True}
        verdict(table)
        checks(table.dropna(subset=["ttft_user"]) if "ttft_user" in table else table.iloc[:0])


@pytest.mark.parametrize("seed", [3])
def test_whatever_a_record_holds_that_the_schema_takes_a_whole_report_is_made(seed, tmp_path):
    page = (write(tmp_path, mutations(seed)) / "index.html").read_text()
    assert page.count('<p class="verdict">') == 1


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        ([], DEFAULTS),
        (["a"], {**DEFAULTS, "sweep": "a"}),
        (["a", "b", "c"], {"sweep": "a", "results": "b", "reports": "c", "refresh": "false"}),
        (["reports=r", "a", "refresh=true"], {**DEFAULTS, "sweep": "a", "reports": "r", "refresh": "true"}),
    ],
)
def test_arguments_by_place_and_by_name(given, chosen):
    assert parse(given) == chosen


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["a", "b", "c", "d"], "d: at most 3 places are expected"),
        (["report=x"], "report=x: unknown; there are sweep=, results=, reports=, refresh=; did you mean reports=?"),
        (["--force"], "--force: unknown; there are sweep="),
        (["a", "sweep=b"], "sweep=b: sweep is given twice (a before)"),
        (["sweep="], "sweep=: a value is expected"),
        (["no_such"], "no sweep 'no_such' under results"),
        (["../x"], "sweep=../x: the name of a sweep is expected, not a path"),
        ([".."], "sweep=..: the name of a sweep is expected, not a path"),
        (["a" * 5000], "sweep=aaa"),
        (["\x1b[31m"], "'\\x1b[31m' is not the name of a sweep"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(given, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(given) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {said}")
    assert err.rstrip("\n").isprintable()
    assert len(err) < 320
    assert list(tmp_path.iterdir()) == []


def test_help_names_every_argument(capsys):
    assert main(["any", "--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"  {name}=" in said for name in DEFAULTS)


def test_a_submission_that_cannot_be_written_costs_only_itself(tmp_path):
    result = make_result(right=None)
    evaluation = make_evaluation("llava_bench", 3)
    suite = evaluation.suite.model_copy(update={"metric": "", "submission": "llava_bench"})
    answers = tuple(answer.model_copy(update={"score": None}) for answer in evaluation.score.answers)
    score = evaluation.score.model_copy(update={"metric": "", "answers": answers})
    evaluation = evaluation.model_copy(update={"suite": suite, "score": score})
    planned = result.planned.model_copy(update={"evaluations": {"llava_bench": evaluation.key}})
    page = (
        write(tmp_path, [Result(planned, result.measurements, {"llava_bench": evaluation})]) / "index.html"
    ).read_text()
    assert "not written for submission: question 0: its record has no question" in page


def test_a_report_made_again_has_the_same_numbers_unless_it_is_refreshed(tmp_path, monkeypatch, capsys):
    """A later sweep that measures one of its components again changed the report under its old name and date."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("harness.report.write.draw_figures", lambda *_: [])  # pictures take seconds
    root, result = tmp_path / "results", make_result()
    for found in result.measurements.values():
        store.append(root, *found.values())
    store.append(root, *result.evaluations.values())
    manifest = store.make_manifest("mine", "Mine", [result.planned], "command")
    pins = store.Contents.of(root).pin([result.planned])
    store.write_manifest(root, manifest.model_copy(update={"pins": pins}))
    assert main(["mine"]) == 0
    before = (tmp_path / "reports" / "mine" / "table.csv").read_bytes()
    slower = result.measurements["encoder"][0].component
    store.append(
        root, *(make_measurement(block=block, scale=2.0, component=slower, started="2026-02-03") for block in range(6))
    )
    assert main(["mine"]) == 0
    assert (tmp_path / "reports" / "mine" / "table.csv").read_bytes() == before
    capsys.readouterr()
    assert main(["mine", "refresh=true"]) == 0
    said = capsys.readouterr().out
    assert "changed: encoder micro_fastvithd 128px: encode 4.14 ms (6 blocks) -> encode 8.28 ms (6 blocks)" in said
    assert (tmp_path / "reports" / "mine" / "table.csv").read_bytes() != before
    assert main(["mine", "refresh=true"]) == 0
    assert "nothing newer is in the store" in capsys.readouterr().out
    assert main(["mine", "refresh=perhaps"]) == 2
    assert "refresh=perhaps: true or false is expected" in capsys.readouterr().err
