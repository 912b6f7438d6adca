"""Guessing and the majority answer against values worked out by hand; a blind run against each question asked alone."""

import io
import json
import math

import pandas as pd
import pytest
import torch
from PIL import Image
from test_questions import rows_of, write

from benchmarks.checkpoints import KINDS
from conftest import MACHINE, make_point, make_result, make_score, talkative
from harness.analysis.composition import Result, compose
from harness.analysis.table import blind_like, scores_of, table_of
from harness.evaluate import answers
from harness.evaluate.baselines import GREY, Baselines, baselines_of, is_blind_like, mean_baselines, priors
from harness.models.answering import Composed
from harness.models.hub import load_hub
from harness.models.preprocess import decode_image, pixel_tensor
from harness.models.vlm import load_vlm
from harness.progress import Progress
from harness.report.cells import NOT_SEEN, against, score
from harness.report.sections.points import readable
from harness.report.sections.scores import readable_scores
from harness.report.write import write_report
from harness.schema import Answer, Prior, evaluation_key
from harness.stats import Difference
from harness.storage import store
from harness.suites.questions import Question, load
from harness.suites.tasks import load_suite
from harness.timing.executors import Outcome
from harness.timing.plan import make_plan
from harness.timing.session import Session

RESOLUTION = 128


# Guessing and the majority answer, by hand


def ask(*references, kind="", options=0, **facts):
    return Question("", "", references, "", kind, facts, options)


def only(metric, *questions, **more):
    (found,) = priors(metric, questions, **more)
    return found


def test_yes_or_no_is_a_half_and_the_majority_is_counted():
    found = only("gqa", ask("yes"), ask("yes"), ask("yes"), ask("no"))
    assert (found.form, found.guess, found.majority, found.answer) == ("yes/no", 0.5, 0.75, "yes")
    assert only("gqa", ask("yes"), ask("yes")).guess == 0.5  # no is possible, though it is never right
    assert only("gqa", ask("Yes"), ask("No")).guess == 0.5  # as the references spell it: this metric tells them apart
    for metric in ("pope", "pope@lmms-eval", "anls", "relaxed_accuracy", "vqa_accuracy@molmo"):
        references = ["yes"] * 10, ["no"] * 10
        assert only(metric, ask(*references[0]), ask(*references[1])).guess == 0.5


def test_each_multiple_choice_has_its_own_options():
    found = only("ai2d", ask("A", options=2), ask("B", options=4), ask("B", options=4))
    assert (found.form, found.answer) == ("options", "B")
    assert found.guess == pytest.approx((1 / 2 + 1 / 4 + 1 / 4) / 3)
    assert found.majority == pytest.approx(2 / 3)
    late = only("scienceqa@lmms-eval", ask("D", options=4), ask("A", options=2))
    assert late.guess == pytest.approx((1 / 4 + 1 / 2) / 2)
    assert late.majority == 0.5
    assert only("seed_bench", *[ask("C", options=4)] * 3).guess == 0.25
    assert only("mmmu", ask("A", options=3, choices=["x", "y", "z"])).guess == pytest.approx(1 / 3)


def test_anls_gives_guesses_their_partial_credit():
    # abcd and abce are 1/4 apart, so each earns 0.75 of the other; xyzw has nothing in common with them.
    found = only("anls", ask("abcd"), ask("abce"), ask("xyzw"))
    assert found.guess == pytest.approx((1 + 0.75 + 0 + 0.75 + 1 + 0 + 0 + 0 + 1) / 9)
    assert (found.majority, found.answer) == (pytest.approx(1.75 / 3), "abcd")
    assert only("anls", ask("ab"), ask("ac")).guess == 0.75  # exactly 0.5 is kept
    assert only("anls@pix2struct", ask("ab"), ask("ac")).guess == 0.5  # and not by this definition


def test_vqa_accuracy_counts_what_few_people_said():
    cats, dogs = ["cat"] * 7 + ["dog"] * 3, ["dog"] * 10
    found = only("vqa_accuracy", ask(*cats), ask(*dogs))
    # cat earns 1 and 0. Dog earns 0.9 of the first: seven see three of it, three see two; and 1 of the second.
    assert found.guess == pytest.approx((1 + 0.9 + 0 + 1) / 4)
    assert (found.majority, found.answer) == (pytest.approx(0.95), "dog")


