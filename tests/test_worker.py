"""Every way in which a measuring process can fail becomes an outcome with a reason, and the next task is done."""

import multiprocessing
import os
import signal
import threading
import time
import warnings

import pytest

from conftest import make_component, make_evaluation, make_point, make_samples, make_score
from harness.schema import HarnessError, InvalidOutput, Samples, TimerTest
from harness.timing import measurer
from harness.timing.bench import Cached, UntrustedTimer
from harness.timing.worker import Worker, _pressed, serve, work_off

UNTRUSTED = TimerTest(
    resolution=1e-9,
    empty=1e-7,
    launch=1e-3,
    awaited=1e-3,
    awaited_double=1e-3,
    fetched_after=0.1,
    synchronous=False,
    fault="the runtime does not wait",
)


class Faulty:
    """A measurer that does what the attention field of the component says."""

    def measure(self, units, seed, progress):
        ((component,),) = units
        progress("timing")
        what = component.attention
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
            raise InvalidOutput("the output is not finite")
        if what == "cached":
            raise Cached("a cache hides the work")
        if what == "wrong":
            raise HarnessError("no such checkpoint")
        if what == "bug":
            raise KeyError("surprise")
        if what == "timer":
            raise UntrustedTimer(UNTRUSTED)
        return [[[{"samples": make_samples(), "disturbed": disturbed} for disturbed in (True, False)]]]

    def evaluate(self, point, suite, progress, journal):
        progress(suite.name, 0.5)
        return make_score(suite.name, 3)


@pytest.fixture(autouse=True)
def nobody_presses():
    """Ctrl-C of one test is not kept for the next one."""
    yield
    _pressed.clear()


def child(pipe):
    work_off(pipe, Faulty())


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
        ("cached", "cached", "a cache hides the work"),
        ("timer", "untrusted_timer", "does not wait"),
        ("wrong", "error", "no such checkpoint"),
        ("bug", "error", "KeyError: 'surprise'"),
    ],
)
def test_a_failure_is_an_outcome_with_a_reason_and_no_number(worker, what, status, reason, request):
    if what == "crash":  # this one and the next begin as a user's do
        worker.stop()
        request.getfixturevalue("spawned")
    # The child's first start imports torch, so it is given time; only the hanging one is waited for briefly.
    assert worker.measure([[make_component(attention="fine")]], "0/0", timeout=600).status == "ok"
    failed = worker.measure([[make_component(attention=what)]], "0/0", timeout=2 if what == "hang" else 600)
    assert failed.status == status
    assert reason in failed.reason
    assert "\n" not in failed.reason
    assert failed.results == (({"timer": UNTRUSTED.model_dump()},) if what == "timer" else ())
    after = worker.measure([[make_component(attention="fine")]], "0/0", timeout=600)
    assert after.status == "ok"
    assert after.process != failed.process
    attempts = after.results[0][0]
    assert [Samples(**found["samples"]) for found in attempts] == [make_samples()] * 2
    assert [found["disturbed"] for found in attempts] == [True, False]


def test_tasks_share_a_process_until_it_is_stopped(worker):
    first, second = (worker.measure([[make_component(attention="fine")]], "0/0", timeout=600) for _ in range(2))
    assert first.process == second.process
    worker.stop()
    assert worker.measure([[make_component(attention="fine")]], "0/0", timeout=600).process != first.process


def test_signs_of_life_reach_the_parent(worker):
    signs = []
    worker.measure([[make_component(attention="fine")]], "0/0", 600, lambda *sign: signs.append(sign))
    outcome = worker.evaluate(make_point(), make_evaluation().suite, 600, lambda *sign: signs.append(sign))
    assert signs == [("timing", None), ("doc_read", 0.5)]
    assert outcome.results[0]["score"]["answers"][0]["score"] == 1.0


def test_the_waiting_parent_uses_no_processor(worker):
    worker.measure([[make_component(attention="fine")]], "0/0", timeout=600)
    begin = time.process_time()
    worker.measure([[make_component(attention="hang")]], "0/0", timeout=2)
    assert time.process_time() - begin < 0.2


@pytest.mark.usefixtures("spawned")
def test_ctrl_c_in_the_middle_of_a_start_waits_for_it_and_the_child_can_be_stopped(monkeypatch):
    started = []
    honest = multiprocessing.context.SpawnProcess.start

    def interrupted(self):
        os.kill(os.getpid(), signal.SIGINT)
        honest(self)
        started.append(self)

    monkeypatch.setattr(multiprocessing.context.SpawnProcess, "start", interrupted)
    worker = Worker(child)
    with pytest.raises(KeyboardInterrupt):
        worker.measure([[make_component(attention="fine")]], "0/0", timeout=600)
    assert started[0].is_alive()
    worker.stop()
    assert started[0].exitcode == -signal.SIGKILL


class Warned(Faulty):
    """A measurer whose libraries warn, in a thread of their own, while it gives signs of life."""

    def measure(self, units, seed, progress):
        def warn():
            for number in range(200):
                warnings.warn(f"old\nway {number % 2}", FutureWarning, stacklevel=1)

        thread = threading.Thread(target=warn)
        thread.start()
        for _ in range(200):
            progress("timing", 0.5)
        thread.join()
        return super().measure(units, seed, progress)


def warning(pipe):
    measurer.Measurer = Warned
    serve(pipe)


def test_what_a_library_warns_of_is_told_to_the_parent_and_not_to_the_screen(capfd):
    told, signs = [], []
    loud = Worker(warning, told.append)
    try:
        done = loud.measure([[make_component(attention="fine")]], "0/0", 600, lambda *sign: signs.append(sign))
    finally:
        loud.stop()
    assert done.status == "ok"
    assert len(signs) == 201  # no message was torn by another thread's
    assert set(told) == {"FutureWarning: old way 0", "FutureWarning: old way 1"}
    assert "old" not in capfd.readouterr().err
