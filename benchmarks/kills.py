"""Does a sweep that is killed at any moment lose, double or change anything?

    python benchmarks/kills.py                     # 1,000 kills of sweeps in forked processes
    python benchmarks/kills.py --real --kills 100  # of `python -m harness.sweep`, as a person starts it
    python benchmarks/kills.py --smoke

A sweep of two blocks and three suites is started, killed by SIGKILL at a random moment, started again, until it ends by
itself; then the next one begins. After every kill: each whole line that was in the store and the journals before is
still there, in its place. After every end: each component once in each block, all of a block from one process, each
suite asked once, and the answers those of a sweep that nobody disturbed.

The forked form starts from a server that has imported everything; its measuring processes are forked as well, the
device's ceilings and use are looked at briefly, and no pictures are drawn; the rest is the sweep's own code. One
thread: a forked process must not inherit a pool of threads.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from harness.schema import Evaluation, Measurement
from harness.storage import store

SWEEP = [
    *("encoder=tiny_fastvithd", "resolution=64", "limit=2", "threads=1", "direct=0", "busy=warn"),
    *(
        "protocol=quick",
        "protocol.blocks=2",
        "protocol.repeats=0",
        "protocol.max_samples=6",
        "protocol.warmup_seconds=0",
    ),
    *("+protocol.lost=10", "+protocol.disturbed=1"),
]


def forked(folder: Path) -> int:
    """Start the sweep in a fork of this process; returns its id."""
    if pid := os.fork():
        return pid
    try:
        os.chdir(folder)
        log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        from harness import sweep

        os._exit(sweep.main(SWEEP))
    finally:
        os._exit(99)


def started(folder: Path) -> int:
    """Start the sweep as a person does; returns its id."""
    command = [sys.executable, "-m", "harness.sweep", *SWEEP]
    log = (folder / "log").open("ab")
    return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log).pid  # noqa: S603 (its words stand above)


def fork_server() -> None:
    """Import everything once, and let measuring processes be forks of their sweep."""
    import torch

    import harness.report.write
    import harness.sweep
    import harness.timing.measurer
    from harness.runtimes import torch_runtime
    from harness.suites import questions
    from harness.suites.tasks import load_suite
    from harness.timing import telemetry, timer, worker

    torch.set_num_threads(1)
    worker.Worker.context = multiprocessing.get_context("fork")
    torch_runtime.PRODUCT["cpu"], torch_runtime.BUFFER["cpu"] = 256, 2**20
    short = partial(timer.measure_ceilings, seconds=0.01)
    vars(harness.timing.measurer)["measure_ceilings"] = vars(timer)["measure_ceilings"] = short
    vars(telemetry)["look"] = partial(telemetry.look, seconds=0.01)
    vars(harness.report.write)["draw_figures"] = lambda *_: []
    with tempfile.TemporaryDirectory() as folder:  # what a process draws and composes once is there before the forks
        reports = [f"results={folder}/results", f"reports={folder}/reports"]
        with contextlib.redirect_stdout(io.StringIO()):
            harness.sweep.main([*SWEEP, *reports, "dry_run=true"])
        questions.examples()
        for suite in ("doc_read", "scene_text", "shapes"):
            questions.load(load_suite(suite, 2))


def lines(folder: Path) -> dict[Path, list[bytes]]:
    """Every whole line of the store and the journals."""
    found = {}
    for path in sorted((folder / "results").rglob("*.jsonl")):
        content = path.read_bytes()
        found[path] = content[: content.rfind(b"\n") + 1].splitlines()
    return found


Answers = dict[tuple[str, str], list[tuple[str, str]]]
"""By suite and what was shown (its images, or grey ones): questions and answers."""


def answers(folder: Path) -> Answers:
    """What was answered."""
    found: Answers = {}
    for evaluation in store.read_all(folder / "results", Evaluation):
        if evaluation.score is not None:
            found[evaluation.suite.name, evaluation.suite.image] = [
                (a.question_id, a.text) for a in evaluation.score.answers
            ]
    return found


def faults_of(folder: Path, expected: Answers, components: int) -> list[str]:
    """What a finished sweep should not be."""
    found = []
    measurements, evaluations = (
        store.read_all(folder / "results", Measurement),
        store.read_all(folder / "results", Evaluation),
    )
    good = Counter((measurement.key, measurement.block) for measurement in measurements if measurement.status == "ok")
    if len(good) != 2 * components:
        found.append(f"{len(good)} measurements, expected {2 * components}")
    newest = store.by_block(measurements)
    for block in (0, 1):
        processes = {blocks[block].process for blocks in newest.values() if block in blocks}
        if len(processes) != 1:
            found.append(f"block {block} is of {len(processes)} processes")
    if bad := [entry for entry in (*measurements, *evaluations) if entry.status != "ok"]:
        found.append(f"{len(bad)} failures, the first: {bad[0].reason}")
    asked = Counter(evaluation.key for evaluation in evaluations)
    if sorted(asked.values()) != [1] * len(expected):
        found.append(f"suites were asked {sorted(asked.values())} times")
    if answers(folder) != expected:
        found.append("the answers are others")
    for path, kept in lines(folder).items():
        if path.parent.name == "journal" and len(set(kept)) != len(kept):
            found.append(f"{path.name}: an answer is there twice")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--real", action="store_true", help="kill `python -m harness.sweep` itself")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="one kill")
    asked = parser.parse_args(arguments)
    kills, rng = 1 if asked.smoke else asked.kills, random.Random(asked.seed)
    os.environ["VLM_HARNESS_LOCK"] = str(Path(tempfile.gettempdir()) / f"kills-{os.getpid()}.lock")
    begin_one = started if asked.real else forked
    if not asked.real:
        fork_server()
    root = Path(tempfile.mkdtemp(prefix="kills-"))
    undisturbed = root / "undisturbed"
    undisturbed.mkdir()
    begin = time.monotonic()
    if code := ended(begin_one(undisturbed)):
        print(f"the undisturbed sweep ended with {code}:\n{(undisturbed / 'log').read_text()}")
        return 2
    seconds = time.monotonic() - begin
    expected = answers(undisturbed)
    components = len({measurement.key for measurement in store.read_all(undisturbed / "results", Measurement)})
    print(
        f"undisturbed: {seconds:.1f} s, {components} components, {sum(map(len, expected.values()))} answers", flush=True
    )
    done = finished = lost = 0
    faults: list[str] = []
    moments: Counter[str] = Counter()
    folder, tries = root / "0", 0
    folder.mkdir()
    while done < kills:
        before = lines(folder)
        pid = begin_one(folder)
        tries += 1
        # Early kills of a fresh sweep hit its start, later ones its blocks, its evaluations and its report; a sweep
        # that has been killed eight times is let end, so that ends are looked at as well.
        killed = tries <= 8 and not over(pid, rng.uniform(0.05, 1.0) * seconds)
        if killed:
            os.kill(pid, signal.SIGKILL)
            ended(pid)
            done += 1
        elif tries > 8 and (code := ended(pid)):
            faults.append(f"sweep {finished}: ended with {code}")
        after = lines(folder)
        for path, kept in before.items():
            if after.get(path, [])[: len(kept)] != kept:
                lost += 1
                faults.append(f"sweep {finished}, start {tries}: {path.name} lost lines")
        evaluations = len(
            after.get(next(iter((folder / "results" / "measured").glob("*/evaluations.jsonl")), folder), [])
        )
        moments[f"{sum(map(len, after.values()))} lines" if not evaluations else f"{evaluations} suites asked"] += (
            killed
        )
        if not killed:
            faults += [f"sweep {finished}: {fault}" for fault in faults_of(folder, expected, components)]
            shutil.rmtree(folder)
            finished += 1
            folder, tries = root / str(finished), 0
            folder.mkdir()
        if killed and done % 50 == 0:
            print(f"  {done} kills, {finished} sweeps ended, {len(faults)} faults", flush=True)
    shutil.rmtree(root)
    spent = time.monotonic() - begin
    print(f"{done} kills, {finished} sweeps ended, {lost} lost lines, {len(faults)} faults in {spent:.0f} s")
    print("killed with so much done: " + ", ".join(f"{what}: {number}" for what, number in sorted(moments.items())))
    for fault in faults[:20]:
        print(fault)
    return 1 if faults else 0


def over(pid: int, seconds: float) -> bool:
    """Whether a process ended within so many seconds; it is reaped then."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found, _ = os.waitpid(pid, os.WNOHANG)
        if found:
            return True
        time.sleep(0.005)
    return False


def ended(pid: int) -> int:
    """Wait for a process; returns its exit code, negative for a signal."""
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main())