def test_other_metrics_judge_by_their_own_rules():
    near = only("relaxed_accuracy", ask("100"), ask("103"), ask("red"))  # 100 and 103 are within 5% of each other
    assert near.guess == pytest.approx(5 / 9)
    assert near.majority == pytest.approx(2 / 3)
    within = only("ocrbench", ask("stop"), ask("stop now"))  # the longer one contains the other
    assert within.guess == pytest.approx(3 / 4)
    assert (within.majority, within.answer) == (1.0, "stop now")


def test_kinds_and_forms_stand_apart_and_texts_that_differ_in_case_are_one():
    found = priors("gqa@lmms-eval", [ask("red", kind="a"), ask("Red", kind="a"), ask("yes", kind="a"), ask("2")])
    assert [(p.kind, p.form, p.questions, p.guess) for p in found] == [
        ("", "open", 1, 1.0),
        ("a", "open", 2, 1.0),
        ("a", "yes/no", 1, 0.5),
    ]
    assert priors("", [ask("red")]) == ()  # others judge


def test_beyond_the_budget_a_seed_chooses_and_the_record_says_so():
    questions = [ask(str(k % 100)) for k in range(2000)] + [ask("7")] * 40
    exact, drawn = only("gqa", *questions), only("gqa", *questions, budget=400)
    assert (exact.exact, drawn.exact) == (True, False)
    assert (exact.guess, exact.majority, exact.answer) == (pytest.approx(0.01), pytest.approx(60 / 2040), "7")
    assert (drawn.majority, drawn.answer) == (exact.majority, "7")  # the commonest are looked at first
    assert abs(drawn.guess - exact.guess) < 0.03
    assert drawn == only("gqa", *questions, budget=400)


# A score beside its baselines


def seen(*rows):
    """(image, kind, score) of each question."""
    answers = [
        Answer(question_id=str(n), image=image, kind=kind, text="", parsed="", score=value)
        for n, (image, kind, value) in enumerate(rows)
    ]
    return make_score("shapes", 0).model_copy(update={"answers": tuple(answers)})


def test_a_score_is_held_against_its_blind_run_question_by_question():
    given = seen(("a", "x", 1.0), ("a", "y", 0.0), ("b", "x", 1.0), ("b", "y", 0.5), ("c", "x", 1.0), ("c", "y", 0.0))
    grey = seen(("a", "x", 0.0), ("a", "y", 0.0), ("b", "x", 0.0), ("b", "y", 0.5), ("c", "x", 1.0), ("c", "y", 0.0))
    both = baselines_of(given, grey)
    assert both.blind == pytest.approx(1.5 / 6)
    assert both.above_blind == pytest.approx(2 / 6)
    # Differences by image: 1, 1 and 0 of two questions each; about their mean 2/3: 1/3, 1/3, -2/3.
    error = math.sqrt(2 * (1 / 3) ** 2 + (2 / 3) ** 2) / 6
    assert both.above_blind_stderr == pytest.approx(error)
    assert both.above_blind_low == pytest.approx(2 / 6 - 4.302653 * error)  # Student's t of three images
    assert both.blind_like is True
    assert baselines_of(given, grey, "y").above_blind == 0
    assert baselines_of(given, grey, "y").blind_like is True
    assert baselines_of(given, None) == Baselines()


@pytest.mark.parametrize(
    ("low", "marked"), [(-0.01, True), (0.0, True), (1e-9, False), (-math.inf, True), (math.nan, True)]
)
def test_a_score_is_marked_where_the_interval_reaches_down_to_nothing(low, marked):
    assert is_blind_like(Difference(0.1, 0.05, low, 0.2, 10, 5)) is marked


def test_priors_of_kinds_add_up_by_their_questions():
    made = {"form": "open", "exact": True}
    known = (
        Prior(kind="x", questions=3, guess=0.2, majority=0.4, answer="red", **made),
        Prior(kind="y", questions=1, guess=0.6, majority=0.8, answer="2", **made),
    )
    given = seen(("a", "x", 1.0)).model_copy(update={"priors": known})
    whole = baselines_of(given, None)
    assert (whole.guess, whole.majority, whole.majority_answer) == (pytest.approx(0.3), pytest.approx(0.5), "red, 2")
    assert baselines_of(given, None, "y").guess == 0.6
    old = seen(("a", "x", 1.0))  # a record from before: its blind run is of the same questions
    assert baselines_of(old, given).majority == pytest.approx(0.5)


