"""What the documentation says, done: its blocks and commands run, its names exist.

Every fence says in its info string what a test does with it:

- `run`: it is executed, in small: the main job is narrowed by `SMALL`, a measurement in Python by `QUICK`;
- `dry`: each of its commands is executed with `dry_run=true`;
- `file`: its text is a file, written where its first comment says before the commands of its page are executed;
- `shown: REASON`: it is not executed, and why.

What stands for a hub, a GPU or a folder of the reader's is in `STAND_INS`.
"""

import ast
import importlib
import importlib.util
import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import datasets
import pandas as pd
import pytest
import yaml
from PIL import Image

import harness
from benchmarks.checkpoints import KINDS
from harness import api, sweep
from harness.analysis import claims
from harness.configuration import command_line
from harness.configuration.compose import ROOT as SWEEPS
from harness.configuration.compose import compose_all, keys_of, options
from harness.configuration.points import make_point
from harness.metrics import METRICS
from harness.models.vlm import SHIPPED
from harness.report.__main__ import DEFAULTS as REPORT_DEFAULTS
from harness.report.__main__ import main as report
from harness.report.__main__ import parse as parse_report
from harness.schema import STAGES, TTFTS, HarnessError, Status, Work, modules_of
from harness.stats import Verdict
from harness.storage.lock import Held
from harness.timing import plan
from harness.timing.telemetry import Disturbed
from harness.train.finetune import options_of

ROOT = Path(__file__).parent.parent
SHOWN = ROOT / "docs" / "showcase"
"""Reports, written by the harness: their names are those of its tests."""
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *(ROOT / "results").glob("**/README.md"),
    *sorted(page for page in (ROOT / "docs").glob("**/*.md") if not page.is_relative_to(SHOWN)),
]
MARKS = ("run", "dry", "file", "shown")
QUICK = ["protocol=quick", "limit=1", "threads=1", "+protocol.lost=1", "+protocol.disturbed=1"]
SMALL = ["encoder=tiny_vit", "llm=tiny_qwen2_m", "resolution=64,128", "direct=1", *QUICK]
"""The main job in seconds: two of its points, one block, one image of each suite."""
SETUP = {"python3 -m venv .venv", ". .venv/bin/activate", "scripts/check"}
"""Commands that stand for themselves: no test makes an environment within another one, or itself."""


@dataclass(frozen=True)
class Fence:
    """A fenced block: where it stands, what it is written in, what a test does with it, and why not more."""

    page: Path
    line: int
    language: str
    mark: str
    reason: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def fences_of(text: str, page: Path) -> Iterator[Fence]:
    """Every fence of a page; one that is never closed is an error."""
    opened: tuple[int, str, list[str]] | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        if line.lstrip().startswith("```"):
            if opened is None:
                opened = number, line.lstrip().removeprefix("```"), []
                continue
            begin, info, lines = opened
            language, _, rest = info.partition(" ")
            mark, _, reason = rest.partition(":")
            yield Fence(page, begin, language, mark.strip(), reason.strip(), "\n".join(lines))
            opened = None
        elif opened is not None:
            opened[2].append(line)
    assert opened is None, f"{page}: the fence of line {opened[0]} is never closed"


def faults(fence: Fence) -> list[str]:
    """What is wrong with a fence's info string."""
    found = []
    if not re.fullmatch(r"bash|python|yaml|text", fence.language):
        found.append(f"the first word is {fence.language!r} and not a language")
    if fence.mark not in MARKS:
        found.append(f"the mark is {fence.mark!r}; one of {', '.join(MARKS)} is expected")
    if (fence.mark == "shown") != bool(fence.reason):
        found.append("'shown: REASON' says why it is not executed; the others have no reason")
    if fence.mark == "dry" and fence.language != "bash":
        found.append("only commands are dry")
    if fence.mark == "file" and not NAME.search(fence.text):
        found.append("a file says in a comment where it goes")
    return found


