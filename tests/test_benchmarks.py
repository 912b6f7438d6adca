"""Every benchmark runs in its smallest form and prints what the README quotes of it; how long anything took is not
looked at."""

import math
import multiprocessing
import os
import re
import runpy
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from conftest import Imported
from harness.timing.worker import Worker

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted(p for p in (ROOT / "benchmarks").glob("*.py") if '__name__ == "__main__"' in p.read_text())
NUMBER = r"([-+]?(?:\d+\.?\d*|inf|nan))"
PRINTED = {
    "aa": [
        rf"identical code: \d+ PASS, \d+ FAIL, \d+ INCONCLUSIVE of 2 .* median {NUMBER};",
        rf"5% slower: .* ratios {NUMBER} to {NUMBER}, median {NUMBER};",
        rf"Mann-Whitney, .*: {NUMBER} alarms of 2",
    ],
    "answers": [
        rf"GQA-shaped, .*: {NUMBER}x.*; 9 of 9 answers are the same",
        rf"DocVQA-shaped, .* \(batch 32\) {NUMBER} s, ours {NUMBER} s: {NUMBER}x.*; (\d+) of \d+ answers are the same",
        rf": {NUMBER} of the floor",
    ],
    "bench_truth": [
        rf"encode: bench {NUMBER} ms, torch.utils.benchmark {NUMBER} ms; ratio {NUMBER} ",
        rf"prefill: bench {NUMBER} ms, torch.utils.benchmark {NUMBER} ms; ratio {NUMBER} ",
        rf"own cost a pass: {NUMBER} us = {NUMBER}% of a 10 ms call",
        rf"encode in a measurement, .*: {NUMBER} ms",
    ],
    "composed": [
        rf"naive: 2 whole VLMs, .* 6 components, \d+ s: {NUMBER} of the time",
        rf"at the same width .*: {NUMBER} of the time",
        rf"naive {NUMBER}%, composed {NUMBER}%",
        rf"composed against direct: median {NUMBER}%, from {NUMBER}% to {NUMBER}%; {NUMBER} of 2 intervals",
    ],
    "extrapolation": [rf"16 visual tokens: extended over measured {NUMBER} .* depth between is {NUMBER}% off the line"],
    "inference_form": [rf"training form {NUMBER} ms, fused {NUMBER} ms, ratio {NUMBER}", rf"median ratio {NUMBER}"],
}
"""What a benchmark prints; every number is finite. Of others: something."""


HERE = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
"""One thread."""
REAL = "inference_form"
"""The one that is started as a person starts it."""


def smoke(script: Path, folder: Path) -> None:
    """The main function of a forked process: the script from beginning to end, with its imports done."""
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT), number)
    os.environ |= {**HERE, "VLM_HARNESS_LOCK": str(folder / "lock")}
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    multiprocessing.set_forkserver_preload(["harness.timing.measurer"])
    Worker.context = Imported()
    os.chdir(folder)
    sys.path.insert(0, str(script.parent))
    sys.argv = [str(script), "--smoke"]
    runpy.run_path(str(script), run_name="__main__")


def run(script: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """The smallest form."""
    if script.stem != REAL:
        process = Imported().Process(target=smoke, args=(script, folder))
        process.start()
        process.join(1200)
        if process.is_alive():
            process.kill()
            process.join()
        said = [path.read_text() if path.exists() else "" for path in (folder / "out", folder / "err")]
        return subprocess.CompletedProcess([str(script)], process.exitcode, *said)
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, str(script), "--smoke"],
        cwd=folder,
        env={**os.environ, **HERE, "VLM_HARNESS_LOCK": str(folder / "lock"), "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """All of them, two at a time: each has one thread, and what it takes is not looked at."""
    with ThreadPoolExecutor(2) as pool:
        yield {script: pool.submit(run, script, tmp_path_factory.mktemp(script.stem)) for script in SCRIPTS}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_benchmark_runs_in_small_and_prints_what_it_promises(script, runs):
    done = runs[script].result()
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip()
    for pattern in PRINTED.get(script.stem, ()):
        found = re.search(pattern, done.stdout)
        assert found, f"{pattern}\n{done.stdout}"
        assert all(math.isfinite(float(number)) for number in found.groups()), found[0]


def test_the_readme_quotes_benchmarks_that_exist():
    quoted = set(re.findall(r"^\| `(\w+)\.py`", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert quoted >= {"bench_truth", "aa", "composed", "extrapolation", "answers"}
    assert quoted <= {path.stem for path in SCRIPTS}
    assert PRINTED.keys() <= {path.stem for path in SCRIPTS}