def test_the_mean_over_suites_has_its_own_baselines():
    one = Baselines(0.1, 0.2, "a", 0.3, 0.4, 0.2, 0.6, 0.03, False)
    other = Baselines(0.3, 0.4, "b", 0.1, 0.0, -0.2, 0.2, 0.04, True)
    mean = mean_baselines([one, other])
    assert (mean.guess, mean.majority, mean.blind) == (pytest.approx(0.2), pytest.approx(0.3), pytest.approx(0.2))
    assert mean.above_blind_low == pytest.approx(0.2 - 1.96 * 0.05 / 2)
    assert mean.blind_like is False
    assert math.isnan(mean_baselines([one, Baselines(0.1, 0.2)]).blind)


# The blind run


@pytest.fixture(scope="module")
def vlm(vlm_folder):
    return talkative(load_vlm(vlm_folder))


@pytest.fixture(scope="module")
def model(vlm):
    return Composed(vlm, RESOLUTION, "w")


def grey(suite):
    return suite.model_copy(update={"image": "grey"})


@torch.inference_mode()
def naive(vlm, suite):
    """Each question alone, about a grey image of its own, from whole forward passes without a cache."""
    texts = []
    questions = load(suite)
    for asked in questions.asked:
        (stored,) = questions.images[asked.image]
        image = decode_image(stored)
        image.paste((128, 128, 128), (0, 0, *image.size))
        visual = vlm.project(vlm.encode(pixel_tensor(image, vlm.spec.encoder, RESOLUTION)))
        before, after = vlm.question_ids(asked.prompt)
        said = []
        while len(said) < suite.max_new_tokens:
            prompt = vlm.prompt(visual, torch.tensor([before]), torch.tensor([[*after, *said]]))
            token = int(vlm.llm(inputs_embeds=prompt).logits[0, -1].argmax())
            if token == vlm.end:
                break
            said.append(token)
        texts.append(vlm.tokenizer.decode(said, skip_special_tokens=True))
    return texts