NAME = re.compile(r"^# (\S+\.(?:yaml|py))$", re.MULTILINE)
"""The comment that says where a file goes."""
FENCES = [fence for page in PAGES for fence in fences_of(page.read_text(), page)]


def commands_of(text: str) -> list[list[str]]:
    """The commands of a block, as a shell splits them."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        words: list[str] = []
        for word in shlex.split(line, comments=True):
            if word == "&&":
                found.append(words)
                words = []
            else:
                words.append(word)
        found.append(words)
    return [words for words in found if words]


def spans_of(page: Path) -> list[str]:
    """What a page has in backticks outside of its fences."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


SPANS = sorted({(page, span) for page in PAGES for span in spans_of(page)})
STARTS = ("accelerate ", "torchrun ", "python ", "python3 ", "lm_eval ", "pip ", "pytest", "scripts/")
COMMANDS = [(f, words) for f in FENCES if f.language == "bash" for words in commands_of(f.text)]
INLINE = [(page, words) for page, span in SPANS if span.startswith(STARTS) for words in commands_of(span)]
PLANNED = [words for _, words in [*COMMANDS, *INLINE] if words[:3] == ["python", "-m", "harness.sweep"]]
DRY = [list(words) for words in dict.fromkeys(tuple(w for w in words if w != "dry_run=true") for words in PLANNED)]


# The fences


def test_every_fence_says_what_is_done_with_it():
    assert {f.page.name for f in FENCES} >= {"README.md", "CONTRIBUTING.md"}
    assert [f"{fence}: {fault}" for fence in FENCES for fault in faults(fence)] == []


@pytest.mark.parametrize(
    ("info", "fault"),
    [
        ("", "not a language"),
        ("bash", "the mark is ''"),
        ("bash later", "the mark is 'later'"),
        ("bash shown", "says why"),
        ("bash run: sometimes", "says why"),
        ("python dry", "only commands"),
        ("yaml file", "where it goes"),
    ],
)
def test_a_fence_without_a_mark_or_a_reason_is_found(info, fault):
    (fence,) = fences_of(f"text\n```{info}\nx\n```\n", Path("page.md"))
    assert fault in " ".join(faults(fence))
    (good,) = fences_of("```bash shown: needs a GPU\nx\n```\n", Path("page.md"))
    assert (good.reason, faults(good)) == ("needs a GPU", [])


def test_every_command_is_one_that_a_test_knows():
    unknown = [words for _, words in [*COMMANDS, *INLINE] if kind_of(words) == "unknown"]
    assert unknown == []
    done = {"run": {"setup", "install", "sweep"}, "dry": {"sweep"}}  # what these marks promise for a shell's block
    for fence, words in COMMANDS:
        assert kind_of(words) in done.get(fence.mark, {kind_of(words)}), f"{fence}: {shlex.join(words)}"


def kind_of(words: list[str]) -> str:
    """Which test does a command."""
    if " ".join(words) in SETUP:
        return "setup"
    if words[:2] == ["pip", "install"]:
        return "install"
    if words[0] in ("pytest", "lm_eval"):
        return words[0]
    if words[0] == "python" and words[1].startswith("benchmarks/"):
        return "benchmark"
    if words[-1].startswith("scripts/") and words[:-1] in ([], ["python"]):
        return "script" if (ROOT / words[-1]).is_file() else "unknown"
    if words[0] in ("accelerate", "torchrun") and "-m" in words:
        return kind_of(["python", *words[words.index("-m") :]])
    if words[:2] == ["python", "-m"] and words[2].partition(".")[0] == "harness":
        return words[2].rpartition(".")[2]
    return "unknown"


def these(kind: str) -> list[list[str]]:
    """All commands of a kind, once each."""
    found = [tuple(words) for _, words in [*COMMANDS, *INLINE] if kind_of(words) == kind]
    return [list(words) for words in dict.fromkeys(found)]


# Dry: the commands plan what they promise


