"""The training code on a handful of images: its targets, its shared-prefix trick, and the door from end to end."""

import json
import multiprocessing
import random
import shlex
import shutil

import numpy as np
import pytest
import torch

from conftest import CONNECTOR, ENCODER, LLM
from harness.configuration.compose import compose_all
from harness.models.vlm import load_vlm
from harness.suites import embedded
from harness.suites.scenes import generator
from harness.train import checkpointing, curves, descent, stages
from harness.train import print as dense
from harness.train.__main__ import command_of, train
from harness.train.curriculum import STAGES, Curriculum
from harness.train.dialogues import IGNORED, Dialogues, answer_loss, shared_prefix_mask
from harness.train.letters import Reader
from harness.train.pages import Page
from harness.train.pool import labels, open_pool

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
    page = Page.draw(pool, np.random.default_rng(0), 8, 128, torch.device("cpu"))
    assert page.pixels.shape == (8, 128, 128, 3)
    assert page.place.shape == (8, 12, 2)
    known = page.label >= 0
    assert known.any()
    assert page.place[known].abs().max() < 1.1


def test_print_pictures_name_their_characters(cache):
    pixels, marks = dense.draw(0)
    assert pixels.shape == (dense.SIDE, dense.SIDE, 3)
    assert len(marks) > 5
    assert all(sign in dense.CHARACTERS and 0 < x < 1 and 0 < y < 1 for sign, x, y in marks)
    pool = dense.open_print_pool(3, "train", cache, 1)
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
    for config in compose_all(["+training=reference_family"], root="train")[1]:
        command = command_of(config["encoder"]["name"], config["llm"]["name"], 3, config["recipe"])
        (again,) = compose_all(shlex.split(command)[3:], root="train")[1]
        assert (again["recipe"], again["seed"]) == (config["recipe"], 3)


RECIPE = {
    "letters": {"pictures": 8, "held_out": 3, "steps": 51, "batch": 4, "warmup": 0.1, "lr": 0.01},
    "pages": {"images": COUNTS, "shares": {64: 0.5, 128: 0.5}, "steps": 4, "batch": 4, "warmup": 0.1, "lr": 0.01},
    "align": {
        "images": 8,
        "steps": 6,
        "batch": 4,
        "questions": 2,
        "shares": {64: 1, 128: 1},
        "warmup": 0.1,
        "lr": 0.01,
    },
    "joint": {
        "images": 8,
        "steps": 2,
        "batch": 2,
        "questions": 2,
        "shares": {64: 1, 128: 1},
        "warmup": 0.1,
        "lr": 0.001,
    },
}


def config_of(cache, folder, **changed):
    return {
        "encoder": ENCODER.model_dump(),
        "connector": CONNECTOR.model_dump(),
        "llm": LLM.model_dump(),
        "seed": 0,
        "threads": 1,
        "folder": str(folder),
        "cache": str(cache),
        "device": "cpu",
        "until": "joint",
        "every": 3,
        "recipe": RECIPE,
    } | changed


def test_the_door_trains_a_vlm_that_loads_and_keeps_its_log(cache, tmp_path):
    folder = train(config_of(cache, tmp_path))
    vlm = load_vlm(folder)
    assert vlm.encode(torch.zeros(1, 3, 128, 128)).shape == (1, 4, ENCODER.features)
    training = json.loads((folder / "training.json").read_text())
    names = [row["stage"].partition("-")[0] for row in training["log"]]
    assert list(dict.fromkeys(names)) == [stage["stage"] for stage in training["stages"]] == [*STAGES]
    assert all(np.isfinite(row["loss"]) for row in training["log"])
    assert [stage["samples"] for stage in training["stages"]] == [204, 16, 24, 4]
    assert 0 <= training["log"][1]["held_out_depth0"] <= 1
    assert (folder / "curves.png").stat().st_size > 1000


def test_a_finished_stage_is_reached_without_learning_again(cache, tmp_path, monkeypatch):
    folder = train(config_of(cache, tmp_path, until="letters"))
    before = (folder / "weights.safetensors").stat().st_mtime_ns
    assert not (folder / "state").exists()
    shipped = tmp_path / "finished"
    shipped.mkdir()
    for suffix in (".safetensors", ".json"):
        shutil.copy(folder / f"weights{suffix}", shipped / f"letters-{ENCODER.name}{suffix}")
    monkeypatch.setattr(stages, "FINISHED", shipped)
    assert train(config_of(cache, tmp_path, until="letters")) == folder
    assert (folder / "weights.safetensors").stat().st_mtime_ns == before
    assert train(config_of(tmp_path / "another", tmp_path, until="letters")) == shipped
    changed = RECIPE | {"letters": RECIPE["letters"] | {"lr": 0.02}}
    other = Curriculum(config_of(tmp_path / "another", tmp_path, recipe=changed))
    assert stages.find(other.letters, other.cache) is None


