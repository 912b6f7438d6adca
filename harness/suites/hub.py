"""Rows of a dataset in the hub's layout, from the hub or from a folder; images stay as they are stored."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.schema import HarnessError, Source


def rows(source: Source) -> tuple[Iterable[Mapping[str, Any]], str]:
    """The rows of a split, and the revision of the data (the hub's commit; empty for a folder)."""
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
            faults.append(f"{path}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
    what = f"split {split}" + (f" of {name}" if name else "")
    raise HarnessError(f"cannot read {what}: {'; '.join(faults)}; data={{SUITE:FOLDER}} takes it from a folder")


def _dataset(path: str, name: str | None, split: str, revision: str | None) -> tuple[Any, str]:
    import datasets
    import tqdm

    datasets.disable_progress_bars()  # the sweep has its own
    tqdm.tqdm.set_lock(threading.RLock())  # its default is a semaphore that a killed process leaves behind
    local = Path(path).expanduser()
    if local.exists():
        path, revision = str(local.resolve()), None
    found = datasets.load_dataset(path, name, split=split, revision=revision)
    commit = ""
    if not local.exists():
        checksums = getattr(found.info, "download_checksums", None) or {}
        commit = next((url.split("@")[1].split("/")[0] for url in checksums if "@" in url), revision or "")
    return found.cast(_stored(found.features)), commit


def _stored(features: Any) -> Any:
    """The same features, with images that are not decoded."""
    import datasets

    def kept(feature: Any) -> Any:
        if isinstance(feature, datasets.Image):
            return datasets.Image(decode=False)
        if isinstance(feature, datasets.List):
            return datasets.List(kept(feature.feature))
        return feature

    return datasets.Features({name: kept(feature) for name, feature in features.items()})
