"""A look at the machine before anything is measured: who uses it, and whether that is too much."""

import math
import time
from typing import NamedTuple

import psutil
import pytest

from harness.machine import available_cores
from harness.timing import quiet
from harness.timing.quiet import Use, look, trial


@pytest.mark.parametrize(
    ("use", "busy"),
    [
        (Use(0.1, wanted=2, cores=2), False),
        (Use(0.3, wanted=2, cores=2), True),
        (Use(1.0, wanted=1, cores=2), False),  # one processor is left for one thread
        (Use(1.4, wanted=1, cores=2), True),
        (Use(10.0, wanted=2, cores=64), False),
        (Use(0.3, wanted=128, cores=64), True),
        (Use(0.0, wanted=1, cores=8, gpu=0.9), True),
        (Use(0.0, wanted=1, cores=8, gpu=0.0, load=7.5), False),  # a load that is over is a hint, not a use
        (Use(2.0, wanted=2, cores=64, got=0.5), True),  # a quota that others use up as well
        (Use(0.0, wanted=2, cores=2, got=0.9), False),
    ],
)
def test_a_machine_is_busy_when_others_use_what_the_threads_want(use, busy):
    assert use.busy is busy


def test_a_use_says_who_it_is():
    use = Use(1.44, 2, 2, ("ffmpeg (pid 71, ann) 98%", "python (pid 9, ann) 46%"), load=7.5)
    assert str(use) == ("others use 1.4 of 2 processors (load 7.5): ffmpeg (pid 71, ann) 98%, python (pid 9, ann) 46%")
    assert str(Use(2.0, 2, 64, got=0.5)).startswith(
        "others use 2.0 of 64 processors, 2 threads get 50% of theirs; which"
    )
    assert str(Use(1.0, 2, 2, gpu=0.5)) == (
        "others use 1.0 of 2 processors and the GPU 50% of the time; which processes cannot be seen from here"
    )


class Fake:
    """psutil with a machine of two processors and processes that each use a share of one."""

    Error = psutil.Error

    def __init__(self, clock, shares, ours, stolen=0.0, hidden=0.0):
        self.clock, self.shares, self.ours, self.stolen, self.hidden = clock, shares, ours, stolen, hidden

    def cpu_count(self):
        return 2

    def cpu_times(self):
        used = (math.fsum(self.shares.values()) + self.hidden) * self.clock.now
        stolen = self.stolen * self.clock.now
        return Times(user=used, idle=2 * self.clock.now - used - stolen, steal=stolen)

    def process_iter(self):
        return [self.Process(pid) for pid in self.shares]

    def Process(self, pid=None):
        fake = self

        class Process:
            def __init__(self, pid):
                self.pid = pid

            def children(self, recursive):
                return [Process(each) for each in fake.ours[1:]]

            def cpu_times(self):
                if self.pid not in fake.shares:
                    raise psutil.NoSuchProcess(self.pid)
                return Times(user=fake.shares[self.pid] * fake.clock.now, idle=0.0, steal=0.0)

            def name(self):
                return f"program\n{self.pid}"

            def username(self):
                if self.pid == 4:
                    raise KeyError("a container does not know this user")
                return "ann"

        return Process(fake.ours[0] if pid is None else pid)


class Times(NamedTuple):
    user: float
    idle: float
    steal: float
    system: float = 0.0


@pytest.fixture
def machine(monkeypatch, clock):
    def make(shares, **more):
        fake = Fake(clock, shares, ours=[1, 2], **more)
        monkeypatch.setattr(quiet, "psutil", fake)
        monkeypatch.setattr(quiet.time, "sleep", clock.advance)
        monkeypatch.setattr(quiet.time, "monotonic", clock)
        monkeypatch.setattr(quiet, "trial", lambda threads: 1.0)
        return look("cpu", 2)

    return make


def test_a_look_sees_what_others_use_and_names_the_busiest(machine):
    use = machine({1: 0.3, 2: 0.4, 3: 0.5, 4: 0.2, 5: 0.01, 6: 0.1, 7: 0.07})
    assert use.processors == pytest.approx(0.88)
    assert use.users == ("program 3 (pid 3, ann) 50%", "program 4 (pid 4) 20%", "program 6 (pid 6, ann) 10%")
    assert use.busy


def test_what_a_hypervisor_takes_and_what_cannot_be_seen_is_use_by_others(machine):
    use = machine({1: 0.1}, stolen=0.5, hidden=0.4)
    assert use.processors == pytest.approx(0.9)
    assert use.users == ()


def test_our_own_work_does_not_make_a_machine_busy(machine):
    assert not machine({1: 0.9, 2: 0.9}).busy


def test_a_real_look_takes_its_time_and_counts_no_more_than_there_is():
    begin = time.monotonic()
    use = look("cpu", 1, seconds=0.1)
    assert time.monotonic() - begin >= 0.1
    assert 0 <= use.processors <= use.cores * 1.5  # the system's counters have ticks of 10 ms
    assert use.gpu is None


def test_threads_that_share_processors_get_a_part_of_them():
    share = trial(4 * available_cores(), seconds=0.2)
    assert 0.05 < share < 0.5  # a quarter, whatever else runs, but for the ticks of the scheduler