def sizes_of(name, folder, sizes):
    """Data in a benchmark's schema whose images have these sizes, in turns."""
    rows = rows_of(name, 2 * len(sizes))
    for number, row in enumerate(rows):
        Image.new("RGB", sizes[number // 2], (number // 2, 99, 7)).save(out := io.BytesIO(), "PNG")
        row["image"] = {"bytes": out.getvalue(), "path": None}
    return load_suite(name, data=str(write(folder, name, rows)))


@pytest.mark.parametrize("name", ["shapes", "scene_text", "docvqa", "pope"])
def test_a_blind_run_is_what_each_question_alone_gets_about_a_grey_image(name, vlm, model, tmp_path):
    suite = load_suite(name, 5) if name in ("shapes", "scene_text") else None
    suite = suite or sizes_of(name, tmp_path / "data", [(40, 30), (30, 40), (64, 64)])
    given, blind = answers.answer_suite(model, suite), answers.answer_suite(model, grey(suite))
    assert [answer.text for answer in blind.answers] == naive(vlm, suite)
    assert [(a.question_id, a.image, a.kind) for a in blind.answers] == [
        (a.question_id, a.image, a.kind) for a in given.answers
    ]
    assert (blind.data, blind.priors) == (given.data, given.priors)
    assert blind.priors
    assert sum(prior.questions for prior in blind.priors) == len(blind.answers)
    assert answers.answer_suite(model, grey(suite), reuse=False).answers == blind.answers


def test_what_reaches_the_encoder_is_grey_once_and_each_distinct_question_is_asked_once(vlm, model, monkeypatch):
    suite = load_suite("shapes", 12)
    shown, asked = [], []
    encode, generate = vlm.encode, answers.Engine._generate
    monkeypatch.setattr(vlm, "encode", lambda pixels: shown.append(pixels) or encode(pixels))
    monkeypatch.setattr(
        answers.Engine, "_generate", lambda self, *given: asked.extend(given[1]) or generate(self, *given)
    )
    score = answers.answer_suite(model, grey(suite))
    (pixels,) = shown
    assert tuple(pixels.shape) == (1, 3, RESOLUTION, RESOLUTION)
    assert torch.allclose(pixels, torch.full_like(pixels, (GREY / 255 - 0.5) / 0.25), atol=1e-6)
    distinct = {question.prompt for question in load(suite).asked}
    assert len(asked) == len(distinct) < len(score.answers)


def test_grey_images_are_one_where_the_models_own_preprocessing_makes_them_alike(model, vlm_folder, tmp_path):
    """Padding in the mean's grey cannot be told from the image; a colour of its own can."""
    sizes = [(40, 30), (30, 40), (64, 64)]
    suite = sizes_of("docvqa", tmp_path / "data", sizes)
    images = load(suite).images
    assert set(answers.greyed(model, images).values()) == {"grey-40x30"}
    tinted = load_vlm(vlm_folder)
    tinted.spec = tinted.spec.model_copy(
        update={"encoder": tinted.spec.encoder.model_copy(update={"mean": (0.48, 0.46, 0.41)})}
    )
    found = answers.greyed(Composed(tinted, RESOLUTION), images)
    assert list(found.values()) == ["grey-40x30", "grey-30x40", "grey-64x64"]


def test_a_published_vlm_is_shown_grey_by_its_own_processor(tmp_path):
    torch.manual_seed(0)
    suite = sizes_of("docvqa", tmp_path / "data", [(128, 128), (150, 90), (300, 180)])
    square = load_hub(KINDS["llava"](tmp_path / "llava"))
    assert len(set(answers.greyed(square, load(suite).images).values())) == 1  # cropped to a square
    native = load_hub(KINDS["qwen2_vl"](tmp_path / "qwen2_vl"))
    names = answers.greyed(native, load(suite).images)
    assert len(set(names.values())) > 1  # as many tokens as the image has
    blind = answers.answer_suite(native, grey(suite))
    alone = []
    for question in load(suite).asked:
        engine = answers.Engine(
            native, {"x": answers.grey_image(answers._size_of(*load(suite).images[question.image]))}
        )
        with torch.inference_mode():
            (text,) = engine.answer([engine.ask("x", question.prompt, suite.max_new_tokens, suite.until)]).texts
        alone.append(text)
    assert [answer.text for answer in blind.answers] == alone
    prepared = native.prepare(answers.grey_image("grey-128x128"), ["?"])
    channels = prepared.image["pixel_values"].reshape(-1, 3, prepared.image["pixel_values"].shape[-1] // 3)
    assert float(channels.std(dim=(0, 2)).max()) < 1e-6  # each channel is one value


def test_a_blind_run_that_is_killed_goes_on_and_repeats_nothing(model, tmp_path, monkeypatch):
    suite = grey(load_suite("shapes", 12))
    straight = answers.answer_suite(model, suite)
    journal = tmp_path / "journal.jsonl"
    generate, asked = answers.Engine._generate, []

    def counting(engine, prefilled, chosen, most):
        asked.extend(key for key, _, _ in chosen)
        return generate(engine, prefilled, chosen, most)

    def dying(engine, prefilled, chosen, most):
        if len(asked) >= 4:
            raise KeyboardInterrupt
        return counting(engine, prefilled, chosen, most)

    monkeypatch.setattr(answers.Engine, "_generate", dying)
    with pytest.raises(KeyboardInterrupt):
        answers.answer_suite(model, suite, journal=journal, decode_batch=2)
    kept = [json.loads(line)["key"] for line in journal.read_text().splitlines()]
    assert sorted(kept) == sorted(asked)  # answers about one image are kept before all of them are there
    assert len(kept) >= 4
    monkeypatch.setattr(answers.Engine, "_generate", counting)
    resumed = answers.answer_suite(model, suite, journal=journal)
    assert resumed.answers == straight.answers
    assert resumed.resumed == len(kept)
    assert len(asked) == len(set(asked)) == len({question.prompt for question in load(suite).asked})


def test_many_prompts_about_one_image_are_made_some_at_a_time(vlm, model, monkeypatch):
    suite = grey(load_suite("shapes", 12))
    straight = answers.answer_suite(model, suite)
    monkeypatch.setattr(answers, "PROMPTS", 5)
    assert answers.answer_suite(model, suite).answers == straight.answers


@torch.inference_mode()
def test_prompts_with_heads_of_their_own_take_turns(tmp_path):
    """PaliGemma's prompts share no head: each has a cache, and only some are kept at a time."""
    torch.manual_seed(0)
    model = load_hub(KINDS["paligemma"](tmp_path / "paligemma"))
    engine = answers.Engine(model, {"x": answers.grey_image("grey-64x64")}, encode_batch=2)
    asks = [engine.ask("x", f"What is {k}?", 3) for k in range(7)]
    encoded = []
    encode = model.encode
    model.encode = lambda prepared: encoded.append(len(prepared)) or encode(prepared)
    together = engine.answer(asks).texts
    assert encoded == [1]
    assert together == tuple(answers.Engine(model, engine.images).answer([ask]).texts[0] for ask in asks)


# Keys, plans, failures


def test_the_keys_of_records_stay_what_they_are():
    found = {
        name: evaluation_key(make_point(), load_suite(name), MACHINE, "rows") for name in ("doc_read", "ai2d", "pope")
    }
    assert found == {"doc_read": "698769c2558857a1", "ai2d": "22c0c1ad6f0c153e", "pope": "fab875e98676a8c9"}
    suite = load_suite("doc_read")
    assert evaluation_key(make_point(), grey(suite), MACHINE, "rows") != found["doc_read"]


def plan_of(**more):
    suites = (load_suite("shapes", 2), load_suite("mm_vet"))
    point = make_point(weights="w", checkpoint="shipped:tiny_vit-tiny_qwen2_m", suites=suites)
    return make_plan([(point, "command")], {"cpu": MACHINE}, "rows", 0, **more)


def test_each_suite_that_is_scored_is_planned_blind_as_well():
    assert plan_of().points[0].blind == {}
    plan = plan_of(blind=True)
    (planned,) = plan.points
    assert list(planned.evaluations) == ["shapes", "mm_vet"]  # what others judge has nothing to be held against
    assert list(planned.blind) == ["shapes"]
    assert [suite.image for _, suite in plan.evaluations.values()] == ["given", "grey", "given"]


class Asking:
    """A worker whose evaluations end as `script` says, by what is shown."""

    def __init__(self, script):
        self.script, self.asked = script, []

    def evaluate(self, point, suite, timeout, progress, journal):
        self.asked.append((suite.name, suite.image))
        return self.script[suite.image]

    def stop(self):
        pass


def taken(tmp_path, given, unseen):
    plan = plan_of(blind=True)
    (planned,) = plan.points
    keys = [planned.evaluations["shapes"], planned.blind["shapes"]]
    session = Session(plan, tmp_path, 12, 0, Progress(1), Asking({"given": given, "grey": unseen}))
    session.ask_all(keys)
    return session.executor.asked, compose(
        store.make_manifest("any", "any", plan.points, "command"), {}, store.load(tmp_path)[1]
    )


def right(count):
    score = make_score("shapes", count).model_copy(update={"metric": "gqa@lmms-eval"})
    return Outcome("ok", score=score)


BROKEN = Outcome("timeout", "no sign of life for 12 s")


def test_a_blind_run_that_fails_is_a_record_with_its_reason_and_no_number(tmp_path):
    asked, (result,) = taken(tmp_path, right(12), BROKEN)
    assert asked == [("shapes", "given"), ("shapes", "grey")]
    assert (result.status, result.reason) == ("timeout", "shapes blind: no sign of life for 12 s")
    assert result.blind["shapes"].score is None
    row = table_of([result]).iloc[0]
    assert row["shapes"] == 0.6
    assert "shapes_blind" not in row
    assert "shapes_blind_like" not in row
    assert NOT_SEEN not in score(row, "shapes")
    cells = readable_scores(scores_of([result]))
    assert "timeout: blind run: no sign of life for 12 s" in cells["statistic"].tolist()
    assert blind_like(scores_of([result])) == []


def test_where_an_evaluation_fails_nobody_waits_for_its_blind_run(tmp_path):
    asked, (result,) = taken(tmp_path, BROKEN, right(3))
    assert asked == [("shapes", "given")]
    assert result.reason == "shapes: no sign of life for 12 s"


def test_a_blind_run_of_other_questions_is_not_held_against_a_score(tmp_path):
    other = right(3).score.model_copy(update={"data": "1"})
    _, (result,) = taken(tmp_path, right(12), Outcome("ok", score=other))
    assert result.status == "error"
    assert "shapes blind: it was asked other questions than the evaluation" in result.reason
    assert "shapes_blind" not in table_of([result])


# What is shown


def pair(count, unseen, **changes):
    """A point with a blind run of each suite and baselines."""
    result = make_result(right=(count, count), **changes)
    known = (Prior(kind="any", form="open", questions=20, guess=0.1, majority=0.25, answer="yes"),)
    evaluations, blind = {}, {}
    for suite, evaluation in result.evaluations.items():
        noun = grey(evaluation.suite)
        scored = make_score(suite, unseen).model_copy(update={"priors": known})
        evaluations[suite] = evaluation.model_copy(
            update={"score": evaluation.score.model_copy(update={"priors": known})}
        )
        key = evaluation_key(evaluation.point, noun, MACHINE, "")
        blind[suite] = evaluation.model_copy(update={"key": key, "suite": noun, "score": scored})
    planned = result.planned.model_copy(
        update={"blind": {suite: evaluation.key for suite, evaluation in blind.items()}}
    )
    return Result(planned, result.measurements, evaluations, blind)


def test_the_table_has_the_baselines_and_marks_scores_as_good_as_blind():
    table = table_of([pair(20, 4), pair(11, 10)])
    for suite in ("doc_read", "shapes", "accuracy"):
        assert table[f"{suite}_guess"].tolist() == pytest.approx([0.1] * 2)
        assert table[f"{suite}_majority"].tolist() == pytest.approx([0.25] * 2)
        assert table[f"{suite}_blind"].tolist() == pytest.approx([0.2, 0.5])
        assert table[f"{suite}_above_blind"].tolist() == pytest.approx([0.8, 0.05])
        assert table[f"{suite}_blind_like"].tolist() == [False, True]
    shown = readable(table)
    assert [NOT_SEEN in cell for cell in shown["doc_read"]] == [False, True]
    assert shown["doc_read: guess / majority / blind"].tolist() == [
        "0.100 / 0.250 / 0.200",
        "0.100 / 0.250 / 0.500",
    ]
    assert against(pd.Series({"x_guess": 0.1}), "x") == "0.100 / – / –"
    assert against(pd.Series(dtype=float), "x") == "–"


def test_what_is_as_good_as_blind_is_said_in_a_line():
    said = blind_like(scores_of([pair(20, 4), pair(11, 10)]))
    assert said == [
        "1 of 2 points answer `doc_read` no better than blind",
        "1 of 2 points answer `shapes` no better than blind",
    ]
    assert blind_like(scores_of([make_result()])) == []


def test_a_report_shows_the_baselines_and_is_made_again_from_itself(tmp_path):
    results = [pair(20, 4), pair(11, 10, point=make_point(resolution=64))]
    for result in results:
        for blocks in result.measurements.values():
            store.append(tmp_path, *blocks.values())
        store.append(tmp_path, *result.evaluations.values(), *result.blind.values())
    manifest = store.make_manifest("any", "Any", [result.planned for result in results], "command")
    contents = store.Contents.of(tmp_path)
    store.write_manifest(tmp_path, manifest.model_copy(update={"pins": contents.pin(manifest.points)}))
    folder, points = write_report(tmp_path, "any", tmp_path / "reports")
    assert all(set(point.blind) == {"doc_read", "shapes"} for point in points)
    page = (folder / "index.html").read_text()
    assert "1 of 2 points answer doc_read no better than blind" in page
    assert "Ticks: the same model shown grey images. Hollow: within the error of the blind run (2 of 4)." in page
    assert NOT_SEEN in (folder / "table.md").read_text()
    scores = pd.read_csv(folder / "scores.csv")
    assert scores["majority_answer"].tolist() == ["yes"] * 4
    assert scores["blind_like"].tolist() == [False, False, True, True]
    again, _ = write_report(tmp_path / "reports", "any", tmp_path / "again")
    assert (again / "table.csv").read_bytes() == (folder / "table.csv").read_bytes()


def test_suites_of_published_benchmarks_know_their_options(tmp_path):
    forms = {}
    for name in ("ai2d", "scienceqa_img", "seed_bench", "mmmu_one_image", "pope", "docvqa"):
        suite = load_suite(name, data=str(write(tmp_path / name, name, rows_of(name))))
        found = priors(suite.metric, load(suite).asked)
        forms[name] = {(prior.form, round(prior.guess, 3)) for prior in found}
    assert forms["ai2d"] == forms["scienceqa_img"] == {("options", 0.5)}
    assert forms["seed_bench"] == {("options", 0.25)}
    assert forms["mmmu_one_image"] == {("options", 0.5), ("open", 1.0)}  # one open answer is possible there
    assert forms["pope"] == {("yes/no", 0.5)}
    assert forms["docvqa"] == {("open", 1.0)}
