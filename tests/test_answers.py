"""The answers do not depend on how questions are grouped, batched or cached."""

import pytest
import torch

from conftest import talkative
from harness.evaluate import answers as answers
from harness.models.answering import Composed
from harness.models.preprocess import pixel_tensor
from harness.models.vlm import load_vlm
from harness.schema import InvalidOutput
from harness.suites.questions import load
from harness.suites.tasks import load_suite

RESOLUTION = 128


@pytest.fixture(scope="module")
def vlm(vlm_folder):
    return talkative(load_vlm(vlm_folder))


@pytest.fixture(scope="module")
def model(vlm):
    return Composed(vlm, RESOLUTION)


@torch.inference_mode()
def one_at_a_time(vlm, suite):
    """Each question alone, each answer from whole forward passes without a cache."""
    texts = []
    questions = load(suite)
    for asked in questions.asked:
        (stored,) = questions.images[asked.image]
        visual = vlm.project(vlm.encode(pixel_tensor(stored, vlm.spec.encoder, RESOLUTION)))
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


@pytest.mark.parametrize("name", ["doc_read", "shapes"])
def test_batched_answers_equal_single_ones_without_any_cache(vlm, model, name):
    suite = load_suite(name, 6)
    score = answers.answer_suite(model, suite)
    texts = [a.text for a in score.answers]
    assert texts == one_at_a_time(vlm, suite)
    assert len(set(texts)) > 2  # a model that always says the same would prove nothing


def test_neither_batch_nor_reuse_changes_an_answer(model):
    suite = load_suite("scene_text", 6)
    together = answers.answer_suite(model, suite)
    alone = answers.answer_suite(model, suite, encode_batch=1, decode_batch=1)
    apart = answers.answer_suite(model, suite, reuse=False)
    assert together.answers == alone.answers == apart.answers


def test_an_image_is_encoded_and_its_prefix_prefilled_once(vlm, model, monkeypatch):
    suite = load_suite("scene_text", 6)
    encoded, prefilled = [], []
    encode, prefill = vlm.encode, vlm.prefill
    monkeypatch.setattr(vlm, "encode", lambda pixels: encoded.append(len(pixels)) or encode(pixels))
    monkeypatch.setattr(vlm, "prefill", lambda prompt: prefilled.append(len(prompt)) or prefill(prompt))
    score = answers.answer_suite(model, suite)
    assert sum(encoded) == sum(prefilled) == 6
    assert len(score.answers) > 18


def test_a_score_holds_every_question_with_its_image(model):
    suite = load_suite("shapes", 5)
    score = answers.answer_suite(model, suite)
    assert [a.question_id for a in score.answers] == [a.question_id for a in load(suite).asked]
    assert {a.image for a in score.answers} == set(load(suite).images)
    assert (score.suite, score.metric, len(load(suite).images)) == ("shapes", "gqa@lmms-eval", 5)


def test_logits_that_are_not_finite_are_a_failure_and_no_score(vlm_folder, tmp_path):
    """A model whose numbers have burst answers something all the same: it was scored 0.000, and on the frontier."""
    vlm = talkative(load_vlm(vlm_folder))
    suite, journal = load_suite("doc_read", 2), tmp_path / "journal.jsonl"
    with torch.no_grad():
        vlm.llm.model.norm.weight[3] = float("nan")
    with pytest.raises(InvalidOutput, match="the logits are not finite"):
        answers.answer_suite(Composed(vlm, RESOLUTION), suite, journal=journal)
    assert not journal.exists()  # what such a model said is not kept for a later run
    engine = answers.Engine(Composed(vlm, RESOLUTION), load(suite).images)
    question = load(suite).asked[0]
    asked = {"a": engine.ask(question.image, question.prompt, 0)}
    with torch.inference_mode(), pytest.raises(InvalidOutput, match="the logits are not finite"):
        engine.scores(asked, {"a": [40, 41]})