STAND_INS = {
    "device=cuda": "device=cpu",
    "dtype=float16": "dtype=float32",  # half a minute for one product of the ceilings on a processor
    "checkpoint=path/to/your/vlm": f"checkpoint={SHIPPED / 'tiny_fastvithd-tiny_qwen2_m'}",
    "vlm.path=my-org/my-vlm": "vlm.path={smolvlm}",
    "vlm=fastvlm_0_5b": "vlm=fastvlm_0_5b vlm.path={fast_vlm}",
    "vlm=llava_1_5_7b": "vlm=llava_1_5_7b vlm.path={llava}",
    "vlm=example_vlm": "vlm=example_vlm vlm.path={smolvlm}",
    "data={pope:/data/pope}": "data={{pope:{pope}}}",
}
"""Tiny checkpoints of the same architecture in the hub's format, a CPU, the reader's folder."""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A folder for each architecture that the documentation names."""
    folder = tmp_path_factory.mktemp("hub")
    row = {"category": "random", "question_id": "1", "question": "Is it white?", "answer": "no", "image": "a.png"}
    (folder / "pope").mkdir()
    (folder / "pope" / "test.jsonl").write_text(json.dumps(row) + "\n")
    Image.new("RGB", (8, 8)).save(folder / "pope" / "a.png")
    kinds = {kind: str(KINDS[kind](folder / kind)) for kind in ("smolvlm", "fast_vlm", "llava")}
    return {**kinds, "pope": str(folder / "pope")}


@pytest.fixture
def examples(tmp_path, monkeypatch):
    """The files of the worked examples in their places."""
    made = []
    for fence in FENCES:
        if fence.mark == "file":
            name = NAME.search(fence.text)[1]
            path = ROOT / name if fence.language == "yaml" else tmp_path / name
            text = fence.text + "\n"
            assert not path.exists() or path.read_text() == text, f"{fence}: {name} is somebody else's"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            made += [path] if fence.language == "yaml" else []
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for path in made:
        path.unlink()


WEIGHTS: dict[str, int] = {}
"""Modules -> how many weights they have, counted once for all commands."""


@pytest.fixture
def light(monkeypatch):
    """A plan that counts no operations: for the full-size sweeps that takes minutes, and it decides nothing but the
    estimate (tests/test_plan.py). Weights are counted, once for each model, and say what is extrapolated."""
    real = plan.parameters_of

    def parameters_of(component):
        key = modules_of(component)
        if key not in WEIGHTS:
            WEIGHTS[key] = real(component)
        return WEIGHTS[key]

    work = Work(flops=10**9, bytes=10**6, eager_bytes=10**6, parameters=10**6)
    monkeypatch.setattr(plan, "parameters_of", parameters_of)
    monkeypatch.setattr(plan, "work_of", lambda component: {"encode": work})


def stood_in(words: list[str], hub: dict[str, str]) -> list[str]:
    """The command with what is here in place of what is not."""
    return [part for word in words for part in (STAND_INS[word].format(**hub).split() if word in STAND_INS else [word])]


PROMISES = {
    "example_deit": ("example_deit 224px qwen2_0_5b",),
    "example_vlm": ("example_vlm 128px", "1 of 1 evaluations"),  # the stand-in's own size
    "example_mine": ("example_mine 128px", "example_mine 256px"),
    "example_system": ("example_system 756px llm=qwen2_0_5b", "example_system 756px llm=qwen2_1_5b"),
}
"""What the worked examples say that they plan."""


@pytest.mark.parametrize("words", DRY, ids=lambda words: " ".join(words[3:])[:80])
def test_dry_commands_plan_points(words, hub, examples, light, capsys):
    assert sweep.main([*stood_in(words[3:], hub), "dry_run=true"]) == 0
    out = capsys.readouterr().out
    if "--help" in words:
        assert "KEY=VALUE" in out
    else:
        assert int(re.search(r": (\d+) points? on ", out)[1]) >= 1
        assert "estimated time" in out
    for name, points in PROMISES.items():
        if any(name in word for word in words):
            assert [point for point in points if point not in out] == []


def test_a_system_of_ones_own_has_the_tokens_that_it_says(examples):
    point = make_point(compose_all(["system=example_system"])[1][0])
    assert point.visual_tokens == point.system.visual_tokens == 405


def test_an_encoder_of_ones_own_is_measured(examples):
    small = ["llm.config.num_hidden_layers=1", "llm.config.vocab_size=1000", "protocol=quick", "threads=1"]
    point = harness.measure("encoder=example_mine", "llm=qwen2_0_5b", "resolution=64", *small)
    assert point.status == "ok"
    assert point.measurements["encoder"][0].component.visual_tokens == 4
    assert point.times()["encode"].value > 0


# Run: in small, as they stand


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A folder in which the main job has run in small, under its own name."""
    folder = tmp_path_factory.mktemp("measured")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sweep, "report_name", lambda common, arguments: common["sweep"]["name"])
        for fence, words in COMMANDS:
            if fence.mark == "run" and kind_of(words) == "sweep":
                assert sweep.main([*words[3:], *SMALL]) == 0, shlex.join(words)
    return folder


