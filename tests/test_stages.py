"""Stages of a training on a handful of images: from end to end, reached once, killed and gone on with, drawn."""

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
from harness.schema import HarnessError
from harness.suites import embedded
from harness.train import checkpointing, curves, descent, stages
from harness.train.__main__ import command_of, train
from harness.train.curriculum import STAGES, Curriculum, device_of

COUNTS = {"doc_read": 6, "scene_text": 6, "shapes": 4}
FEW = {"doc_read": 2, "shapes": 1}
HALVES = {64: 0.5, 128: 0.5}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def test_the_recorded_command_composes_the_same_recipe():
    for config in compose_all(["+training=reference_family"], root="train")[1]:
        command = command_of(config["encoder"]["name"], config["llm"]["name"], 3, config["recipe"])
        (again,) = compose_all(shlex.split(command)[3:], root="train")[1]
        assert (again["recipe"], again["seed"]) == (config["recipe"], 3)


RECIPE = {
    "letters": {"pictures": 8, "held_out": 3, "steps": 51, "batch": 4, "warmup": 0.1, "lr": 0.01},
    "pages": {"images": COUNTS, "held_out": FEW, "shares": HALVES, "steps": 4, "batch": 4, "warmup": 0.1, "lr": 0.01},
    "language": {
        "scenes": COUNTS,
        "held_out": FEW,
        "listed": 0.4,
        "shares": {3: 0.5, 4: 0.5},
        "steps": 5,
        "batch": 4,
        "questions": 3,
        "warmup": 0.1,
        "lr": 0.01,
    },
    "align": {
        "images": 8,
        "steps": 6,
        "batch": 4,
        "questions": 2,
        "shares": HALVES,
        "warmup": 0.1,
        "lr": 0.01,
    },
    "joint": {
        "images": 8,
        "steps": 2,
        "batch": 2,
        "questions": 2,
        "shares": HALVES,
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


@pytest.fixture(scope="module")
def straight(cache, tmp_path_factory):
    """The folder of a VLM whose training was not disturbed."""
    return train(config_of(cache, tmp_path_factory.mktemp("straight")))


@pytest.fixture
def again(cache, straight, tmp_path):
    """A cache that has what was drawn, and nothing that was learned."""
    folder = tmp_path / "again"
    folder.mkdir()
    for name in ("pool-*", "print-*", "rows-*"):
        for drawn in cache.glob(name):
            (folder / drawn.name).symlink_to(drawn)
    return folder


def test_the_door_trains_a_vlm_that_loads_and_keeps_its_log(straight):
    folder = straight
    vlm = load_vlm(folder)
    assert vlm.encode(torch.zeros(1, 3, 128, 128)).shape == (1, 4, ENCODER.features)
    training = json.loads((folder / "training.json").read_text())
    names = [row["stage"].partition("-")[0] for row in training["log"]]
    assert list(dict.fromkeys(names)) == [stage["stage"] for stage in training["stages"]] == [*STAGES]
    assert all(np.isfinite(row["loss"]) for row in training["log"])
    assert [stage["samples"] for stage in training["stages"]] == [204, 16, 20, 24, 4]
    assert 0 <= training["log"][1]["held_out_depth0"] <= 1
    assert (folder / "curves.png").stat().st_size > 1000


def test_a_finished_stage_is_reached_without_learning_again(cache, straight, tmp_path, monkeypatch):
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
    assert [a == b for a, b in zip(identities(recipe=pages), plain, strict=True)] == [True, False, True, False, False]
    joint = RECIPE | {"joint": RECIPE["joint"] | {"steps": 3}}
    assert [a == b for a, b in zip(identities(recipe=joint), plain, strict=True)] == [True, True, True, True, False]
    monkeypatch.setattr(embedded, "fingerprint_of_drawing", lambda: "scenes are drawn in another way")
    assert [a == b for a, b in zip(identities(), plain, strict=True)] == [True, False, False, False, False]


def test_what_a_training_lacks_is_said_in_one_line(cache, tmp_path):
    without = RECIPE | {"pages": {key: value for key, value in RECIPE["pages"].items() if key != "batch"}}
    with pytest.raises(HarnessError, match=r"recipe\.pages: .*'batch'"):
        Curriculum(config_of(cache, tmp_path, recipe=without))
    rates = RECIPE | {"letters": RECIPE["letters"] | {"lr": {"transformer": 0.001}}}
    with pytest.raises(HarnessError, match=r"recipe\.letters\.lr: a rate for a convolutional encoder is expected"):
        Curriculum(config_of(cache, tmp_path, recipe=rates))
    if not torch.cuda.is_available():
        with pytest.raises(HarnessError, match="device=cuda: this machine has none; there is cpu"):
            device_of("cuda")


def killed(config, seconds):
    """Begin a training in a process of its own and kill it after a while; whether it was still at it."""
    child = multiprocessing.get_context("fork").Process(target=train, args=(config,))
    child.start()
    child.join(seconds)
    alive = child.is_alive()
    child.kill()
    child.join()
    return alive


def test_a_training_killed_three_times_ends_with_the_weights_of_an_undisturbed_one(straight, again, tmp_path):
    config = config_of(again, tmp_path / "killed")
    rng = random.Random()
    kills = sum(killed(config, rng.uniform(0.3, 2.5)) for _ in range(3))
    assert kills
    assert (train(config) / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()


def test_a_state_is_gone_on_with_bit_for_bit_whatever_the_step(straight, again, tmp_path, monkeypatch):
    """Every stage is interrupted after each state that is kept."""

    def keep_and_die(*args, **kwargs):
        checkpointing.keep(*args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(descent, "keep", keep_and_die)
    deaths = 0
    while True:
        try:
            folder = train(config_of(again, tmp_path / "killed", every=26 if deaths < 1 else 2))
            break
        except KeyboardInterrupt:
            deaths += 1
    assert deaths >= 5  # in letters, pages, language and align
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
    (state / "state.json").write_text(json.dumps({"step": 8, "identity": "x", "log": log}))
    assert curves.main([str(tmp_path)]) == 0
    assert "| letters-x | (step 8) | 8 | 0.375 | depth0 0.800 |" in capsys.readouterr().out
    log[-1] |= {"held_out_word_field": 0.75, "held_out_a@64": 0.25, "held_out_a@128": 0.5}
    done = {"identity": "x", "samples": 1200, "seconds": 9.6, "log": log}
    (tmp_path / "weights.json").write_text(json.dumps(done))
    assert curves.main([str(tmp_path), str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.count("| letters-x | 1,200 | 10 | 0.375 | a@128 0.500, word field 0.750 |") == 1
    assert (tmp_path / "curves.png").stat().st_size > 1000
    assert curves.main([str(tmp_path / "nowhere")]) == 2
    assert "neither a stage of a training nor a trained VLM" in capsys.readouterr().err
