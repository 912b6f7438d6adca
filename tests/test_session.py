"""A session with a worker that does what it is told: what is stored, what is said, when it stops."""

import io
import os
import signal
import subprocess
import sys

import pytest
from rich.console import Console

from conftest import ENCODER, MACHINE, Clock, make_component, make_measurement, make_samples
from harness.progress import Progress
from harness.schema import Measurement
from harness.storage import store
from harness.storage.lock import Held, device_lock, locked
from harness.timing import session as sessions
from harness.timing.plan import Estimate, Plan
from harness.timing.session import GIVE_UP, Session, alone, await_quiet
from harness.timing.telemetry import Disturbed, Use
from harness.timing.worker import Outcome

NAMES = ["one", "two", "three"]
FIELDS = {name: getattr(make_measurement(), name) for name in ("timer", "telemetry", "memory", "ceilings")}


def make_plan(names=NAMES, **protocol):
    rules = make_component().protocol.model_copy(update=protocol)
    components = {
        name: make_component(encoder=ENCODER.model_copy(update={"name": name}), attention="", protocol=rules)
        for name in names
    }
    plan = Plan(components=components, commands=dict.fromkeys(names, "command"), machines={"cpu": MACHINE})
    plan._work = {name: {"encode": make_measurement().work["encode"]} for name in names}
    return plan


class Scripted:
    """A worker of which `script` says what becomes of a task: names, block -> an `Outcome`, or which are disturbed."""

    def __init__(self, script, repeats=1):
        self.script, self.repeats, self.asked, self.started = script, repeats, [], 0
        self.running = False

    def measure(self, units, seed, timeout, progress=lambda *_: None):
        if not self.running:
            self.running, self.started = True, self.started + 1
        names = [component.encoder.name for unit in units for component in unit]
        self.asked.append(sorted(names))
        progress("timing", 0.5)
        found = self.script(names, int(seed.partition("/")[2]))
        process = f"process {self.started}"
        if isinstance(found, Outcome):
            self.running = False
            return Outcome(found.status, found.reason, found.results, process)
        results = [
            [
                [
                    {**FIELDS, "samples": make_samples(), "seconds": 1.0, "disturbed": disturbed}
                    for disturbed in ([True] * (1 + self.repeats) if component.encoder.name in found else [False])
                ]
                for component in unit
            ]
            for unit in units
        ]
        return Outcome("ok", "", tuple(results), process)

    def stop(self):
        self.running = False


def make_session(root, plan, script, log=None, **arguments):
    progress = Progress(100, Console(file=log or io.StringIO(), soft_wrap=True, highlight=False))
    made = Session(plan, root, 12, 0, progress, **arguments)
    made.worker = Scripted(script)
    return made


def kept(root):
    return [(v.key, v.block, v.status, v.attempt) for v in store.read_all(root, Measurement)]


# What is disturbed


def test_where_everything_is_disturbed_it_stops_after_two_blocks_and_keeps_them(tmp_path):
    one = make_session(tmp_path, make_plan(), lambda names, block: NAMES, patient=False)
    with pytest.raises(Disturbed) as stopped:
        one.measure_all([NAMES] * 9)
    assert {(key, block) for key, block, _, _ in kept(tmp_path)} == {(key, block) for key in NAMES for block in (0, 1)}
    assert "every measurement of 2 blocks in a row was disturbed" in str(stopped.value)
    assert "run the same command again" in str(stopped.value)
    assert "busy=warn" in str(stopped.value)
    assert " … " not in str(stopped.value)  # not so long that its middle is cut out
    assert "\n" not in str(stopped.value)


@pytest.mark.parametrize(
    ("disturbed", "blocks"),
    [
        ([3, 3, 3, 3, 3], 2),
        ([3, 2, 3, 3, 3], 4),  # one that was not disturbed starts the count again
        ([3, 2, 3, 2, 3], 5),
        ([2, 3, 3], 3),  # after the last block there is nothing to stop
    ],
)
def test_blocks_in_a_row_count(tmp_path, disturbed, blocks):
    one = make_session(tmp_path, make_plan(), lambda _, block: NAMES[: disturbed[block]], patient=False)
    todo = [NAMES] * len(disturbed)
    if blocks < len(disturbed):
        with pytest.raises(Disturbed):
            one.measure_all(todo)
    else:
        one.measure_all(todo)
    assert len({block for _, block, _, _ in kept(tmp_path)}) == blocks


def test_a_measurement_whose_repetition_was_not_disturbed_is_not_disturbed(tmp_path):
    plan = make_plan(["one"])
    attempts = [{**FIELDS, "samples": make_samples(), "seconds": 1.0, "disturbed": each} for each in (True, False)]
    one = make_session(tmp_path, plan, lambda names, block: Outcome("ok", "", ([attempts],)), patient=False)
    one.measure_all([["one"]] * 5)
    assert len(kept(tmp_path)) == 10


