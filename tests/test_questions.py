"""Every suite on tiny data in its benchmark's own schema, from rows to figures; what is wrong with a row is named."""

import io
import json
from pathlib import Path

import datasets
import pytest
from datasets import Features, Value
from PIL import Image

from conftest import talkative
from harness.analysis.scores import statistics_of
from harness.configuration.compose import options
from harness.evaluate import answers
from harness.models.answering import Composed
from harness.models.vlm import load_vlm
from harness.schema import DRAWN, HarnessError
from harness.suites import questions
from harness.suites.tasks import expand, load_suite, load_task, suite_of

TEXT, NUMBER = Value("string"), Value("int64")
TEXTS = datasets.List(TEXT)
PICTURE = datasets.Image()
RESOLUTION = 64


def picture(shade: int) -> dict[str, object]:
    out = io.BytesIO()
    Image.new("RGB", (40, 30), (shade, 255 - shade, shade // 2)).save(out, "PNG")
    return {"bytes": out.getvalue(), "path": None}


BASIC = {"question": TEXT, "image": PICTURE}
SCHEMAS = {
    "textvqa": (
        {**BASIC, "image_id": TEXT, "question_id": NUMBER, "answers": TEXTS, "ocr_tokens": TEXTS},
        lambda k: {"image_id": f"i{k}", "question_id": k, "answers": ["stop"] * 10, "ocr_tokens": ["stop", "go"]},
    ),
    "docvqa": (
        {**BASIC, "questionId": TEXT, "question_types": TEXTS, "docId": NUMBER, "answers": TEXTS},
        lambda k: {
            "questionId": str(k),
            "question_types": ["form", "table"],
            "docId": k // 2,
            "answers": ["12", "1.2"],
        },
    ),
    "infovqa": (
        {**BASIC, "questionId": TEXT, "answer_type": TEXTS, "answers": TEXTS},
        lambda k: {"questionId": str(k), "answer_type": ["single span"], "answers": ["12%"]},
    ),
    "gqa": (
        {"id": TEXT, "imageId": TEXT, "question": TEXT, "answer": TEXT},
        lambda k: {"id": str(k), "imageId": f"n{k // 2}", "answer": "yes"},
    ),
    "chartqa": (
        {**BASIC, "type": TEXT, "answer": TEXT},
        lambda k: {"type": ("human_test", "augmented_test")[k % 2], "answer": "0.5"},
    ),
    "ocrbench": (
        {**BASIC, "dataset": TEXT, "question_type": TEXT, "answer": TEXTS},
        lambda k: {"dataset": ("IIIT5K", "HME100k")[k % 2], "question_type": "Regular Text", "answer": ["word"]},
    ),
    "ai2d": ({**BASIC, "options": TEXTS, "answer": TEXT}, lambda k: {"options": ["cat", "dog"], "answer": str(k % 2)}),
    "scienceqa_img": (
        {**BASIC, "choices": TEXTS, "answer": NUMBER, "hint": TEXT, "subject": TEXT},
        lambda k: {"choices": ["cat", "dog"], "answer": k % 2, "hint": ("", "Look.")[k % 2], "subject": "biology"},
    ),
    "pope": (
        {**BASIC, "question_id": TEXT, "answer": TEXT, "category": TEXT},
        lambda k: {
            "question_id": str(k // 3),
            "answer": ("yes", "no")[k % 2],
            "category": ("random", "popular", "adversarial")[k % 3],
        },
    ),
    "seed_bench": (
        {
            "question": TEXT,
            "image": datasets.List(PICTURE),
            "question_id": TEXT,
            "data_type": TEXT,
            "answer": TEXT,
            "question_type_id": NUMBER,
        }
        | {f"choice_{c}": TEXT for c in "abcd"},
        lambda k: (
            {
                "question_id": f"q{k}",
                "data_type": ("image", "image", "image", "video")[k % 4],
                "answer": "B",
                "question_type_id": k % 2,
            }
            | {f"choice_{c}": f"the {c}" for c in "abcd"}
        ),
    ),
    "mmmu": (
        {"id": TEXT, "question": TEXT, "options": TEXT, "answer": TEXT, "question_type": TEXT}
        | {f"image_{n}": PICTURE for n in range(1, 8)},
        lambda k: {
            "id": f"validation_Art_{k}",
            "options": ("['red', 'blue']", "[]")[k % 2],
            "answer": ("A", "['3.5', 'three']")[k % 2],
            "question_type": ("multiple-choice", "open")[k % 2],
        },
    ),
    "vqav2": (
        {
            **BASIC,
            "question_id": NUMBER,
            "answer_type": TEXT,
            "answers": datasets.List({"answer": TEXT, "answer_confidence": TEXT, "answer_id": NUMBER}),
        },
        lambda k: {
            "question_id": k,
            "answer_type": "other",
            "answers": [{"answer": "red", "answer_confidence": "yes", "answer_id": n} for n in range(10)],
        },
    ),
}
SCHEMAS["textvqa_ocr"] = SCHEMAS["textvqa"]
SCHEMAS["mmmu_one_image"] = SCHEMAS["mmmu"]
EXTERNALLY_GRADED = {
    "mm_vet": (
        {**BASIC, "question_id": TEXT, "answer": TEXT, "capability": TEXT},
        lambda k: {"question_id": f"v1_{k}", "answer": "a<AND>b", "capability": "ocr"},
    ),
    "llava_bench": (
        {**BASIC, "gpt_answer": TEXT, "caption": TEXT, "category": TEXT},
        lambda k: {"gpt_answer": "A dog.", "caption": "a dog", "category": "conv"},
    ),
    "mmbench": (
        {**BASIC, "index": NUMBER, "hint": TEXT, "category": TEXT, "split": TEXT} | dict.fromkeys("ABCD", TEXT),
        lambda k: (
            {"index": 7 * k, "hint": ("nan", "Look.")[k % 2], "category": "ocr", "split": "test"}
            | {"A": "cat", "B": "dog", "C": "nan", "D": "nan"}
        ),
    ),
}
SCHEMAS |= EXTERNALLY_GRADED
PUBLISHED = sorted(SCHEMAS)


def rows_of(name: str, count: int = 6) -> list[dict[str, object]]:
    """Two questions an image."""
    features, make = SCHEMAS[name]
    rows = []
    for k in range(count):
        mark = "<image 1> " if name.startswith("mmmu") else ""
        row = {"question": f"what is {mark}number {k}?", **make(k)}
        shown = picture(40 * (k // 2))
        for column, feature in features.items():
            if isinstance(feature, datasets.Image):
                absent = column.startswith("image_") and column > ("image_1" if k else "image_2")
                row[column] = None if absent else picture(200) if column == "image_2" else shown
            elif isinstance(feature, datasets.List) and isinstance(feature.feature, datasets.Image):
                row[column] = [shown]
        rows.append(row)
    return rows


def write(folder: Path, name: str, rows: list[dict[str, object]], features=None) -> Path:
    """A folder in the hub's layout, with the configurations that the suite names."""
    source = load_suite(name).source
    tables = {(source.name or "default", source.split): (rows, features or SCHEMAS[name][0])}
    if source.images:
        shown = [{"id": f"n{k}", "image": picture(40 * k)} for k in range(3)]
        tables[source.images["name"], source.images["split"]] = (shown, {"id": TEXT, "image": PICTURE})
    lines = ["---", "configs:"]
    for (config, split), (content, schema) in tables.items():
        path = folder / config / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_list(content, features=Features(schema)).to_parquet(path)
        lines += [f"- config_name: {config}", "  data_files:", f"  - split: {split}", f"    path: {config}/{split}-*"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))
    return folder


@pytest.fixture(scope="module")
def vlm(vlm_folder):
    return talkative(load_vlm(vlm_folder))


def test_every_suite_with_data_of_its_own_is_tested_here():
    known = {name for name in options("suite") if expand(name) == [name] and load_suite(name).source.path != DRAWN}
    assert known == set(PUBLISHED)
    assert expand("avg5") == ["gqa", "textvqa", "pope", "docvqa", "seed_bench"]


@pytest.mark.parametrize("name", sorted(set(PUBLISHED) - {"mmmu"}))
def test_a_suite_runs_from_rows_to_figures(name, vlm, tmp_path):
    suite = load_suite(name, data=str(write(tmp_path / "data", name, rows_of(name))))
    found = questions.load(suite)
    left_out = ("seed_bench", "mmmu_one_image")  # a video, a question about two images
    expected = 5 if name in left_out else 6
    assert len(found.asked) == expected
    assert len(found.images) == 3
    assert len({asked.image for asked in found.asked}) == 3
    assert all("<image" not in asked.prompt for asked in found.asked)
    score = answers.answer_suite(Composed(vlm, RESOLUTION), suite)
    assert [answer.question_id for answer in score.answers] == [asked.question_id for asked in found.asked]
    if name in EXTERNALLY_GRADED:
        assert statistics_of(score) == []
        assert {(answer.score, answer.parsed) for answer in score.answers} == {(None, None)}
        return
    whole = statistics_of(score)[0]
    assert (whole.part, whole.what, whole.questions, whole.images) == ("all", "score", expected, 3)
    assert 0 <= whole.low <= whole.value <= whole.high <= 1


SUFFIX = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."


@pytest.mark.parametrize(
    ("name", "prompt", "references"),
    [
        ("textvqa", "What is number 1?" + SUFFIX, ("stop",) * 10),
        ("textvqa_ocr", "What is number 1?\nReference OCR token: stop, go" + SUFFIX, ("stop",) * 10),
        ("docvqa", "what is number 1?" + SUFFIX, ("12", "1.2")),
        ("gqa", "what is number 1?" + SUFFIX, ("yes",)),
        ("chartqa", "what is number 1?\nAnswer the question with a single word.", ("0.5",)),
        ("ocrbench", "what is number 1?", ("word",)),
        ("ai2d", "what is number 1?\nA. cat\nB. dog" + LETTER, ("B",)),
        ("scienceqa_img", "Context: Look.\nwhat is number 1?\nA. cat\nB. dog" + LETTER, ("B",)),
        ("pope", "what is number 1?" + SUFFIX, ("no",)),
        ("seed_bench", "what is number 1?\nA. the a\nB. the b\nC. the c\nD. the d" + LETTER, ("B",)),
        ("mmmu", "what is number 1?" + SUFFIX, ("3.5", "three")),
        ("mmmu_one_image", "what is number 1?" + SUFFIX, ("3.5", "three")),
        ("vqav2", "what is number 1?" + SUFFIX, ("red",) * 10),
        ("mm_vet", "what is number 1?", ()),
        ("llava_bench", "what is number 1?", ()),
        ("mmbench", "Look.\nwhat is number 1?\nA. cat\nB. dog" + LETTER, ()),
    ],
)
def test_prompts_and_references_are_those_of_the_benchmark(name, prompt, references, tmp_path):
    found = questions.load(load_suite(name, data=str(write(tmp_path / "data", name, rows_of(name)))))
    asked = next(question for question in found.asked if "number 1" in question.prompt)
    assert asked.prompt == prompt
    assert asked.answers == references


def test_kinds_and_facts(tmp_path):
    found = questions.load(load_suite("chartqa", data=str(write(tmp_path / "a", "chartqa", rows_of("chartqa")))))
    assert [asked.kind for asked in found.asked[:2]] == ["human", "augmented"]
    found = questions.load(load_suite("ocrbench", data=str(write(tmp_path / "b", "ocrbench", rows_of("ocrbench")))))
    assert [asked.facts for asked in found.asked[:2]] == [{"dataset": "IIIT5K"}, {"dataset": "HME100k"}]
    found = questions.load(load_suite("mmmu", data=str(write(tmp_path / "c", "mmmu", rows_of("mmmu")))))
    assert [asked.facts["choices"] for asked in found.asked[:2]] == [["red", "blue"], []]


def test_a_limit_is_of_images_and_keeps_all_their_questions(tmp_path):
    found = questions.load(load_suite("docvqa", 2, str(write(tmp_path / "data", "docvqa", rows_of("docvqa")))))
    assert (len(found.images), len(found.asked)) == (2, 4)


def damaged(name, change):
    rows = rows_of(name)
    change(rows)
    return rows


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("docvqa", lambda rows: rows[3].update(answers=[]), "split validation, row 3: answers is empty"),
        ("textvqa", lambda rows: rows[2].update(answers=None), "split validation, row 2: answers is empty"),
        ("docvqa", lambda rows: rows[4].update(questionId="1"), "row 4: the id '1' is that of row 1 already"),
        (
            "docvqa",
            lambda rows: rows[5].update(image={"bytes": b"no image", "path": None}),
            "row 5: image: unreadable image of 8 bytes: none of PNG, JPEG",
        ),
        ("textvqa", lambda rows: rows[1].update(image=None), "row 1: image: holds no stored image"),
        ("gqa", lambda rows: rows[1].update(imageId="n9"), "row 1: image: there is no picture 'n9'"),
        ("ai2d", lambda rows: rows[1].update(answer="many"), "row 1: answers:"),
        ("mmmu", lambda rows: rows[2].update(options="['red'"), "row 2: doc_to_text: SyntaxError"),
    ],
)
def test_a_bad_row_is_one_line_with_dataset_row_and_column(name, change, said, tmp_path):
    folder = write(tmp_path / "data", name, damaged(name, change))
    with pytest.raises(HarnessError) as error:
        questions.load(load_suite(name, data=str(folder)))
    assert said in str(error.value)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_column_is_named_with_those_that_are_there(tmp_path):
    rows = [{k: v for k, v in row.items() if k != "answers"} for row in rows_of("docvqa")]
    features = {k: v for k, v in SCHEMAS["docvqa"][0].items() if k != "answers"}
    folder = write(tmp_path / "data", "docvqa", rows, features)
    said = (
        r"DocVQA/validation-00000-of-00001.parquet: no column answers, which suite docvqa asks for; the columns are: "
    )
    with pytest.raises(HarnessError, match=said + "question, questionId, question_types, docId, image"):
        questions.load(load_suite("docvqa", data=str(folder)))


def test_a_missing_split_or_suite_is_one_line(tmp_path):
    folder = write(tmp_path / "data", "textvqa", rows_of("textvqa"))
    (folder / "README.md").write_text("")
    (folder / "default" / "validation-00000-of-00001.parquet").rename(folder / "train.parquet")
    with pytest.raises(HarnessError, match=r"data: no file of split validation, only of train; give the file itself"):
        questions.load(load_suite("textvqa", data=str(folder)))
    assert len(questions.load(load_suite("textvqa", data=str(folder / "train.parquet"))).asked) == 6
    with pytest.raises(HarnessError, match="unknown suite 'texvqa'; did you mean textvqa"):
        load_suite("texvqa")


def test_changed_data_is_not_taken_for_the_same(tmp_path):
    folder = write(tmp_path / "data", "docvqa", rows_of("docvqa"))
    before = load_suite("docvqa", data=str(folder))
    assert load_suite("docvqa", data=str(folder)) == before
    write(folder, "docvqa", rows_of("docvqa", 4))
    assert load_suite("docvqa", data=str(folder)) != before


def test_a_template_runs_no_code(tmp_path):
    folder = write(tmp_path / "data", "docvqa", rows_of("docvqa"))
    suite = load_suite("docvqa", data=str(folder))
    evil = suite.model_copy(update={"prompt": "{{ ''.__class__.__mro__[1].__subclasses__() }}"})
    with pytest.raises(HarnessError, match="doc_to_text: SecurityError"):
        questions.load(evil)


def test_a_killed_run_loses_no_answer_and_repeats_none(vlm, tmp_path, monkeypatch):
    suite = load_suite("docvqa", data=str(write(tmp_path / "data", "docvqa", rows_of("docvqa", 8))))
    straight = answers.answer_suite(Composed(vlm, RESOLUTION), suite)
    journal = tmp_path / "journal.jsonl"
    generate, asked = answers.Engine._generate, []

    def counting(engine, begun, chosen, most):
        asked.append(len(chosen))
        return generate(engine, begun, chosen, most)

    def dying(engine, begun, chosen, most):
        if len(asked) == 2:
            raise KeyboardInterrupt
        return counting(engine, begun, chosen, most)

    monkeypatch.setattr(answers.Engine, "_generate", dying)
    with pytest.raises(KeyboardInterrupt):
        answers.answer_suite(Composed(vlm, RESOLUTION, "w"), suite, journal=journal, encode_batch=1)
    kept = [json.loads(line) for line in journal.read_text().splitlines()]
    assert len(kept) == sum(asked) == 4
    journal.write_bytes(journal.read_bytes() + b'{"key": "torn')
    monkeypatch.setattr(answers.Engine, "_generate", counting)
    resumed = answers.answer_suite(Composed(vlm, RESOLUTION, "w"), suite, journal=journal)
    assert resumed.resumed == 4
    assert sum(asked) == 8  # each question once, over both runs
    assert resumed.answers == straight.answers
    assert answers.answer_suite(Composed(vlm, RESOLUTION, "w"), suite, journal=journal).resumed == 8
    assert answers.answer_suite(Composed(vlm, RESOLUTION, "other"), suite, journal=journal).resumed == 0


def test_an_image_that_is_not_whole_leaves_no_score_and_keeps_the_rest(vlm, tmp_path):
    rows = rows_of("docvqa")
    whole = picture(80)["bytes"]
    for row in rows[4:]:
        row["image"] = {"bytes": whole[:-25], "path": None}
    suite = load_suite("docvqa", data=str(write(tmp_path / "data", "docvqa", rows)))
    journal = tmp_path / "journal.jsonl"
    with pytest.raises(HarnessError, match=r"2 of 6 questions have no answer, so there is no score; the first is 4 "):
        answers.answer_suite(Composed(vlm, RESOLUTION), suite, journal=journal)
    assert len(journal.read_text().splitlines()) == 4


def test_exact_repeats_are_asked_once(vlm, tmp_path, monkeypatch):
    rows = rows_of("docvqa")
    for row in rows[1::2]:
        row["question"] = rows[rows.index(row) - 1]["question"]
    suite = load_suite("docvqa", data=str(write(tmp_path / "data", "docvqa", rows)))
    asked = []
    generate = answers.Engine._generate
    monkeypatch.setattr(
        answers.Engine, "_generate", lambda self, *args: asked.append(len(args[1])) or generate(self, *args)
    )
    score = answers.answer_suite(Composed(vlm, RESOLUTION), suite)
    assert sum(asked) == 3
    assert len(score.answers) == 6


def test_a_folder_that_changed_is_read_again_and_not_another_one_of_its_name(tmp_path):
    """The datasets library caches a local folder by its last name alone."""
    first = load_suite("docvqa", data=str(write(tmp_path / "one" / "docvqa", "docvqa", rows_of("docvqa", 4))))
    assert len(questions.load(first).asked) == 4
    second = load_suite("docvqa", data=str(write(tmp_path / "two" / "docvqa", "docvqa", rows_of("docvqa", 6))))
    assert len(questions.load(second).asked) == 6
    changed = load_suite("docvqa", data=str(write(tmp_path / "one" / "docvqa", "docvqa", rows_of("docvqa", 5))))
    assert len(questions.load(changed).asked) == 5


def test_a_question_about_several_images_shows_all_of_them_and_is_not_for_a_composed_vlm(vlm, tmp_path):
    suite = load_suite("mmmu", data=str(write(tmp_path / "data", "mmmu", rows_of("mmmu"))))
    found = questions.load(suite)
    assert len(found.asked) == 6
    assert found.asked[0].image.count("+") == 1
    assert "<image 1>" in found.asked[0].prompt  # beside several images the text says which one it means
    assert "<image" not in found.asked[1].prompt
    first, second = found.images[found.asked[0].image]
    assert (first, second) == (picture(0)["bytes"], picture(200)["bytes"])
    with pytest.raises(HarnessError, match="a question has 2 images; a composed VLM takes exactly one"):
        answers.answer_suite(Composed(vlm, RESOLUTION), suite)


def test_what_guessing_would_add_is_a_figure_of_its_own(vlm, tmp_path):
    data = write(tmp_path / "data", "mmmu_one_image", rows_of("mmmu_one_image"))
    suite = load_suite("mmmu_one_image", data=str(data))
    score = answers.answer_suite(Composed(vlm, RESOLUTION), suite)
    said = tuple(answers.grade(suite, asked, "no idea") for asked in questions.load(suite).asked)
    score = score.model_copy(update={"answers": said})
    assert [answer.chance for answer in said] == [0.0, 0.5, 0.0, 0.5, 0.0]  # open questions cannot be guessed
    whole, guessed = statistics_of(score)[:2]
    assert (whole.what, whole.value, guessed.what, guessed.value) == ("score", 0.0, "guessed", pytest.approx(0.2))


TASK = """
task: mine
dataset_path: drawn
test_split: test
doc_to_text: "{{question}}"
generation_kwargs: {max_gen_toks: 4}
metric_list: [{metric: anls}]
metadata: {id: questionId, answers: answers}
"""


def task_in(folder, text, name="mine.yaml"):
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("test_split: test", ""), "the key 'test_split' is missing"),
        (("{max_gen_toks: 4}", "4"), "generation_kwargs: a mapping is expected, not int"),
        (("{max_gen_toks: 4}", "{max_gen_toks: x}"), "max_new_tokens: Input should be a valid integer"),
        (("[{metric: anls}]", "anls"), "metric_list: a list of mappings with the key metric is expected"),
        (("[{metric: anls}]", "[]"), "metric_list is empty"),
        (("[{metric: anls}]", "[{metric: anlz}]"), "no metric 'anlz'; there are: ai2d"),
        (("[{metric: anls}]", "[{metric: [a]}]"), "no metric \"['a']\""),
        (("{id: questionId, answers: answers}", "[a]"), "metadata: a mapping is expected, not list"),
        (("answers: answers}", "answers: answers, facts: 3}"), "facts: a mapping is expected, not int"),
        (("answers: answers}", "answers: answers, also: 3}"), "also: Input should be a valid tuple"),
        (("answers: answers}", "answers: answers, images_from: {name: a}}"), "images_from: the key split is missing"),
        (("answers: answers}", "answers: answers, images: many}"), "images: Input should be a valid integer"),
        (("task: mine", "task: [mine]"), "name: Input should be a valid string"),
        (("dataset_path: drawn", "dataset_path: {a: b}"), "path: Input should be a valid string"),
        (("task: mine", "3"), "not readable"),
    ],
)
def test_a_task_that_is_none_is_one_line_with_its_file(change, said, tmp_path):
    path = task_in(tmp_path, TASK.replace(*change))
    with pytest.raises(HarnessError) as error:
        suite_of(load_task(path), path)
    assert str(error.value).startswith(f"{path}: ")
    assert said in str(error.value)


