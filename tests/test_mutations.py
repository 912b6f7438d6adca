"""Spoilt input, drawn at random: one printable line each, or it works; never a traceback, never a hang."""

import random
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.checkpoints import KINDS
from benchmarks.mutations import hub_folders
from harness.models.hub import hash_hub, learn
from harness.schema import HarnessError
from harness.storage.apart import SECONDS, START_SECONDS
from harness.suites.questions import examples

CALLS = 40


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    folder = KINDS["llava"](tmp_path_factory.mktemp("hub") / "llava")
    learn(folder, None, "sdpa", examples()[0])  # the child has imported what it needs
    return folder


def test_the_same_seed_spoils_the_same_way(llava, tmp_path):
    def drawn(name):
        folders = hub_folders(random.Random(3), llava, tmp_path / name)
        found = [next(folders)[1] for _ in range(8)]
        folders.close()
        return found

    assert drawn("a") == drawn("b")
    assert len(set(drawn("c"))) > 4


@settings(max_examples=CALLS, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck])
@given(seed=st.integers(0, 2**32))
def test_a_spoilt_hub_folder_is_one_line_or_works(seed, llava, tmp_path_factory):
    folders = hub_folders(random.Random(seed), llava, tmp_path_factory.mktemp("spoilt"))
    folder, how = next(folders)
    begin = time.monotonic()
    try:
        found = learn(folder, None, "sdpa", examples()[0])
        assert found["visual_tokens"] > 0
        assert len(hash_hub(folder)) == 16
    except HarnessError as error:
        said = str(error)
        assert said.isprintable(), how
        assert said.startswith(f"vlm {folder}: "), how
        assert len(said) <= 300, how
    finally:
        folders.close()
    assert time.monotonic() - begin < SECONDS + START_SECONDS + 30, how
