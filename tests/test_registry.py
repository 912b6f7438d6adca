"""What one file adds is found: in our folders, in installed packages, and by import."""

import subprocess
import sys
from pathlib import Path

import pytest

from harness import registry
from harness.schema import HarnessError

HARNESS = Path(registry.__file__).parent


def install(tmp_path, monkeypatch, group, **files):
    """Packages on `sys.path` as pip would leave them: each keyword a module's text, offered by an entry point."""
    name = f"offered_{tmp_path.name}".replace("-", "_")
    package = tmp_path / name
    package.mkdir()
    (package / "__init__.py").write_text("")
    for stem, text in files.items():
        (package / f"{stem}.py").write_text(text)
    about = tmp_path / f"{name}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    offers = "".join(f"{stem} = {name}.{stem}\n" for stem in files)
    (about / "entry_points.txt").write_text(f"[vlm_harness.{group}]\n{offers}")
    monkeypatch.syspath_prepend(tmp_path)
    return name


@pytest.mark.parametrize("folder", ["metrics", "models.connectors", "models.fusions"])
def test_every_file_of_a_folder_is_a_name_and_nothing_else_is(folder):
    files = {path.stem for path in (HARNESS / folder.replace(".", "/")).glob("*.py") if path.stem[0] != "_"}
    found = registry.modules(folder)
    assert set(found) == files
    assert all(module == f"harness.{folder}.{name}" for name, module in found.items())


def test_nothing_is_imported_before_it_is_asked_for():
    code = """
import sys
from harness import registry
registry.modules("models.connectors")
assert "torch" not in sys.modules and "harness.models.connectors" not in sys.modules
from harness.metrics import METRICS
assert "harness.metrics.gqa" not in sys.modules
assert "gqa@lmms-eval" in METRICS and "harness.metrics.gqa" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_installed_package_adds_to_a_folder(tmp_path, monkeypatch):
    package = install(tmp_path, monkeypatch, "metrics", louder="LOUD = 7\n")
    assert registry.modules("metrics")["louder"] == f"{package}.louder"
    assert registry.find("metrics", "louder").LOUD == 7
    assert registry.every("metrics")["louder"].LOUD == 7
    assert "louder" not in registry.modules("models.connectors")


def test_what_an_installed_package_registers_has_its_name(tmp_path, monkeypatch):
    package = install(tmp_path, monkeypatch, "metrics", shouted="")
    (tmp_path / package / "shouted.py").write_text(
        "from test_registry import SHELF\n\n\n@SHELF.register('shouted@here')\ndef shouted():\n    return 1\n"
    )
    monkeypatch.setitem(sys.modules, "test_registry", sys.modules[__name__])
    assert list(SHELF) == ["shouted@here"]
    assert SHELF["shouted@here"]() == 1
    with pytest.raises(HarnessError, match=r"unknown metric 'shouted@her'; did you mean shouted@here\?"):
        SHELF["shouted@her"]


SHELF = registry.Registered("metrics")
"""A second one, that our own metrics know nothing of."""


def test_a_name_that_is_taken_is_refused_in_one_line(tmp_path, monkeypatch):
    package = install(tmp_path, monkeypatch, "metrics", anls="")
    with pytest.raises(HarnessError) as error:
        registry.modules("metrics")
    assert str(error.value) == f"metric anls: offered by {package}.anls and by harness.metrics.anls; uninstall one"


def test_a_module_and_its_attribute_are_found_by_import(tmp_path, monkeypatch):
    package = install(tmp_path, monkeypatch, "nothing", mine="class Mine: ...\n")
    module = registry.find("metrics", f"{package}.mine")
    assert module.__name__ == f"{package}.mine"
    assert registry.find("metrics", f"{package}.mine:Mine") is module.Mine
    with pytest.raises(HarnessError, match="has no attribute 'Yours'"):
        registry.find("metrics", f"{package}.mine:Yours")


def test_an_unknown_name_is_one_line_with_near_names():
    with pytest.raises(HarnessError, match=r"^unknown metric 'ocrbensh'; did you mean ocrbench\?$"):
        registry.find("metrics", "ocrbensh")
    with pytest.raises(HarnessError, match=r"^unknown connector ''; there are: c_abstractor, ldp, "):
        registry.find("models.connectors", "")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import no_such_library\n", "ModuleNotFoundError: No module named 'no_such_library' ({file}, line 1)"),
        ("\n1 / 0\n", "ZeroDivisionError: division by zero ({file}, line 2)"),
        ("a b\n", "SyntaxError: invalid syntax (broken.py, line 1)"),
        ("raise SystemExit('gone')\n", "SystemExit: gone ({file}, line 1)"),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_line_with_the_place(text, said, tmp_path, monkeypatch):
    package = install(tmp_path, monkeypatch, "metrics", broken=text)
    with pytest.raises(HarnessError) as error:
        registry.find("metrics", "broken")
    said = said.format(file=tmp_path / package / "broken.py")
    assert str(error.value) == f"metric broken: {package}.broken cannot be imported: {said}"
    with pytest.raises(HarnessError, match=f"^metric {package}.broken cannot be imported: "):
        registry.find("metrics", f"{package}.broken")


@pytest.mark.parametrize("name", ["no_such_package.module", ".", "..", ":", ":x", "a b.c", "\0.x"])
def test_whatever_is_asked_for_is_answered_in_one_line(name):
    with pytest.raises(HarnessError) as error:
        registry.find("metrics", name)
    assert str(error.value).isprintable()
