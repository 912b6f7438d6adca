"""Rows of a data set on the hub; images stay as they are stored. (Folders and files: `harness.suites.local`.)"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from harness.schema import DRAWN, HarnessError, Source
from harness.suites.local import is_local


def rows(source: Source) -> tuple[Iterable[Mapping[str, Any]], str]:
    """The rows of a split, and the revision of the data: the hub's commit."""
    return _open(source, source.name, source.split)


def pictures(source: Source) -> dict[str, bytes]:
    """Images that lie in a configuration of their own (GQA), by their id."""
    assert source.images is not None
    found, _ = _open(source, source.images["name"], source.images["split"])
    return {str(row[source.images["id"]]): row[source.images["image"]]["bytes"] for row in found}


def _open(source: Source, name: str | None, split: str) -> tuple[Iterable[Mapping[str, Any]], str]:
    faults = []
    for path in (source.path, *source.also):
        try:
            return _dataset(path, name, split, source.revision)
        except (OSError, ValueError, LookupError) as error:  # the library's errors for what is not there
            faults.append(f"{path}: {type(error).__name__}: {error}")
    what = f"split {split}" + (f" of {name}" if name else "")
    raise HarnessError(f"cannot read {what}: {'; '.join(faults)}; data={{SUITE:FOLDER}} takes it from a folder")


def _dataset(path: str, name: str | None, split: str, revision: str | None) -> tuple[Any, str]:
    """A split, and its revision."""
    import datasets
    import tqdm

    datasets.disable_progress_bars()  # the sweep has its own
    tqdm.tqdm.set_lock(threading.RLock())  # its default is a semaphore that a killed process leaves behind
    revision = _commit(path, revision)
    found = datasets.load_dataset(path, name, split=split, revision=revision)
    for column, feature in found.features.items():
        if (stored := _stored(feature)) is not feature:
            found = found.cast_column(column, stored)
    return found, revision or ""


def pin(source: Source) -> Source:
    """The source at the hub's present commit, so that other data is another evaluation; as it is where the hub cannot
    be asked, and where it is not on the hub."""
    if source.path == DRAWN or source.revision or is_local(source.path):
        return source
    return source.model_copy(update={"revision": _commit(source.path, None)})


def check_place(suite: str, path: object) -> str:
    """Where a suite's data is said to lie: a folder or file that is there, or a data set of the hub."""
    if not isinstance(path, str) or not path:
        raise HarnessError(f"data={{{suite}:{path}}}: a folder or file is expected")
    if is_local(path) or (re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", path) and (_commit(path, None) or _is_cached(path))):
        return path
    raise HarnessError(f"data={{{suite}:{path}}}: there is no such folder or file")


def _is_cached(path: str) -> bool:
    """Whether the hub's data set was fetched before."""
    import datasets
    from huggingface_hub.constants import HF_HUB_CACHE

    places = (
        Path(HF_HUB_CACHE) / f"datasets--{path.replace('/', '--')}",
        Path(datasets.config.HF_DATASETS_CACHE) / path.replace("/", "___"),
    )
    return any(place.is_dir() for place in places)


@cache
def _commit(path: str, revision: str | None) -> str | None:
    """The commit that a revision of a dataset is now; the revision itself where the hub cannot be asked."""
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(path, revision=revision, timeout=10).sha or revision
    except Exception:  # offline, or no such dataset: loading it, perhaps from the cache, says which
        return revision


def _stored(feature: Any) -> Any:
    """The same feature, but images are not decoded."""
    import datasets

    if isinstance(feature, datasets.Image):
        return datasets.Image(decode=False)
    if isinstance(feature, datasets.List) and isinstance(feature.feature, datasets.Image):
        return datasets.List(datasets.Image(decode=False))
    return feature