def test_a_task_includes_files_of_its_folder_alone_and_not_itself(tmp_path):
    task_in(tmp_path, TASK, "below.yaml")
    path = task_in(tmp_path, "include: below.yaml\ntask: above\nmetadata: {kind: docId}\n")
    suite = suite_of(load_task(path), path)
    assert (suite.name, suite.fields["kind"], suite.fields["id"]) == ("above", "docId", "questionId")
    for other, said in (("../x.yaml", "is not in its folder"), ("/etc/passwd", "is not in its folder")):
        with pytest.raises(HarnessError, match=f"include: {other} {said}"):
            load_task(task_in(tmp_path, f"include: {other}\n"))
    task_in(tmp_path, "include: mine.yaml\n", "below.yaml")
    for text in ("include: mine.yaml\n", "include: below.yaml\n"):
        with pytest.raises(HarnessError, match="includes this file"):
            load_task(task_in(tmp_path, text))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"id": "questionId +"}, "TemplateSyntaxError"),
        ({"id": "nosuch.attribute"}, "no column nosuch"),
        ({"kind": "question_types[9]"}, "row 0: kind: "),
        ({"kind": "1 / 0"}, "row 0: kind: ZeroDivisionError"),
        ({"answers": "answers | literal(1)"}, "row 0: answers: TypeError"),
    ],
)
def test_expressions_that_fail_are_one_line(fields, said, tmp_path):
    suite = load_suite("docvqa", data=str(write(tmp_path / "data", "docvqa", rows_of("docvqa"))))
    with pytest.raises(HarnessError, match=said):
        questions.load(suite.model_copy(update={"fields": suite.fields | fields}))


def test_a_column_that_has_a_default_need_not_be_there(tmp_path):
    suite = load_suite("docvqa", data=str(write(tmp_path / "data", "docvqa", rows_of("docvqa"))))
    prompt = "{{ hint | default('') }}{% if note is defined %}{{ note }}{% endif %}{{ question }}"
    found = questions.load(suite.model_copy(update={"prompt": prompt}))
    assert found.asked[0].prompt == "what is number 0?"
    with pytest.raises(HarnessError, match="no column hint and no note"):
        questions.load(suite.model_copy(update={"prompt": "{{ hint }}{{ note }}"}))


def test_what_a_metric_cannot_take_is_said_before_anything_is_answered(tmp_path):
    folder = write(tmp_path / "data", "docvqa", rows_of("docvqa"))
    suite = load_suite("docvqa", data=str(folder)).model_copy(update={"facts": {"choices": "docId"}})
    with pytest.raises(HarnessError, match="row 0: no text that can be judged: TypeError"):
        questions.load(suite)
