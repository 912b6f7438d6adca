"""Suites as lm-eval tasks: one YAML in `sweeps/suite/`, read here for the harness and by lm-eval for its own models.

The keys are lm-eval's (`task`, `dataset_path`, `doc_to_text`, `generation_kwargs`, ...). What lm-eval has no key for
stands under `metadata`: expressions (Jinja, over a row's columns and its number `row`) that say where a question's id,
image, references and kind are found.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from harness.config import ROOT, options
from harness.metrics import METRICS
from harness.schema import HarnessError, Source, Suite, fingerprint, first_fault, unknown
from harness.submissions import ENDINGS

FOLDER = ROOT / "suite"

JUDGED = "bypass"
"""lm-eval's name for a metric that is left to others."""


class _Loader(yaml.SafeLoader):
    """Reads lm-eval's `!function` as the name that it is: nothing of a YAML is run here."""


_Loader.add_constructor("!function", lambda loader, node: str(node.value))


def load_task(path: Path) -> dict[str, Any]:
    """A task's YAML, with the files that it includes underneath."""
    try:
        task = yaml.load(path.read_text(), _Loader)
    except (yaml.YAMLError, OSError) as error:
        raise HarnessError(f"{path}: not readable: {' '.join(str(error).split())}") from error
    if not isinstance(task, dict):
        raise HarnessError(f"{path}: a task is expected, a mapping of keys")
    if "include" in task:
        below = load_task(path.parent / task.pop("include"))
        task = {**below, **task, "metadata": {**below.get("metadata", {}), **task.get("metadata", {})}}
    return task


def path_of(name: str) -> Path:
    """The file of a suite or a group of suites."""
    if name not in options("suite"):
        raise HarnessError(unknown("suite", name, options("suite")))
    return FOLDER / f"{name}.yaml"


def expand(name: str) -> list[str]:
    """The suites that a name stands for: itself, or the members of a group such as `avg5`."""
    task = load_task(path_of(name))
    return [str(member) for member in task["task"]] if "group" in task else [name]


def load_suite(name: str, limit: int | None = None, data: str = "") -> Suite:
    """The suite of a file's name. `limit`: at most so many images; `data`: a folder or hub id in place of its own."""
    path = path_of(name)
    suite = suite_of(load_task(path), path, data)
    return suite if limit is None else suite.model_copy(update={"images": min(limit, suite.images or limit)})


def suite_of(task: dict[str, Any], path: Path, data: str = "") -> Suite:
    """The suite that a task's YAML at `path` describes."""
    about = task.get("metadata", {})
    metrics = [entry["metric"] for entry in task.get("metric_list", [])]
    submission = str(about.get("submission", ""))
    if submission and submission not in ENDINGS:
        raise HarnessError(f"{path}: no submission format {submission!r}; there are: {', '.join(sorted(ENDINGS))}")
    if submission and metrics == [JUDGED]:
        metrics = [""]
    elif unregistered := [metric for metric in metrics if metric not in METRICS]:
        raise HarnessError(f"{path}: no metric {unregistered[0]!r}; there are: {', '.join(sorted(METRICS))}")
    try:
        where = data or task["dataset_path"]
        return Suite(
            name=task["task"],
            title=about.get("title", task["task"]),
            stands_for=about.get("stands_for", ""),
            metric=metrics[0],
            submission=submission,
            source=Source(
                path=where,
                also=() if data else tuple(about.get("also", ())),
                name=task.get("dataset_name"),
                split=task["test_split"],
                revision=about.get("revision"),
                images=about.get("images_from"),
                stamp=stamp_of(where),
            ),
            prompt=str(task["doc_to_text"]).replace("<image>", ""),
            fields={key: str(about[key]) for key in FIELDS if key in about},
            facts={key: str(value) for key, value in about.get("facts", {}).items()},
            images=about.get("images"),
            max_new_tokens=task["generation_kwargs"]["max_gen_toks"],
            until=tuple(task["generation_kwargs"].get("until", ())),
            version=about.get("version", 1),
        )
    except KeyError as error:
        raise HarnessError(f"{path}: the key {error} is missing") from error
    except (ValidationError, IndexError) as error:
        fault = first_fault(error) if isinstance(error, ValidationError) else "metric_list is empty"
        raise HarnessError(f"{path}: {fault}") from error


FIELDS = ("id", "image", "answers", "kind", "where")
"""What a suite's expressions give: the question's id, its image, its references, its kind, and whether it is asked."""


def stamp_of(path: str) -> str:
    """Names, sizes and times of a folder's files; empty for what is on the hub or drawn."""
    local = Path(path).expanduser()
    if not local.exists():
        return ""
    files = [local] if local.is_file() else sorted(file for file in local.rglob("*") if file.is_file())
    return fingerprint([[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files])