def test_a_patient_session_goes_on(tmp_path):
    log = io.StringIO()
    make_session(tmp_path, make_plan(), lambda *_: NAMES, log).measure_all([NAMES] * 4)
    assert len({block for _, block, _, _ in kept(tmp_path)}) == 4
    assert "block 4/4: 3 measurements, 3 disturbed in" in log.getvalue()


def test_blocks_in_which_nothing_was_measured_do_not_count(tmp_path):
    def script(names, block):
        return Outcome("error", "no") if "two" in names or "three" in names else ["one"]

    one = make_session(tmp_path, make_plan(), script, patient=False)
    with pytest.raises(Disturbed):
        one.measure_all([["one"], ["two"], ["one"], ["one"]])
    assert [block for _, block, status, _ in kept(tmp_path) if status == "ok"] == [0, 0, 2, 2]
    assert GIVE_UP == 2


# What fails in turns


def test_a_batch_that_fails_and_whose_components_do_not_is_told_and_in_the_store(tmp_path):
    log = io.StringIO()

    def script(names, block):
        return Outcome("crashed", "the measuring process was ended by SIGSEGV") if len(names) > 1 else []

    plan = make_plan()
    one = make_session(tmp_path, plan, script, log)
    one.measure_all([NAMES])
    measurements = store.read_all(tmp_path, Measurement)
    first, later = measurements[:3], measurements[3:]
    assert [v.status for v in first] == ["crashed"] * 3
    assert {v.key for v in first} == {v.key for v in later} == set(NAMES)
    for measurement in first:
        assert measurement.reason == "in turns with 2 more: the measuring process was ended by SIGSEGV"
        assert measurement.samples is None
    assert [v.status for v in later] == ["ok"] * 3
    counted = store.by_block(measurements)  # what was measured alone is newer, and counts
    assert {counted[key][0].status for key in NAMES} == {"ok"}
    assert not any(plan.missing(counted)[:1])
    said = "failed: 3 components in turns: crashed: the measuring process was ended by SIGSEGV; each is measured alone"
    assert said in log.getvalue()
    assert log.getvalue().count("failed") == 1


def test_a_batch_that_fails_and_is_killed_before_it_was_repeated_is_measured_by_the_next_run(tmp_path):
    plan = make_plan()

    def script(names, block):
        if len(names) > 1:
            return Outcome("timeout", "no sign of life")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_session(tmp_path, plan, script).measure_all([NAMES])
    assert plan.missing(store.load(tmp_path)[0])[0] == NAMES


def test_what_fails_alone_as_well_is_not_measured_in_later_blocks(tmp_path):
    log = io.StringIO()

    def script(names, block):
        return Outcome("crashed", "SIGSEGV") if "two" in names else []

    one = make_session(tmp_path, make_plan(), script, log)
    one.measure_all([NAMES] * 3)
    assert sorted(one.worker.asked[0]) == sorted(NAMES)
    assert ["two"] in one.worker.asked[:4]
    assert one.worker.asked[4:] == [["one", "three"]] * 2
    assert f"failed: {one.plan.components['two'].name}: SIGSEGV" in log.getvalue()


def test_sides_that_fail_together_and_not_alone_are_not_of_one_process(tmp_path):
    one = make_session(
        tmp_path, make_plan(["one", "two"]), lambda names, _: Outcome("crashed", "x") if len(names) > 1 else []
    )
    one.measure_all([["one", "two"]], {"one": "pair", "two": "pair"})
    good = [v for v in store.read_all(tmp_path, Measurement) if v.status == "ok"]
    assert len({v.process for v in good}) == 2


# Kills


def test_a_killed_process_leaves_a_batch_whole_or_not_at_all(tmp_path):
    """All attempts of all components of a batch are one append: a kill in the middle of it leaves none of them."""
    code = """
import os, signal, sys
from pathlib import Path
from test_session import make_plan, make_session, NAMES
honest, written = os.write, []
def write(handle, data):
    done = honest(handle, data)
    written.append(done)
    if len(data) > 5000:  # a batch, and not the name on a lock
        os.kill(os.getpid(), signal.SIGKILL)
    return done
os.write = write
make_session(Path(sys.argv[1]), make_plan(), lambda *_: NAMES).measure_all([NAMES] * 2)
"""
    folder = os.path.dirname(__file__)  # noqa: PTH120
    paths = os.pathsep.join([folder, os.path.dirname(folder), os.environ.get("PYTHONPATH", "")])  # noqa: PTH120
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=os.environ | {"PYTHONPATH": paths}, check=False
    )
    assert done.returncode == -signal.SIGKILL
    found = kept(tmp_path)
    assert sorted(found) == sorted((key, 0, "ok", attempt) for key in NAMES for attempt in (0, 1))
    assert make_plan().missing(store.load(tmp_path)[0])[:2] == [[], NAMES]


