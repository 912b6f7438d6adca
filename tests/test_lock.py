"""A lock is the system's; the name beside it is only said."""

import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from harness.schema import HarnessError
from harness.storage import lock
from harness.storage.lock import Held, Holder, device_lock, holder_of, locked

HOLD = """
import sys, time
from pathlib import Path
from harness.storage.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def hold(tmp_path):
    """Another process that holds `tmp_path / "it.lock"` for some seconds."""
    begun = []

    def begin(seconds):
        asked = [sys.executable, "-c", HOLD, str(tmp_path / "it.lock"), str(seconds)]
        begun.append(subprocess.Popen(asked, stdout=subprocess.PIPE, text=True))
        assert begun[-1].stdout.readline() == "held\n"
        return begun[-1]

    yield begin
    for process in begun:
        process.kill()
        process.communicate()


@pytest.fixture
def public():
    """A folder for everybody; not in pytest's own, which another pytest that begins now makes private again."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        path.chmod(0o1777)
        yield path


def test_whoever_has_it_is_named_to_the_others(tmp_path, hold):
    path = tmp_path / "it.lock"
    other = hold(60)
    with pytest.raises(Held) as refused, locked(path, wait=False, what="results are being written"):
        pass
    assert str(refused.value).startswith(f"results are being written: pid {other.pid} on ")
    assert " since " in str(refused.value)
    assert "(python -c" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert refused.value.holder == holder_of(path)
    begin = time.monotonic()
    with pytest.raises(Held), locked(path, wait=0.3):
        pass
    assert 0.3 <= time.monotonic() - begin < 30  # the other holds it for 60 s


def test_waiting_gets_it_and_is_told_for_whom_it_waits(tmp_path, hold):
    other, told, times = hold(60), [], []

    def waiting(text):
        told.append(text)
        times.append(time.monotonic())
        if len(told) == 2:
            other.kill()

    with locked(tmp_path / "it.lock", what="busy", waiting=waiting):
        assert holder_of(tmp_path / "it.lock").pid == os.getpid()
    assert 2 <= len(told) <= 3
    assert all(text.startswith(f"busy: pid {other.pid} on ") for text in told[:2])
    assert times[1] - times[0] > 0.5  # about once a second
    assert not (tmp_path / "it.lock.holder").exists()


def test_the_name_that_a_killed_process_left_misleads_nobody(tmp_path, hold):
    path = tmp_path / "it.lock"
    other = hold(60)
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert (tmp_path / "it.lock.holder").exists()
    assert holder_of(path) is None
    stale = (tmp_path / "it.lock.holder").read_bytes()
    with locked(path, wait=False):  # a dead holder keeps nobody out
        (tmp_path / "it.lock.holder").write_bytes(stale)  # as if it had not said its own yet
        with pytest.raises(Held, match="a process that has not said its name") as refused, locked(path, wait=False):
            pass
    assert refused.value.holder is None


def test_a_later_process_of_the_same_number_is_not_the_holder(tmp_path):
    path = tmp_path / "it.lock"
    with locked(path):
        mine = holder_of(path)
        before = mine.model_copy(update={"born": mine.born - 3600})
        (tmp_path / "it.lock.holder").write_text(before.model_dump_json())
        assert holder_of(path) is None
        elsewhere = before.model_copy(update={"host": "another-host"})
        (tmp_path / "it.lock.holder").write_text(elsewhere.model_dump_json())
        assert holder_of(path) == elsewhere  # nobody here can tell


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[]", b'{"pid": 1}', b'{"pid": -1}', b"[" * 10**5, b"1" * 10**5]
)
def test_a_name_that_is_damaged_is_not_said(tmp_path, content):
    (tmp_path / "it.lock.holder").write_bytes(content)
    assert holder_of(tmp_path / "it.lock") is None


def test_a_name_is_one_short_printable_line():
    loud = Holder(pid=1, host="h\n\x1b[31m" * 99, born=0, since=0, command="c\n\x1b" * 10**4)
    assert len(str(loud)) <= 300
    assert str(loud).isprintable()
    assert "1970-01-01" in str(loud) or "1969-12-31" in str(loud)


def test_what_cannot_be_locked_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(HarnessError, match="cannot be locked"), locked(tmp_path / "file" / "it.lock"):
        pass


def test_the_place_of_the_devices_lock_is_one_for_all_users_whatever_tmpdir_says(tmp_path, monkeypatch):
    monkeypatch.delenv(lock.PLACE)
    monkeypatch.setattr(lock, "SHARED", (tmp_path / "missing", tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "elsewhere"))
    assert device_lock() == tmp_path / "vlm-harness" / "device.lock"
    folder = (tmp_path / "vlm-harness").stat().st_mode
    assert stat.S_IMODE(folder) == 0o777  # another user can open the lock file, and sign
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    monkeypatch.setattr(lock, "SHARED", ())
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert device_lock() == tmp_path / "home/.cache/vlm-harness/device.lock"
    monkeypatch.setenv(lock.PLACE, str(tmp_path / "mine"))
    assert device_lock() == tmp_path / "mine"


def test_a_link_that_somebody_put_there_is_not_followed(tmp_path, monkeypatch):
    monkeypatch.delenv(lock.PLACE)
    (tmp_path / "victim").mkdir()
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "vlm-harness").symlink_to(tmp_path / "victim")
    monkeypatch.setattr(lock, "SHARED", (tmp_path / "shared",))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert device_lock().parent == Path(tmp_path / ".cache/vlm-harness")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can be two users")
def test_two_users_exclude_each_other(public, monkeypatch):
    monkeypatch.delenv(lock.PLACE)
    monkeypatch.setattr(lock, "SHARED", (public,))
    path = device_lock()
    with locked(path, mode=0o666):
        pass
    code = """
import os, sys
from pathlib import Path
from harness.storage.lock import locked, holder_of
os.setuid(65534)
with locked(Path(sys.argv[1]), wait=False, mode=0o666):
    print(holder_of(Path(sys.argv[1])).pid == os.getpid(), flush=True)
    sys.stdin.readline()
"""
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout.readline() == "True\n"
        with pytest.raises(Held, match=f"pid {other.pid} on "), locked(path, wait=False, mode=0o666):
            pass
    finally:
        other.communicate("\n")
    assert other.returncode == 0
    with locked(path, wait=False, mode=0o666):  # and afterwards it is the first one's again
        assert holder_of(path).pid == os.getpid()
