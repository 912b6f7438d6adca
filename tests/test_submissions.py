"""Answers that others judge, in the form in which they are handed in."""

import json

import pandas as pd
import pytest

from conftest import make_evaluation
from harness.schema import Answer, HarnessError
from harness.suites.submissions import write_submission


def evaluation_of(form, *answers):
    evaluation = make_evaluation("doc_read", 1)
    suite = evaluation.suite.model_copy(update={"name": form, "metric": "", "submission": form})
    score = evaluation.score.model_copy(update={"metric": "", "answers": answers})
    return evaluation.model_copy(update={"suite": suite, "score": score})


def answer(name, text, **facts):
    return Answer(question_id=name, image="i", kind="", text=text, parsed=None, score=None, facts=facts)


def test_mm_vet_wants_a_dictionary_of_answers(tmp_path):
    path = write_submission(evaluation_of("mm_vet", answer("v1_0", 'a "b"'), answer("v1_1", "")), "LLaVA-1.5", tmp_path)
    assert path.name == "mm_vet-LLaVA-1.5.json"
    assert json.loads(path.read_text()) == {"v1_0": 'a "b"', "v1_1": ""}


def test_llava_bench_wants_the_lines_of_model_vqa(tmp_path):
    path = write_submission(evaluation_of("llava_bench", answer("0", "A\ndog", question="what?")), "m", tmp_path)
    (line,) = path.read_text().splitlines()
    expected = {
        "question_id": 0,
        "prompt": "what?",
        "text": "A\ndog",
        "answer_id": "m-0",
        "model_id": "m",
        "metadata": {},
    }
    assert json.loads(line) == expected


def test_mmbench_wants_a_table_with_the_prediction_after_the_options(tmp_path):
    pytest.importorskip("openpyxl")
    facts = {"question": "what?", "A": "cat", "B": "dog", "C": "nan", "D": "nan", "split": "test"}
    path = write_submission(evaluation_of("mmbench", answer("14", "=B", **facts)), "m", tmp_path)
    table = pd.read_excel(path, keep_default_na=False)
    assert list(table.columns) == ["index", "question", "A", "B", "C", "D", "prediction", "split"]
    assert table.to_numpy().tolist() == [[14, "what?", "cat", "dog", "nan", "nan", "=B", "test"]]


@pytest.mark.parametrize("model", ["../../x", "a/b", "L" * 300, "LLaVA 1.5/7B", "", "\x00"])
def test_a_title_never_leaves_the_folder_and_never_takes_another_ones_file(model, tmp_path):
    evaluation = evaluation_of("mm_vet", answer("1", "a"))
    other = write_submission(evaluation, "LLaVA-1.5-7B", tmp_path / "all")
    path = write_submission(evaluation, model, tmp_path / "all")
    assert path.parent == tmp_path / "all"
    assert path != other
    assert path.name.isascii()
    assert len(path.name) < 140
    assert len(list((tmp_path / "all").iterdir())) == 2


@pytest.mark.parametrize("name", ["seven", "", "-1", "1e3", "9" * 30, "²"])
def test_a_format_that_numbers_its_questions_says_which_has_no_number(name, tmp_path):
    with pytest.raises(HarnessError, match="a whole number is expected as its id"):
        write_submission(evaluation_of("llava_bench", answer(name, "a", question="?")), "m", tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_a_submission_needs_and_the_record_lacks_is_named(tmp_path):
    with pytest.raises(HarnessError, match="question 3: its record has no question"):
        write_submission(evaluation_of("llava_bench", answer("3", "a")), "m", tmp_path)
    with pytest.raises(HarnessError, match="no form 'fax'; there are: mm_vet, llava_bench, mmbench"):
        write_submission(evaluation_of("fax", answer("3", "a")), "m", tmp_path)


def test_a_workbook_takes_answers_with_control_characters(tmp_path):
    pytest.importorskip("openpyxl")
    path = write_submission(evaluation_of("mmbench", answer("14", "B\x1b[31m\x00", question="a\x07?")), "m", tmp_path)
    assert pd.read_excel(path).to_numpy().tolist() == [[14, "a?", "B[31m"]]
