"""Every way in which a measuring process can fail becomes an outcome with a reason, and the next point is measured."""

import os
import signal
import time

import pytest

from conftest import make_latency, make_point
from harness.bench import InvalidOutput
from harness.schema import HarnessError, Point
from harness.worker import Worker, _attempt


def _measure(point: Point, progress):
    """A child that does what the attention field of the point says."""
    progress("timing")
    what = point.attention
    if what == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "exit":
        os._exit(3)
    if what == "hang":
        time.sleep(60)
    if what == "memory":
        raise MemoryError("7616 M parameters need 28.4 GiB, 20.1 GiB are free")
    if what == "allocator":
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 10 bytes")
    if what == "nan":
        raise InvalidOutput("the logits of the first token are not finite")
    if what == "wrong":
        raise HarnessError("no such checkpoint")
    if what == "bug":
        raise KeyError("surprise")
    return make_latency(), ()


def child(pipe):
    while True:
        try:
            point = Point.model_validate_json(pipe.recv())
        except EOFError:
            return
        pipe.send(_attempt(_measure, point, pipe.send))


@pytest.fixture(scope="module")
def worker():
    worker = Worker(child)
    yield worker
    worker.stop()


@pytest.mark.parametrize(
    ("what", "status", "reason"),
    [
        ("crash", "crashed", "SIGSEGV"),
        ("killed", "crashed", "SIGKILL; often the kernel's out-of-memory killer"),
        ("exit", "crashed", "exit code 3"),
        ("hang", "timeout", "no sign of life for 2 s"),
        ("memory", "out_of_memory", "28.4 GiB"),
        ("allocator", "out_of_memory", "can't allocate memory"),
        ("nan", "invalid_output", "not finite"),
        ("wrong", "error", "no such checkpoint"),
        ("bug", "error", "KeyError: 'surprise'"),
    ],
)
def test_a_failure_is_an_outcome_with_a_reason_and_no_number(worker, what, status, reason):
    # The child's first start imports torch, so it is given time; only the hanging one is waited for briefly.
    assert worker.measure(make_point(attention="fine"), timeout=120).status == "ok"
    failed = worker.measure(make_point(attention=what), timeout=2 if what == "hang" else 120)
    assert failed.status == status
    assert reason in failed.reason
    assert "\n" not in failed.reason
    assert failed.latency is None
    assert failed.scores == ()
    after = worker.measure(make_point(attention="fine"), timeout=120)
    assert (after.status, after.latency) == ("ok", make_latency())


def test_signs_of_life_reach_the_parent(worker):
    signs = []
    worker.measure(make_point(attention="fine"), timeout=120, progress=signs.append)
    assert signs == ["timing"]
