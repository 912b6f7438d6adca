"""Suites as lm-eval tasks: one YAML in `sweeps/suite/`, read here for the harness and by lm-eval for its own models.

The keys are lm-eval's (`task`, `dataset_path`, `doc_to_text`, `generation_kwargs`, ...). What lm-eval has no key for
stands under `metadata`: expressions (Jinja, over a row's columns and its number `row`) that say where a question's id,
image, references and kind are found.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

import sweeps
from harness.metrics import METRICS
from harness.schema import DRAWN, HarnessError, Source, Suite, fingerprint, first_fault, unknown
from harness.storage.intake import read_yaml
from harness.suites.local import content_of, is_local
from harness.suites.submissions import ENDINGS

FOLDER = Path(sweeps.__file__).parent / "suite"

EXTERNALLY_GRADED = "bypass"
"""lm-eval's name for a metric that is left to others."""


class _Loader(yaml.SafeLoader):
    """Reads lm-eval's `!function` as the name that it is: nothing of a YAML is run here."""


_Loader.add_constructor("!function", lambda loader, node: str(node.value))


def load_task(path: Path, including: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A task's YAML, with the file of its folder that it includes underneath; `including`: the files that led here."""
    task = read_yaml(path, _Loader)
    if not isinstance(task, dict) or not all(isinstance(key, str) for key in task):
        raise HarnessError(f"{path}: a task is expected, a mapping of keys")
    if "include" in task:
        other = str(task.pop("include"))
        below = (path.parent / other).resolve()
        if not below.is_relative_to(path.parent.resolve()):
            raise HarnessError(f"{path}: include: {other} is not in its folder")
        seen = (*including, path.resolve())
        if below in seen:
            raise HarnessError(f"{path}: include: {other} includes this file")
        under = load_task(below, seen)
        task = {**under, **task, "metadata": {**_part(under, "metadata", path), **_part(task, "metadata", path)}}
    return task


def path_of(name: str) -> Path:
    """The file of a suite or a group of suites."""
    if name not in (names := sorted(path.stem for path in FOLDER.glob("*.yaml"))):
        raise HarnessError(unknown("suite", name, names))
    return FOLDER / f"{name}.yaml"


def expand(name: str) -> list[str]:
    """The suites that a name stands for: itself, or the members of a group such as `avg5`."""
    path = path_of(name)
    task = load_task(path)
    if "group" not in task:
        return [name]
    members = task.get("task")
    if not isinstance(members, list) or not members:
        raise HarnessError(f"{path}: task: a list of suites is expected")
    return [str(member) for member in members]


def load_suite(name: str, limit: int | None = None, data: str = "") -> Suite:
    """The suite of a file's name. `limit`: at most so many images; `data`: a folder, a file or a hub id in place of its
    own."""
    path = path_of(name)
    suite = suite_of(load_task(path), path, data)
    return suite if limit is None else suite.model_copy(update={"images": min(limit, suite.images or limit)})


def suite_of(task: dict[str, Any], path: Path, data: str = "") -> Suite:
    """The suite that a task's YAML at `path` describes."""
    about, generation = _part(task, "metadata", path), _part(task, "generation_kwargs", path)
    metrics = _metrics(task, path)
    submission = str(about.get("submission", ""))
    if submission and submission not in ENDINGS:
        raise HarnessError(f"{path}: no submission format {submission!r}; there are: {', '.join(sorted(ENDINGS))}")
    if submission and metrics == [EXTERNALLY_GRADED]:
        metrics = [""]
    elif unregistered := [metric for metric in metrics if metric not in METRICS]:
        raise HarnessError(f"{path}: no metric {unregistered[0]!r}; there are: {', '.join(sorted(METRICS))}")
    until = generation.get("until") or []
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
                also=() if data else about.get("also", ()),
                name=task.get("dataset_name"),
                split=task["test_split"],
                revision=about.get("revision"),
                images=_images_from(about, path),
                stamp=stamp_of(str(where)),
            ),
            prompt=str(task["doc_to_text"]).replace("<image>", ""),
            fields={key: str(about[key]) for key in FIELDS if key in about},
            facts={str(key): str(value) for key, value in _part(about, "facts", path).items()},
            images=about.get("images"),
            max_new_tokens=generation["max_gen_toks"],
            until=(until,) if isinstance(until, str) else until,
            version=about.get("version", 1),
        )
    except KeyError as error:
        raise HarnessError(f"{path}: the key {error} is missing") from error
    except ValidationError as error:
        raise HarnessError(f"{path}: {first_fault(error)}") from error


def _part(task: Mapping[str, Any], key: str, path: Path) -> dict[str, Any]:
    """A mapping within a task; empty if it is not there."""
    found = task.get(key) or {}
    if not isinstance(found, dict):
        raise HarnessError(f"{path}: {key}: a mapping is expected, not {type(found).__name__}")
    return found


def _metrics(task: Mapping[str, Any], path: Path) -> list[str]:
    """Names of a task's metrics."""
    entries = task.get("metric_list") or []
    if not isinstance(entries, list) or not all(isinstance(one, dict) and "metric" in one for one in entries):
        raise HarnessError(f"{path}: metric_list: a list of mappings with the key metric is expected")
    if not entries:
        raise HarnessError(f"{path}: metric_list is empty")
    return [str(one["metric"]) for one in entries]


def _images_from(about: Mapping[str, Any], path: Path) -> dict[str, Any] | None:
    """Where images lie in a configuration of their own."""
    if "images_from" not in about:
        return None
    found = _part(about, "images_from", path)
    if missing := [key for key in ("name", "split", "id", "image") if not isinstance(found.get(key), str)]:
        raise HarnessError(f"{path}: images_from: the key {missing[0]} is missing")
    return found


FIELDS = ("id", "image", "answers", "kind", "options", "where")
"""What a suite's expressions give: the question's id, its image, its references, its kind, its options, and whether it
is asked."""


def stamp_of(path: str) -> str:
    """Names, sizes and times of the files of local data; empty for what is on the hub or drawn."""
    if path == DRAWN or not is_local(path):
        return ""
    return fingerprint([list(each) for each in content_of(Path(path).expanduser())])