def test_the_main_job_runs(measured):
    run = [words for fence, words in COMMANDS if fence.mark == "run" and kind_of(words) == "sweep"]
    assert [words[3:] for words in run] == [["+sweep=resolution"]]
    table = api.load("resolution", measured / "results")
    assert table["resolution"].tolist() == [64, 128]
    assert (table["ttft_model"] > 0).all()
    assert table["accuracy"].between(0, 1).all()
    assert list((measured / "reports" / "resolution").glob("*.html"))


@pytest.mark.parametrize("fence", [f for f in FENCES if f.mark == "run" and f.language == "python"], ids=str)
def test_python_blocks_run_and_every_line_says_something(fence, measured, monkeypatch):
    measure = api.measure
    quick = lambda *overrides: measure(*overrides, *QUICK)  # noqa: E731
    monkeypatch.setattr(api, "measure", quick)
    monkeypatch.setattr(harness, "measure", quick, raising=False)
    monkeypatch.chdir(measured)
    scope: dict[str, object] = {}
    for statement in ast.parse(fence.text).body:
        if isinstance(statement, ast.Expr):
            value = eval(compile(ast.Expression(statement.value), str(fence), "eval"), scope)
            said = not value.empty if isinstance(value, pd.DataFrame) else bool(value)
            assert said, ast.unparse(statement)
        else:
            exec(compile(ast.Module([statement], []), str(fence), "exec"), scope)
    assert [name for name in scope if not name.startswith("__")]


def test_what_is_installed_exists():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert these("install")
    for words in these("install"):
        (target,) = (word for word in words[2:] if not word.startswith("-"))
        found = re.fullmatch(rf"(?:\.|{project['name']})(?:\[([\w,-]+)\])?", target)
        assert found, target
        assert set((found[1] or "").split(",")) - {""} <= project["optional-dependencies"].keys(), target
    for words in these("pytest"):
        assert words == ["pytest"]
        assert sum(re.match("pytest\\b", asked) is not None for asked in project["optional-dependencies"]["dev"]) == 1


@pytest.mark.parametrize("words", these("train"), ids=" ".join)
def test_trainings_compose(words):
    _, configs = compose_all([word for word in words[3:] if not word.startswith("-")], root="train")
    assert configs
    assert all(config["recipe"] for config in configs)


