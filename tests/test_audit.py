"""The check for known vulnerabilities: what fails a build, what is an exception, and what nobody could be asked."""

import runpy
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"
FOUND = {"name": "jinja2", "version": "2.10", "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["3"]}]}
CLEAN = {"name": "torch", "version": "2.10", "vulns": []}
SKIPPED = {"name": "jinja2", "skip_reason": "Dependency not found on PyPI and could not be audited: jinja2 (2.10)"}


@pytest.fixture
def audit(monkeypatch):
    """The script, its question to pip-audit answered by `answers`."""
    names = runpy.run_path(str(SCRIPTS / "audit.py"))

    def run(control, rest=()):
        scope = names["main"].__globals__
        asked = []
        monkeypatch.setitem(
            scope, "ask", lambda packages: asked.append(list(packages)) or (rest if asked[1:] else control)
        )
        return names["main"](), asked

    run.names = names
    return run


def test_a_vulnerability_fails_the_build_and_is_named(audit, capsys):
    code, asked = audit([FOUND], [CLEAN, FOUND])
    assert code == 1
    assert asked[0] == ["jinja2==2.10"]
    assert any(package.startswith("torch==") for package in asked[1])
    assert not any("+" in package or package.startswith(("pip==", "vlm-harness==")) for package in asked[1])
    assert "jinja2 2.10: PYSEC-1, mended in 3" in capsys.readouterr().out


def test_clean_packages_pass_and_unknown_ones_are_counted(audit, capsys):
    assert audit([FOUND], [CLEAN, SKIPPED])[0] == 0
    assert "0 vulnerabilities, 1 unknown" in capsys.readouterr().out


@pytest.mark.parametrize("control", [[], [SKIPPED], [CLEAN]])
def test_a_service_that_does_not_know_the_known_one_is_not_believed(audit, control, capsys):
    code, asked = audit(control)
    assert (code, len(asked)) == (0, 1)
    assert "cannot be asked" in capsys.readouterr().out


def test_an_exception_has_a_reason_and_counts_by_any_of_its_names(audit):
    accepted, judge = audit.names["accepted"], audit.names["judge"]
    assert judge([FOUND], accepted("# x\nCVE-1 templates are the project's own\n")) == ([], [])
    with pytest.raises(ValueError, match="CVE-1 has no reason"):
        accepted("CVE-1\n")
    accepted((SCRIPTS / "audit-exceptions.txt").read_text())
