"""The layout's promises: who may import whom, what is small, what the README says."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.models.vlm import SHIPPED

ROOT = Path(__file__).parent.parent

# A module imports only rooms of lower rank; modules of one rank do not import each other (inside a package they may).
RANK = {
    "schema": -3,
    "intake": -2,
    "apart": -2,
    "lock": -1,
    "lines": 0,
    "options": 0,
    "door": 0,
    "stats": 1,
    "pareto": 1,
    "metrics": 1,
    "submissions": 1,
    "published": 2,
    "journal": 1,
    "config": 1,
    "machine": 0,
    "store": 1,
    "telemetry": 1,
    "timer": 1,
    "suites": 2,
    "models": 2,
    "composition": 2,
    "scores": 2,
    "baselines": 2,
    "claims": 3,
    "comparison": 3,
    "frame": 3,
    "runtimes": 3,
    "bench": 3,
    "costs": 3,
    "resolve": 3,
    "report": 4,
    "answers": 4,
    "train": 6,
    "plan": 4,
    "progress": 5,
    "measurement": 5,
    "worker": 6,
    "lm_evaluation": 6,
    "session": 7,
    "sweep": 8,
    "api": 9,
    "__main__": 9,
}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imports(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "harness":
            if node.module == "harness":
                yield from (f"harness.{alias.name}" for alias in node.names)
            else:
                yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("harness."))


@pytest.mark.parametrize("path", sorted((ROOT / "harness").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path):
    parts = path.relative_to(ROOT / "harness").with_suffix("").parts
    here = parts[0]
    if here == "__init__":
        return
    for module in imports(path):
        there = room(module)
        assert there == here or RANK[there] < RANK[here], f"{here} imports {there}"


def test_every_test_file_has_something_to_test():
    for path in (ROOT / "tests").glob("test_*.py"):
        assert re.search(r"^\s+assert |pytest\.raises|torch\.testing", path.read_text(), re.MULTILINE), path


def test_a_mistyped_name_is_answered_without_importing_torch():
    code = "import sys; from harness.sweep import main; main(['encoder=x']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


def test_shipped_checkpoints_are_small_complete_and_have_their_training_log():
    folders = sorted(p for p in SHIPPED.iterdir() if p.is_dir())
    assert {f.name for f in folders} >= {
        *(f"tiny_{e}-tiny_qwen2_m" for e in ("fastvithd", "fastvit", "convnext", "vit")),
        "tiny_fastvithd-tiny_qwen2_s",
        "tiny_fastvithd-tiny_qwen2_l",
    }
    files = [p for f in folders for p in f.iterdir()]
    assert {p.name for p in files} == {"config.json", "model.safetensors", "tokenizer.json", "training.json"}
    assert sum(p.stat().st_size for p in files if p.name == "model.safetensors") < 40e6


@pytest.mark.parametrize("path", sorted((ROOT / "harness").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_asserts_narrow_types_and_check_no_input(path):
    """`python -O` takes asserts out, which is why ruff's S101 would forbid them: these only tell mypy what is known."""
    for node in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Assert)):
        text = ast.unparse(node.test)
        narrows = r"[\w.\[\]'@]+(\([^()]*\))? is not None|isinstance\([^()]+\)"
        assert re.fullmatch(narrows, text), f"{path}: assert {text}"


def test_nothing_of_a_machine_is_committed():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    assert not [
        name for name in tracked if name.endswith((".pyc", ".lock", ".part")) or name.startswith("results/measured")
    ]
    for path in (ROOT / "docs" / "showcase").glob("*/*.*"):
        if path.suffix in (".jsonl", ".csv", ".html", ".md", ".svg"):
            assert str(ROOT) not in path.read_text(), path