@pytest.mark.parametrize("words", these("finetune"), ids=" ".join)
def test_trainings_of_full_size_compose(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = [word for word in words[words.index("-m") + 2 :] if word != "..."]
    (config,) = compose_all(given or ["data=any.json"], root="finetune")[1]  # the name alone, in a sentence
    options, stage = options_of(config)
    assert (stage.name == "joint") == bool(options.start)


@pytest.mark.parametrize("words", [*these("harness"), *these("report")], ids=" ".join)
def test_other_commands_run(words, measured, monkeypatch):
    shutil.copytree(SHOWN, measured / "docs" / "showcase", dirs_exist_ok=True)
    if words[2] == "harness.report" and words != these("report")[0]:  # the first one as a person starts it
        monkeypatch.chdir(measured)
        assert report(words[3:]) == 0
        return
    done = subprocess.run(
        [sys.executable, *words[1:]], cwd=measured, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("words", these("benchmark"), ids=" ".join)
def test_benchmarks_have_the_options_that_are_documented(words):
    text = (ROOT / words[1]).read_text()
    for word in words[2:]:
        if word.startswith("--"):
            assert f'add_argument("{word.partition("=")[0]}"' in text, word


@pytest.mark.parametrize("words", these("lm_eval"), ids=" ".join)
def test_lm_eval_takes_the_options_and_finds_the_tasks(words, monkeypatch):
    from lm_eval._cli.harness import HarnessCLI

    monkeypatch.setattr(sys, "argv", list(words))
    asked = HarnessCLI().parse_args()
    assert (ROOT / asked.include_path).is_dir()
    for task in asked.tasks if isinstance(asked.tasks, list) else asked.tasks.split(","):
        assert (ROOT / asked.include_path / f"{task}.yaml").exists(), task


@pytest.mark.parametrize("words", these("lm_evaluation"), ids=" ".join)
def test_our_models_answer_lm_eval_without_a_device_named(words, tmp_path):
    """The command as it stands; the folder is a shipped one, the task one whose rows lie here."""
    Image.new("RGB", (64, 64), "white").save(tmp_path / "white.png")
    white = {"bytes": (tmp_path / "white.png").read_bytes(), "path": None}
    rows = {"id": [0, 1], "image": [white] * 2, "text": ["what colour is this?"] * 2}
    made = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    made.to_parquet(tmp_path / "rows.parquet")
    task = {
        "task": "here",
        "dataset_path": "parquet",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.parquet")}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "<image>{{text}}",
        "doc_to_target": "white",
        "doc_to_image": ["image"],
        "generation_kwargs": {"max_gen_toks": 2, "until": []},
        "metric_list": [{"metric": "exact_match"}],
    }
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "here.yaml").write_text(yaml.safe_dump(task))
    assert "--device" not in words
    here = {"checkpoint=FOLDER": f"checkpoint={SHIPPED / 'tiny_vit-tiny_qwen2_m'},resolution=64"}
    words = [here.get(word, word) for word in words]
    words[words.index("--tasks") + 1] = "here"
    done = subprocess.run(
        [sys.executable, *words[1:], "--include_path", str(tmp_path / "tasks")],
        cwd=tmp_path,
        env={**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "|here" in done.stdout.replace(" ", "")


# Names: options, columns, exit codes, paths


KEYS = {
    key for name in ("config", "train", "finetune") for key in yaml.safe_load((SWEEPS / f"{name}.yaml").read_text())
}
FINETUNE = {*keys_of("finetune")[0], "stage", "template"} - {*keys_of("config")[0], *keys_of("train")[0]}
"""Options of `python -m harness.train.finetune` alone."""
GROUPS = {path.name: options(path.name) for path in SWEEPS.iterdir() if path.is_dir() and options(path.name)}
REPORT = {*REPORT_DEFAULTS}
"""Options of `python -m harness.report`."""
OPTION = re.compile(r"^\+?([a-z_]+)((?:\.[a-z_]+)*)=(.+)$")


@pytest.mark.parametrize(("page", "span"), [s for s in SPANS if OPTION.match(s[1])], ids=lambda v: str(v)[-60:])
def test_options_exist_and_take_the_value(page, span):
    words = span.split()
    for word in words:
        key, _, value = OPTION.match(word).groups()
        if key in REPORT - KEYS - GROUPS.keys():
            assert parse_report([word])[key] == value
            return
        assert key in KEYS | GROUPS.keys()
        if re.search(r"\.\.\.|^[A-Z]+$|/", value):  # placeholders: NAME, [...], a/b for "a or b"
            return
    root = "train" if key in ("training", "recipe", "folder", "cache") else "config"
    _, configs = compose_all(words, "finetune" if key in FINETUNE else root)
    assert configs


def columns() -> set[str]:
    """Every column of the tables that the project shows."""
    tables = [*(ROOT / "reports").glob("*/*.csv"), *SHOWN.glob("**/*.csv"), *(ROOT / "results").glob("published/*.csv")]
    return {column for path in tables for column in pd.read_csv(path, nrows=0).columns}


OTHERS = {
    "generate": "transformers' method",
    "torch": "the library",
    "hf-multimodal": "lm-eval's model",
    "torch.utils.benchmark": "torch's timer",
    "Avg5": "a column of values in accuracy.csv",
    "SeedBench": "its benchmark",
    "SeedBenchI": "its benchmark",
    "main": "a series of encoder_latency.csv",
    "table4": "a series of encoder_latency.csv",
    "derived": "a mark of results/published",
    "tiny_": "how the family's names begin",
    "n/a": "what a table prints where evidence is missing",
    "target: package.module:Class": "a line of YAML, which an example of CONTRIBUTING uses",
    "shown: REASON": "a mark of this file",
    "draw": "the function of an embedded suite",
    "target": "a field of an encoder's YAML",
    "nn.Module": "torch's class",
    "~/.cache": "a folder of the user's",
    "--include_path sweeps/suite": "lm-eval's option; its folder is checked with the commands",
    "import harness": "Python; the notebook's block runs it",
    'harness.load("resolution", "docs/showcase")': "Python; tests/test_api.py opens a report so",
}
"""Words in backticks that are somebody else's, or no name at all."""


def known(span: str, page: Path) -> bool:
    """Whether what a page has in backticks exists."""
    names = {value for values in GROUPS.values() for value in values} | KEYS | GROUPS.keys() | set(METRICS)
    names |= {*STAGES, *TTFTS, *get_args(Status), *get_args(Verdict), *get_args(claims.Verdict), *columns(), *MARKS}
    names |= {value for literal in (plan.Extrapolate,) for value in get_args(literal)}
    names |= {word for option in ("direct",) for word in re.findall(r"\b(all)\b", comment_of(option))}
    if variable := re.match(r"VLM_HARNESS_\w+", span):
        code = [*(ROOT / "harness").rglob("*.py"), *SWEEPS.glob("*.yaml")]
        return any(variable[0] in path.read_text() for path in code)
    if span.endswith("="):
        return span[:-1] in KEYS | GROUPS.keys()
    if span in names or span in OTHERS or OPTION.match(span) or span.startswith(STARTS):
        return True
    script, *given = span.split()
    if given and (ROOT / "benchmarks" / script).is_file():
        text = (ROOT / "benchmarks" / script).read_text()
        return all(f'add_argument("{word}"' in text for word in given if word.startswith("--"))
    if span.startswith("--"):
        return span == "--help" or any(f'add_argument("{span}"' in p.read_text() for p in ROOT.glob("benchmarks/*.py"))
    return path_exists(span, page) or importable(span)


def comment_of(option: str) -> str:
    """What config.yaml says about an option."""
    return re.search(rf"^{option}:.*$", (SWEEPS / "config.yaml").read_text(), re.MULTILINE)[0]


MADE = re.compile(
    r"results/|reports/(resolution/)?|index\.html|(results/)?(measured/<machine>/)?(measurements|evaluations)\.jsonl|(results/)?journal/|(results/)?sweeps/(<name>|NAME)\.json"
    r"|scores\.md|claims\.md|published/"
)
"""What a run writes, or results/README.md names within its own folder."""


def path_exists(span: str, page: Path) -> bool:
    """Whether it is a file or folder: of the project, beside the page, of a benchmark, or one that a run writes."""
    if not re.fullmatch(r"[\w./<>+-]+", span) or not re.search(r"[./]", span):
        return False
    places = (ROOT, page.parent, ROOT / "benchmarks", ROOT / "harness" / "suites", *SHIPPED.glob("*_m"))
    return bool(MADE.fullmatch(span)) or any((place / span).exists() for place in places)


def importable(span: str) -> bool:
    """Whether it is a name of the harness: `harness.module.name`, or a class, constant or field of its schema."""
    parts = span.removesuffix("()").split(".")
    if not all(part.isidentifier() for part in parts):
        return False
    if parts[0] == "harness":
        for end in range(len(parts), 0, -1):
            try:
                found = importlib.import_module(".".join(parts[:end]))
            except ModuleNotFoundError:
                continue
            return all((found := getattr(found, name, None)) is not None for name in parts[end:])
        return False
    found = getattr(importlib.import_module("harness.schema"), parts[0], None)
    for name in parts[1:]:
        fields = getattr(found, "model_fields", {})
        found = fields.get(name) or getattr(found, name, None)
    return found is not None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_stands_in_backticks_exists(page):
    assert [span for where, span in SPANS if where == page and not known(span, page)] == []


def test_a_name_that_does_not_exist_is_found():
    readme = ROOT / "README.md"
    for span in (
        "ttft_modell",
        "harness.frontier.nothing",
        "reports/nowhere/",
        "Protocol.versions",
        "encode_efficency",
    ):
        assert not known(span, readme), span
    with pytest.raises(HarnessError, match="unknown option"):
        compose_all(["resolutoin=64"])


def returned(function: str) -> set[int]:
    """The whole numbers that a function of harness.sweep returns."""
    tree = ast.parse(inspect.getsource(getattr(sweep, function)))
    values = [v for n in ast.walk(tree) if isinstance(n, ast.Return) and n.value is not None for v in ast.walk(n.value)]
    return {value.value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, int)}


def test_exit_codes_are_those_of_the_command_line(capsys):
    text = " ".join((ROOT / "README.md").read_text().split())
    told = re.search(r"exit codes? (?:is|are) (.*?\.)(?= [A-Z`]|$)", text)[1]
    named = {int(code) for code in re.findall(r"(?<![\w.])\d+(?![\w.]*\w)", told)}
    raised = {error.exit_code for error in (HarnessError, Held, Disturbed)}
    assert named == (returned("run") | raised | {command_line.BUG, command_line.CLOSED, command_line.INTERRUPTED}) - {0}
    assert sweep.main(["encoder=nothing"]) == 2
    assert "unknown encoder" in capsys.readouterr().err


LINKS = [
    (page, link)
    for page in PAGES
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M))
    if not re.match(r"\w+:", link)
]


