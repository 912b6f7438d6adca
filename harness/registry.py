"""What one file adds: a metric, a connector, a figure, ... is found by its name, and nothing else has to name it.

Names of a folder of `harness/`, for example `report.figures`, come from three places:

- the folder's own files, except those with a leading underscore;
- installed packages, by entry points of the group `vlm_harness.figures` (the folder's last word), each a module:
  `my_figure = "my_package.my_figure"`;
- any module that can be imported, where `find` is asked for a name with a dot, or for an attribute of one,
  `my_package.my_module:attribute`. Only the user's own configuration may ask so: importing runs code.

A folder of files that are whole modules (figures, sections) is read by `find` and `every`. One whose files register
several names each (metrics, connectors) has a `Registered`. Nothing is imported before it is asked for.
"""

from __future__ import annotations

import importlib
import pkgutil
import traceback
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from importlib.util import find_spec
from types import ModuleType
from typing import Any, TypeVar

from harness.schema import HarnessError, unknown

GROUP = "vlm_harness"
"""Entry points of the group `vlm_harness.figures` add to the folder of figures."""
LAST = 1000
"""The place of a module without `ORDER`."""

T = TypeVar("T")


def modules(folder: str) -> dict[str, str]:
    """Names of a folder of `harness/` -> the modules that can be imported for them, our own first.

    Raises `HarnessError` if a package offers a name that is taken.
    """
    package = f"{__package__}.{folder}"
    spec = find_spec(package)
    places = spec.submodule_search_locations if spec else None
    found = {
        module.name: f"{package}.{module.name}"
        for module in pkgutil.iter_modules(places or ())
        if not module.ispkg and not module.name.startswith("_")
    }
    for offer in sorted(entry_points(group=f"{GROUP}.{_last(folder)}"), key=lambda offer: offer.name):
        taken = found.setdefault(offer.name, offer.value)
        if taken != offer.value:
            raise HarnessError(f"{_kind(folder)} {offer.name}: offered by {offer.value} and by {taken}; uninstall one")
    return found


def find(folder: str, name: str) -> Any:
    """The module of a name, or what `package.module` or `package.module:attribute` names.

    Raises `HarnessError` with near names if there is none, and with the reason if it cannot be imported.
    """
    known = modules(folder)
    if name in known:
        return _load(folder, name, known[name])
    module, colon, attribute = name.partition(":")
    if not colon and "." not in name:
        raise HarnessError(unknown(_kind(folder), name, list(known)))
    found = _load(folder, name, module)
    if not colon:
        return found
    try:
        return getattr(found, attribute)
    except AttributeError as error:
        raise HarnessError(f"{_kind(folder)} {name}: {error}") from error


def subclass(folder: str, name: str, base: type[T]) -> type[T]:
    """The class of a name that derives from `base` and is called as it is.

    Raises `HarnessError` if its module has none.
    """
    found = getattr(find(folder, name), base.__name__, None)
    if not (isinstance(found, type) and issubclass(found, base) and found is not base):
        wanted = f"{base.__module__}.{base.__name__}"
        raise HarnessError(f"{_kind(folder)} {name}: its module has no class {base.__name__} derived from {wanted}")
    return found


def every(folder: str) -> dict[str, ModuleType]:
    """All modules of a folder by name, imported."""
    return {name: _load(folder, name, module) for name, module in modules(folder).items()}


def ordered(folder: str, needed: str) -> list[ModuleType]:
    """All modules of a folder, each with the function `needed`, in the order of their numbers `ORDER`, then of names.

    Raises `HarnessError` for a module without that function. One without a number stands last.
    """
    found = every(folder)
    for name, module in found.items():
        if not callable(getattr(module, needed, None)):
            raise HarnessError(f"{_kind(folder)} {name}: {module.__name__} has no function {needed}")
    return [found[name] for name in sorted(found, key=lambda name: (getattr(found[name], "ORDER", LAST), name))]


class Registered(Mapping[str, T]):
    """What the files of a folder register, by name. All of them are imported when a name is first looked up.

    A lookup of an unknown name raises `HarnessError` with near names.
    """

    def __init__(self, folder: str):
        self._folder = folder
        self._found: dict[str, T] = {}
        self._complete = False

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator: make a class or a function available as `name`."""

        def add(one: T) -> T:
            self._found[name] = one
            return one

        return add

    def _all(self) -> dict[str, T]:
        if not self._complete:
            every(self._folder)
            self._complete = True
        return self._found

    def __getitem__(self, name: str) -> T:
        found = self._all()
        if name not in found:
            raise HarnessError(unknown(_kind(self._folder), name, sorted(found)))
        return found[name]

    def __contains__(self, name: object) -> bool:
        return name in self._all()

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())


def _last(folder: str) -> str:
    return folder.rpartition(".")[2]


def _kind(folder: str) -> str:
    """What a file of the folder is: `report.figures` -> `figure`."""
    return _last(folder).removesuffix("s")


def _load(folder: str, name: str, module: str) -> ModuleType:
    """The imported module; one line with the reason and the place if that fails."""
    try:
        return importlib.import_module(module)
    except HarnessError:
        raise
    except (Exception, SystemExit) as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
        own = [frame for frame in frames if "importlib" not in frame.filename]
        place = f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""
        what = f"{_kind(folder)} {name}" + (f": {module}" if module != name else "")
        raise HarnessError(f"{what} cannot be imported: {type(error).__name__}: {error}{place}") from error
