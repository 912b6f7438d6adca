"""The training code on a handful of images: its targets, its shared-prefix trick, and the door from end to end."""

import json

import numpy as np
import pytest
import torch

from conftest import CONNECTOR, ENCODER, LLM
from harness.models.vlm import load_vlm
from harness.suites import embedded
from harness.suites.scenes import generator
from harness.train import print as dense
from harness.train.instruct import IGNORED, Dialogues, answer_loss, shared_prefix_mask
from harness.train.pool import CHARACTERS, labels, open_pool, open_print_pool
from harness.train.pretrain import Page, Reader

COUNTS = {"doc_read": 6, "scene_text": 6, "shapes": 4}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def pool(cache):
    return open_pool(COUNTS, (64, 128), cache, 1)


def test_pool_holds_every_train_scene_with_its_items_and_questions(pool):
    assert len(pool) == 16
    assert pool.images[128].shape == (16, 128, 128, 3)
    expected = sorted(
        tuple((q.text, q.answer) for q in embedded.DRAW[suite](generator(suite, "train", k)).questions)
        for suite, count in COUNTS.items()
        for k in range(count)
    )
    assert sorted(tuple(row) for row in pool.questions) == expected
    there = pool.place[..., 0] >= 0
    assert ((pool.label >= 0) ^ (pool.digits[..., 0] >= 0))[there].all()  # a word or a number, never both
    assert (pool.label[~there] == -1).all()
    assert pool.label.max() < len(labels())


def test_pool_is_drawn_once(pool, cache):
    again = open_pool(COUNTS, (64, 128), cache, 1)
    np.testing.assert_array_equal(again.images[64], pool.images[64])
    assert len(list(cache.glob("pool-*"))) == 1


def test_a_shifted_page_shifts_its_places(pool):
    page = Page.draw(pool, np.random.default_rng(0), 8, 128)
    assert page.pixels.shape == (8, 128, 128, 3)
    assert page.place.shape == (8, 12, 2)
    known = page.label >= 0
    assert known.any()
    assert page.place[known].abs().max() < 1.1


def test_print_pictures_name_their_characters(cache):
    pixels, marks = dense.draw(0)
    assert pixels.shape == (dense.SIDE, dense.SIDE, 3)
    assert len(marks) > 5
    assert all(sign in CHARACTERS and 0 < x < 1 and 0 < y < 1 for sign, x, y in marks)
    pool = open_print_pool(3, cache, 1)
    np.testing.assert_array_equal(pool.images[0], pixels)
    assert (pool.character[0] >= 0).sum() == len(marks)


def test_reader_looks_at_the_token_that_holds_the_place():
    reader = Reader(4, 2)
    tokens = torch.randn(1, 9, 4, requires_grad=True)
    reader(tokens, torch.tensor([[[0.9, 0.4]]])).sum().backward()  # third column, second row of 3 x 3
    assert tokens.grad.abs().sum(-1).nonzero().tolist() == [[0, 5]]


def test_shared_prefix_mask_hides_questions_from_one_another():
    mask = shared_prefix_mask(2, 2, 2)[0, 0].int().tolist()
    assert mask == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 0, 0, 1, 1],
    ]


def test_questions_in_one_sequence_have_the_loss_that_they_have_alone(pool, vlm_folder):
    vlm = load_vlm(vlm_folder)
    dialogues = Dialogues.of(vlm, pool)
    rng = np.random.default_rng(0)
    rows = np.array([1, 5])
    ids, target = dialogues.draw(rows, rng, 3)
    features = torch.randn(2, 4, ENCODER.features)
    with torch.no_grad():
        together, _ = answer_loss(vlm, features, ids, target)
        total, tokens = 0.0, 0
        for b in range(2):
            for q in range(3):
                alone, _ = answer_loss(
                    vlm, features[b : b + 1], ids[b : b + 1, q : q + 1], target[b : b + 1, q : q + 1]
                )
                count = int((target[b, q] != IGNORED).sum())
                total, tokens = total + float(alone) * count, tokens + count
    assert float(together) == pytest.approx(total / tokens, rel=1e-5)


def test_targets_are_the_answer_and_the_end(pool, vlm_folder):
    vlm = load_vlm(vlm_folder)
    dialogues = Dialogues.of(vlm, pool)
    for row, pairs in enumerate(pool.questions):
        for k, (question, answer) in enumerate(pairs):
            said = [t for t in dialogues.target[row, k] if t != IGNORED]
            assert said[-1] == vlm.end
            assert vlm.tokenizer.decode(said[:-1]) == answer
            assert dialogues.ids[row, k, : len(vlm.question_ids(question)[1])].tolist() == vlm.question_ids(question)[1]


def test_the_recorded_command_composes_the_same_recipe():
    import shlex

    from harness.configuration.compose import compose_all
    from harness.train.__main__ import command_of

    for config in compose_all(["+training=reference_family"], root="train")[1]:
        command = command_of(config["encoder"]["name"], config["llm"]["name"], 3, config["recipe"])
        (again,) = compose_all(shlex.split(command)[3:], root="train")[1]
        assert (again["recipe"], again["seed"]) == (config["recipe"], 3)


def test_the_door_trains_a_vlm_that_loads_and_keeps_its_log(cache, tmp_path):
    from harness.train.__main__ import train

    config = {
        "encoder": ENCODER.model_dump(),
        "connector": CONNECTOR.model_dump(),
        "llm": LLM.model_dump(),
        "seed": 0,
        "threads": 1,
        "folder": str(tmp_path),
        "cache": str(cache),
        "recipe": {
            "print": 8,
            "pool": COUNTS,
            "pretrain": {
                "print_steps": 40,
                "print_batch": 4,
                "print_lr": 0.01,
                "page_steps": 4,
                "page_batch": 4,
                "page_lr": 0.01,
                "shares": {"64": 0.5, "128": 0.5},
            },
            "instruct": {
                "images": 8,
                "align_steps": 40,
                "align_batch": 4,
                "joint_steps": 2,
                "joint_batch": 2,
                "questions": 2,
                "shares": {"64": 0.5, "128": 0.5},
                "lr": 0.01,
                "joint_lr": 0.001,
            },
        },
    }
    folder = train(config)
    vlm = load_vlm(folder)
    assert vlm.encode(torch.zeros(1, 3, 128, 128)).shape == (1, 4, ENCODER.features)
    training = json.loads((folder / "training.json").read_text())
    assert [row["stage"] for row in training["log"]] == ["print", "pages", "align", "joint"]
    assert all(np.isfinite(row["loss"]) for row in training["log"])
    (kept,) = cache.glob("micro_fastvithd-*/encoder.safetensors")
    before = kept.stat().st_mtime_ns
    train(config)
    assert kept.stat().st_mtime_ns == before  # stage 0 is shared, not repeated
