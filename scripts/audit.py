#!/usr/bin/env python3
"""Has anything that is installed here a known vulnerability? `python scripts/audit.py`

Asks pip-audit about every package of this environment (pip itself and its companions are the environment's, not the
project's). The vulnerability service is not everywhere within reach: a mirror of packages need not have it, and
pip-audit then reports no fault. So a release with known vulnerabilities is asked about first; where that one is not
found nothing can be said, which is one line and no failure. `audit-exceptions.txt` lists what is known and accepted.

Exit code: 0 nothing found, or nobody could be asked; 1 a vulnerability that is not an exception.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Any

EXCEPTIONS = Path(__file__).parent / "audit-exceptions.txt"
VULNERABLE = "jinja2==2.10"
"""Has had published vulnerabilities since 2019: whoever does not know them knows none."""
OURS = {"pip", "setuptools", "wheel", "vlm-harness"}


def installed() -> list[str]:
    """`name==version` of every package of this environment, without the local part of a version (`+cpu`)."""
    found = {(d.metadata["Name"].lower(), d.version.partition("+")[0]) for d in distributions() if d.metadata["Name"]}
    return sorted(f"{name}=={version}" for name, version in found if name not in OURS)


def ask(packages: Iterable[str]) -> list[dict[str, Any]]:
    """What pip-audit knows of each: `name`, and `vulns` or `skip_reason`; nothing where it cannot ask."""
    if find_spec("pip_audit") is None:
        sys.exit('audit: pip-audit is not installed: pip install -e ".[dev]"')
    with tempfile.TemporaryDirectory() as folder:
        asked, answer = Path(folder) / "asked.txt", Path(folder) / "answer.json"
        asked.write_text("\n".join(packages))
        how = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json", "--output", str(answer)]
        command = [sys.executable, "-m", "pip_audit", "--requirement", str(asked), *how]
        # The words are this file's; pip-audit's exit code is 1 for a vulnerability and for a failure of its own.
        subprocess.run(command, capture_output=True, check=False)  # noqa: S603
        return json.loads(answer.read_text())["dependencies"] if answer.exists() and answer.stat().st_size else []


def accepted(text: str) -> dict[str, str]:
    """Lines `ID reason` -> the reason of each; `ValueError` for an exception without one."""
    found = {}
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            name, _, reason = line.strip().partition(" ")
            if not reason.strip():
                raise ValueError(f"{EXCEPTIONS.name}: {name} has no reason")
            found[name] = reason.strip()
    return found


def judge(answers: Iterable[Mapping[str, Any]], exceptions: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Vulnerabilities that are no exception, and packages that the service does not know; a line each."""
    found, unknown = [], []
    for package in answers:
        if "skip_reason" in package:
            unknown.append(package["name"])
        for fault in package.get("vulns", ()):
            if not {fault["id"], *fault.get("aliases", ())} & exceptions.keys():
                fixed = ", ".join(fault.get("fix_versions", ())) or "no release"
                found.append(f"{package['name']} {package['version']}: {fault['id']}, mended in {fixed}")
    return found, unknown


def main() -> int:
    """Ask about everything that is installed here; returns the exit code."""
    exceptions = accepted(EXCEPTIONS.read_text())
    if not any(package.get("vulns") for package in ask([VULNERABLE])):
        print("audit: the vulnerability service cannot be asked from here; nothing is known, and nothing was checked")
        return 0
    packages = installed()
    found, unknown = judge(ask(packages), exceptions)
    print(f"audit: {len(packages)} packages, {len(found)} vulnerabilities, {len(unknown)} unknown to the service")
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