def test_a_disturbed_measurement_without_its_repetition_is_measured_again(tmp_path):
    plan = make_plan(blocks=1)
    for name, attempt, disturbed in (("one", 0, True), ("two", 0, False), ("three", 0, True), ("three", 1, True)):
        component = plan.components[name]
        store.append(tmp_path, make_measurement(key=name, component=component, attempt=attempt, disturbed=disturbed))
    assert plan.missing(store.load(tmp_path)[0]) == [["one"]]
    one = make_session(tmp_path, plan, lambda *_: [])
    one.measure_all([["one"]])
    assert plan.missing(store.load(tmp_path)[0]) == [[]]
    assert plan.resumed(store.load(tmp_path)[0], [["one"]]) == 1
    assert plan.resumed({}, [NAMES]) == 0


# What is said


def test_the_share_of_a_batch_moves_the_bar_by_what_it_is_expected_to_take(tmp_path):
    shares = []
    plan = make_plan()
    estimate = Estimate({"one": 10.0, "two": 20.0, "three": 64.0}, 0.0, blocks=2 * (6 + 94.0))
    one = make_session(tmp_path, plan, lambda *_: [], estimate=estimate)
    one.progress.advance = shares.append
    one.measure_all([NAMES] * 2)
    assert shares == pytest.approx([(6 + 47) / 200, 0.5, 0.5, (106 + 47) / 200, 1.0, 1.0])


def test_a_warning_of_a_library_is_said_once(tmp_path):
    log = io.StringIO()
    one = make_session(tmp_path, make_plan(), lambda *_: [], log)
    for _ in range(3):
        one._note("FutureWarning: old")
    assert log.getvalue() == "note: FutureWarning: old\n"


# Before the first block

QUIET, BUSY = Use(0.1, 2, 2), Use(1.4, 2, 2, ("ffmpeg (pid 71, ann) 98%",), load=7.5)


def looking(clock, *uses):
    """A look that takes a second and sees `uses` one after the other, the last one for ever."""
    left = list(uses)

    def look():
        clock.advance(1.0)
        return left.pop(0) if len(left) > 1 else left[0]

    return look


def test_a_quiet_machine_is_not_waited_for(clock):
    said = []
    for busy in ("wait", "warn", "refuse"):
        await_quiet(looking(clock, QUIET), busy, 60, said.append, clock)
    assert said == []
    assert clock.now == 3


def test_wait_waits_until_it_is_quiet(clock):
    said = []
    await_quiet(looking(clock, *[BUSY] * 12, QUIET), "wait", 60, said.append, clock)
    assert clock.now == 13
    assert len(said) == 2
    assert "ffmpeg (pid 71, ann) 98%" in said[0]
    assert "waiting up to 60 s" in said[0]
    assert said[1] == "quiet after 12 s"


def test_wait_ends_after_the_stated_time_and_warns(clock):
    said = []
    await_quiet(looking(clock, BUSY), "wait", 30, said.append, clock)
    assert clock.now == 31
    assert said[-1].startswith("note: this machine is busy: others use 1.4 of 2 processors (load 7.5): ffmpeg")


def test_warn_goes_on_at_once_and_refuse_does_not():
    clock, said = Clock(), []
    await_quiet(looking(clock, BUSY), "warn", 60, said.append, clock)
    assert clock.now == 1
    assert said == [f"note: this machine is busy: {BUSY}; times will be disturbed"]
    with pytest.raises(Disturbed, match=r"nothing was measured: .*ffmpeg .pid 71, ann. 98%; busy=warn measures"):
        await_quiet(looking(clock, BUSY), "refuse", 60, said.append, clock)


# Alone


def test_the_device_is_held_by_one_at_a_time_and_by_name():
    with alone(), pytest.raises(Held) as refused, alone():
        pass
    assert str(refused.value).startswith(f"another sweep is measuring on this machine: pid {os.getpid()} on ")
    assert str(refused.value).endswith("; wait=true waits for it")
    with alone():
        pass


def test_an_error_inside_is_not_taken_for_the_lock(tmp_path):
    other = tmp_path / "other.lock"
    with locked(other), pytest.raises(Held) as refused, alone(), locked(other, wait=False):
        pass
    assert "wait=true" not in str(refused.value)


def test_who_is_waited_for_is_said_at_once_and_then_every_minute(monkeypatch, clock):
    said = []

    def until(path, wait, what, waiting, mode):
        assert path == device_lock()
        for _ in range(130):
            clock.advance(1)
            waiting("another sweep")
        return locked(path, wait, what, waiting, mode)

    monkeypatch.setattr(sessions, "locked", until)
    monkeypatch.setattr(sessions.time, "monotonic", clock)
    with alone(True, said.append):
        pass
    assert said == ["waiting: another sweep"] * 3
