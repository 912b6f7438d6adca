"""The layout's promises: who may import whom, what is small, what the README says."""

import ast
import graphlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from harness.models.vlm import SHIPPED

ROOT = Path(__file__).parent.parent

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "harness").rglob("*.py"))
}


def imports(path):
    """The modules of this project that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "harness":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("harness."))


def room(module):
    """A folder of `harness/`, or a module beside them."""
    return module.split(".")[1] if "." in module else ""


def downwards(graph):
    """The nodes of a graph of imports, each before those that it imports; raises `CycleError`."""
    return [*graphlib.TopologicalSorter(graph).static_order()][::-1]


def test_folders_import_only_downwards():
    """What may import what is nobody's table: what there is has an order, and the README's layout follows it."""
    graph = {}
    for module, path in MODULES.items():
        if room(module):
            there = {room(found) for found in imports(path)} - {room(module), ""}
            graph.setdefault(room(module), set()).update(there)
    downwards(graph)
    layout = (ROOT / "README.md").read_text().split("## Layout")[1]
    shown = re.findall(r"^  ([a-z_]+)(?:/|\.py) ", layout, re.MULTILINE)
    assert sorted(shown) == sorted(set(graph) - {"__main__"})
    for above, one in enumerate(shown):
        assert not (upwards := graph[one] & set(shown[:above])), (
            f"{one} imports {upwards}, which the layout has above it"
        )


def test_modules_import_one_another_without_a_cycle():
    late = {"harness.report", "harness"}  # their names are found when they are asked for
    graph = {module: set(imports(path)) - {module} for module, path in MODULES.items() if module not in late}
    assert len(downwards(graph)) >= len(MODULES) - len(late)


def test_there_are_a_dozen_rooms_at_most():
    folders = {module.split(".")[1] for module in MODULES if module.count(".") >= 2}
    assert len(folders) <= 12
    assert len({room(module) for module in MODULES} - folders - {"", "__main__"}) <= 8


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


def test_the_oldest_versions_are_those_that_are_promised():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*map(Requirement, project["dependencies"]), *map(Requirement, project["optional-dependencies"]["dev"])]
    lines = (ROOT / "scripts" / "oldest.txt").read_text().splitlines()
    oldest = dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    for requirement in asked:
        if requirement.marker and not requirement.marker.evaluate():
            continue
        found = oldest[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(found), requirement
        for bound in (one for one in requirement.specifier if one.operator == ">="):
            promised = Version(bound.version).release
            assert Version(found).release[: len(promised)] == promised, requirement


def test_what_the_oldest_versions_are_not_asked_is_there():
    left_out = re.search(r"left_out=\(([^)]*)\)", (ROOT / "scripts" / "check-oldest").read_text())[1].split()
    assert {f"test_{name}.py" for name in left_out} <= {path.name for path in (ROOT / "tests").glob("test_*.py")}
