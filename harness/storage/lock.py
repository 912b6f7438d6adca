"""Locks between processes that say who holds them, and that can be waited for.

The lock is the operating system's, through filelock: it ends with the process that holds it, however that ends. Beside
it the holder leaves its name (`<file>.holder`: process, host, since when, command), for those who have to wait. The
name is only ever said, never obeyed: one that a killed process left behind does not keep anybody out, and is not told
as that of the holder.
"""

from __future__ import annotations

import os
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

import psutil
from filelock import FileLock, Timeout
from pydantic import Field, ValidationError

from harness.schema import Frozen, HarnessError, one_line
from harness.storage.intake import parse_json, read_bytes

PLACE = "VLM_HARNESS_LOCK"
"""Environment variable that names the file of the device's lock."""
SHARED = (Path("/run/lock"), Path("/var/tmp"))  # noqa: S108 (shared is what it must be; a lock holds no secret)
"""Folders that all users of a machine have in common and that no `TMPDIR` moves, the best one first."""
SAME = 5.0
"""Seconds by which two statements of when a process began may differ: a system's clock is set now and then."""
SHORTEST, LONGEST = 0.002, 1.0
"""Seconds between two tries, a tenth of what was waited so far: an append is over in milliseconds, a sweep in hours,
and whoever waits for one must not take time from what it measures."""
NAME_BYTES = 16 * 2**10
NAMELESS = "a process that has not said its name"


class Holder(Frozen):
    """Who holds a lock, as it says."""

    pid: int = Field(gt=0, lt=2**31)
    host: str
    born: float = Field(ge=0, lt=2**33)
    """When the process began, in seconds since 1970: it tells it from a later one of the same number."""
    since: float = Field(ge=0, lt=2**33)
    """When it got the lock, in seconds since 1970."""
    command: str

    def __str__(self) -> str:
        since, now = datetime.fromtimestamp(self.since), datetime.now()
        when = since.strftime("%H:%M" if since.date() == now.date() else "%Y-%m-%d %H:%M")
        return one_line(f"pid {self.pid} on {one_line(self.host, 60)} since {when} ({one_line(self.command, 120)})")

    @property
    def there(self) -> bool:
        """Whether that process still is; of another host nobody here can tell, and it is believed."""
        if self.host != platform.node():
            return True
        try:
            return abs(psutil.Process(self.pid).create_time() - self.born) < SAME
        except psutil.Error:
            return False


class Held(HarnessError):
    """Another process, or another thread, has the lock; `holder` is None where it has not said its name."""

    exit_code = 3

    def __init__(self, text: str, holder: Holder | None):
        super().__init__(text)
        self.holder = holder


@contextmanager
def locked(
    path: Path,
    wait: bool | float = True,
    what: str = "",
    waiting: Callable[[str], None] = lambda _: None,
    mode: int = 0o644,
) -> Iterator[None]:
    """Hold the lock file `path` (made if it is not there, and its folder).

    `wait`: as long as it takes, not at all, or so many seconds. `what` says in an error and to `waiting` what the
    holder does ("results are being written"); `waiting` is told about once a second who is waited for. `mode` is the
    file's: all who may write it may lock.

    Raises `Held`, with the holder's name, when it was not to be had in time, and `HarnessError` when it cannot be
    locked at all (a folder that may not be written to).
    """
    what = what or f"{path} is locked"
    lock = FileLock(path, mode=mode)
    _acquire(lock, path, wait, what, waiting)
    try:
        with suppress(OSError):  # a full disk: the lock holds without its name
            _sign(path)
        yield
    finally:
        with suppress(OSError):
            _name_of(path).unlink(missing_ok=True)
        lock.release()


def holder_of(path: Path) -> Holder | None:
    """Who holds the lock file `path` and still is there; None where nobody does, or has not said its name (yet)."""
    try:
        content = read_bytes(_name_of(path), NAME_BYTES)
        holder = Holder.model_validate(parse_json(content, str(path)))
    except (HarnessError, ValidationError):
        return None
    return holder if holder.there else None


def device_lock() -> Path:
    """The file whose lock is that of this machine's devices, for every user of it.

    `VLM_HARNESS_LOCK` names it; otherwise it is `vlm-harness/device.lock` in the first of `/run/lock`, `/var/tmp` and
    the user's own `~/.cache` that can be written to. `TMPDIR` does not move it.
    """
    if named := os.environ.get(PLACE):
        return Path(named)
    found = next(filter(None, map(_common, SHARED)), None)
    if found is None:
        found = Path("~/.cache/vlm-harness").expanduser()
        try:
            found.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise HarnessError(f"no place for the lock of this machine: {error}; name a file by {PLACE}") from error
    return found / "device.lock"


def _common(folder: Path) -> Path | None:
    """A folder of ours in `folder` that every user may write to, made if need be; None where that cannot be.

    It is not sticky, unlike its parent: there a lock file would be its first user's alone. So whoever is on this
    machine may spoil the lock, which guards times and nothing else.
    """
    ours = folder / "vlm-harness"
    try:
        if not ours.exists():
            made = Path(tempfile.mkdtemp(dir=folder, prefix=".vlm-harness-"))
            made.chmod(0o777)
            try:
                made.rename(ours)  # all at once: nobody sees it before everybody may write to it
            except OSError:  # another process was faster
                made.rmdir()
        return ours if ours.is_dir() and not ours.is_symlink() and os.access(ours, os.W_OK | os.X_OK) else None
    except OSError:
        return None


def _acquire(lock: FileLock, path: Path, wait: bool | float, what: str, waiting: Callable[[str], None]) -> None:
    begin = time.monotonic()
    most = (float("inf") if wait else 0.0) if isinstance(wait, bool) else wait
    said = 0.0
    while True:
        try:
            lock.acquire(timeout=0)
            return
        except Timeout:
            waited = time.monotonic() - begin
        except (OSError, NotImplementedError) as error:
            raise HarnessError(f"{path}: cannot be locked: {error}") from error
        if waited >= most:
            holder = holder_of(path)
            after = f" after {waited:.0f} s" if waited >= 1 else ""
            raise Held(f"{what}{after}: {holder or NAMELESS}", holder)
        if waited - said >= LONGEST:
            said = waited
            waiting(f"{what}: {holder_of(path) or NAMELESS}")
        time.sleep(min(max(SHORTEST, waited / 10), LONGEST, most - waited))


def _name_of(path: Path) -> Path:
    """Where the holder of the lock file `path` says its name."""
    return path.with_name(f"{path.name}.holder")


def _sign(path: Path) -> None:
    """Say who holds the lock from now on; called by whoever does."""
    process = psutil.Process()
    command = shlex.join(["python", *sys.orig_argv[1:]])
    holder = Holder(
        pid=process.pid,
        host=platform.node(),
        born=process.create_time(),
        since=time.time(),
        command=one_line(command),
    )
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    made = Path(name)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(holder.model_dump_json())
        made.chmod(0o644)
        made.replace(_name_of(path))
    finally:
        made.unlink(missing_ok=True)