def test_what_decides_a_stage_names_it(cache, tmp_path, monkeypatch):
    def identities(**changed):
        one = Curriculum(config_of(cache, tmp_path, **changed))
        return [getattr(one, stage).identity for stage in STAGES]

    plain = identities()
    renamed = ENCODER.model_dump() | {"title": "another", "source": "elsewhere"}
    assert identities(encoder=renamed, every=7) == plain
    assert all(a != b for a, b in zip(identities(seed=1), plain, strict=True))
    pages = RECIPE | {"pages": RECIPE["pages"] | {"steps": 5}}
    assert [a == b for a, b in zip(identities(recipe=pages), plain, strict=True)] == [True, False, False, False]
    joint = RECIPE | {"joint": RECIPE["joint"] | {"steps": 3}}
    assert [a == b for a, b in zip(identities(recipe=joint), plain, strict=True)] == [True, True, True, False]
    monkeypatch.setattr(embedded, "fingerprint_of_drawing", lambda: "scenes are drawn in another way")
    assert [a == b for a, b in zip(identities(), plain, strict=True)] == [True, False, False, False]


def killed(config, seconds):
    """Begin a training in a process of its own and kill it after a while; whether it was still at it."""
    child = multiprocessing.get_context("fork").Process(target=train, args=(config,))
    child.start()
    child.join(seconds)
    alive = child.is_alive()
    child.kill()
    child.join()
    return alive


def test_a_training_killed_three_times_ends_with_the_weights_of_an_undisturbed_one(cache, tmp_path):
    straight = train(config_of(cache, tmp_path / "straight"))
    again = tmp_path / "again"
    again.mkdir()
    for drawn in [*cache.glob("pool-*"), *cache.glob("print-*")]:
        (again / drawn.name).symlink_to(drawn)
    config = config_of(again, tmp_path / "killed")
    rng = random.Random()
    kills = sum(killed(config, rng.uniform(0.3, 2.5)) for _ in range(3))
    assert kills
    assert (train(config) / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()


def test_a_state_is_gone_on_with_bit_for_bit_whatever_the_step(cache, tmp_path, monkeypatch):
    """Every stage is interrupted after each state that is kept."""
    straight = train(config_of(cache, tmp_path / "straight"))
    again = tmp_path / "again"
    again.mkdir()
    for drawn in [*cache.glob("pool-*"), *cache.glob("print-*")]:
        (again / drawn.name).symlink_to(drawn)

    def keep_and_die(*args, **kwargs):
        checkpointing.keep(*args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(descent, "keep", keep_and_die)
    deaths = 0
    while True:
        try:
            folder = train(config_of(again, tmp_path / "killed", every=13 if deaths < 3 else 1))
            break
        except KeyboardInterrupt:
            deaths += 1
    assert deaths >= 8
    assert (folder / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()
    logs = [json.loads((f / "training.json").read_text())["log"] for f in (folder, straight)]
    one, other = ([row | {"seconds": 0} for row in log] for log in logs)
    assert one == other


def test_the_rate_rises_then_falls():
    schedule = descent.Schedule(steps=100, warmup=0.05)
    rates = [schedule.rate(step) for step in range(100)]
    assert rates[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert 0 < rates[-1] < 0.001


def test_curves_are_drawn_of_what_goes_on_and_of_what_is_done(tmp_path, capsys):
    log = [{"stage": "letters-x", "step": k, "seconds": k, "loss": 3.0 / k, "depth0": 0.1 * k} for k in range(1, 9)]
    state = tmp_path / "state" / "step-00000008"
    state.mkdir(parents=True)
    (state / "state.json").write_text(json.dumps({"step": 8, "log": log}))
    assert curves.main([str(tmp_path)]) == 0
    assert "| letters-x | 8 | 8 | 0.375 | depth0 0.800 |" in capsys.readouterr().out
    assert (tmp_path / "curves.png").stat().st_size > 1000
    assert curves.main([str(tmp_path / "nowhere")]) == 2
    assert "neither a stage of a training nor a trained VLM" in capsys.readouterr().err
