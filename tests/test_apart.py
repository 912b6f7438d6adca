"""Untrusted work in a process of its own: whatever it does, the caller gets its value or one line."""

import os
import signal
import sys
import time

import pytest

from harness.schema import LINE, HarnessError
from harness.storage.apart import Apart


def add(one, other):
    print("a library that prints")
    return {"sum": one + other, "process": os.getpid(), "online": os.environ.get("HF_HUB_OFFLINE")}


def refuse():
    raise HarnessError("config.json: \x1b[31m\nnot a checkpoint")


def fail():
    raise KeyError("surprise" * 1000)


def leave():
    sys.exit(3)


def loop():
    while True:
        pass


def crash():
    os.kill(os.getpid(), signal.SIGSEGV)


def swell():
    return len(bytearray(64 * 2**30))


def chatter():
    return "x" * (65 * 2**20)


@pytest.fixture(scope="module")
def apart():
    apart = Apart()
    yield apart
    apart.stop()


def test_a_value_comes_back_from_another_process_which_is_kept(apart):
    first = apart.call("test_apart:add", {"one": 1, "other": 2})
    assert first["sum"] == 3
    assert first["process"] != os.getpid()
    assert first["online"] == "1"
    assert apart.call("test_apart:add", {"one": "a", "other": "b"}) == {**first, "sum": "ab"}


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("refuse", r"config.json: \\x1b\[31m not a checkpoint"),
        ("fail", "KeyError: 'surprise"),
        ("leave", "SystemExit: 3"),
        ("loop", "took longer than .* and was stopped"),
        ("crash", "its process ended with signal 11"),
        ("swell", "needs more than 6 GiB of memory"),
        ("chatter", "its answer is larger than"),
        ("nothing", "AttributeError"),
    ],
)
def test_whatever_goes_wrong_is_one_line_and_the_next_call_works(apart, function, said):
    apart.call("test_apart:add", {"one": 1, "other": 1})
    begin = time.monotonic()
    with pytest.raises(HarnessError, match=said) as error:
        apart.call(f"test_apart:{function}", {}, seconds=1.0 if function == "loop" else 30.0)
    assert str(error.value).isprintable()
    assert len(str(error.value)) <= LINE
    assert time.monotonic() - begin < 60  # and not START_SECONDS more
    assert apart.call("test_apart:add", {"one": 2, "other": 2})["sum"] == 4