@pytest.mark.parametrize(("page", "link"), LINKS, ids=lambda value: str(value)[-60:])
def test_links_lead_somewhere(page, link):
    path, _, heading = link.partition("#")
    there = (page.parent / path) if path else page
    assert there.exists()
    if heading:
        heads = re.findall(r"^#+ (.+)$", there.read_text(), re.MULTILINE)
        assert heading in {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads}


def test_the_layout_names_every_module_and_nothing_else():
    (text,) = (f.text for f in FENCES if f.language == "text" and "harness/" in f.text)
    named, package = set(), ""
    for indent, path in re.findall(r"^( *)([\w/]+(?:\.py|/))", text, re.MULTILINE):
        package = path if len(indent) == 2 and path.endswith("/") else package
        whole = {0: path, 2: f"harness/{path}", 4: f"harness/{package}{path}"}[len(indent)]
        assert (ROOT / whole).exists() or whole in ("results/", "reports/"), whole
        named.add(whole.rstrip("/"))
    # Module by module; of other folders the folder.
    explained = ("analysis", "configuration", "evaluate", "storage", "timing")
    folders = [ROOT / "harness", *(ROOT / "harness" / folder for folder in explained)]
    found = (path for folder in folders for path in folder.iterdir() if not path.name.startswith("__"))
    modules = {str(path.relative_to(ROOT)) for path in found}
    assert modules <= named
