import multiprocessing
import os
import signal
import time

import pytest

from conftest import MACHINE, make_point, make_record
from harness import store
from harness.schema import HarnessError


def test_round_trip(tmp_path):
    path = store.path_of(tmp_path, MACHINE)
    records = [make_record(point=make_point(resolution=r)) for r in (64, 128)]
    for record in records:
        store.append(path, record)
    assert list(store.read(path)) == records
    assert store.read_all(tmp_path) == records


def test_a_torn_last_line_is_moved_aside_and_said(tmp_path):
    path = store.path_of(tmp_path, MACHINE)
    store.append(path, make_record())
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: len(whole) // 2])
    with pytest.raises(HarnessError, match=rf"{path}:2: damaged record"):
        list(store.read(path))
    said = store.mend(path)
    assert said.startswith(f"{path}:2: a write was interrupted")
    assert path.read_bytes() == whole
    assert path.with_name("records.jsonl.torn").read_bytes() == whole[: len(whole) // 2] + b"\n"
    assert store.mend(path) == ""


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (b"not json\n", "not a JSON record"),
        (b'{"schema_version": 1}\n', "key: Field required"),
        (b"\n", "not a JSON record"),
        (b"[1, 2]\n", "not a JSON record"),
        (b'{"schema_version": 99, "novel": true}\n', "schema 99"),
    ],
)
def test_a_damaged_line_is_named_by_file_and_line(tmp_path, damage, what):
    path = store.path_of(tmp_path, MACHINE)
    store.append(path, make_record())
    path.write_bytes(path.read_bytes() + damage)
    store.append(path, make_record())
    with pytest.raises(HarnessError) as error:
        list(store.read(path))
    assert f"{path}:2: damaged record ({what}" in str(error.value)
    assert "\n" not in str(error.value)


def test_the_newest_good_record_counts_and_a_later_failure_does_not_hide_it():
    good, better = make_record(seconds=1.0), make_record(seconds=2.0)
    failed = make_record(status="timeout", reason="hung", latency=None, scores=())
    assert store.latest([failed, good, better, failed]) == {good.key: better}
    assert store.latest([failed]) == {good.key: failed}


def test_a_writer_mends_what_another_one_left_torn(tmp_path):
    path = store.path_of(tmp_path, MACHINE)
    store.append(path, make_record(commit="first"))
    with path.open("ab") as file:
        file.write(b'{"key": "half')
    store.append(path, make_record(commit="second"))
    assert [r.commit for r in store.read(path)] == ["first", "second"]
    assert path.with_name("records.jsonl.torn").read_bytes() == b'{"key": "half\n'


def _write_many(path, writer, count):
    for k in range(count):
        store.append(path, make_record(commit=f"{writer}-{k}"))


def test_several_writers_lose_nothing(tmp_path):
    path = store.path_of(tmp_path, MACHINE)
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_many, args=(path, w, 20)) for w in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    commits = [record.commit for record in store.read(path)]
    assert sorted(commits) == sorted(f"{w}-{k}" for w in range(4) for k in range(20))


def test_killed_writers_leave_only_whole_records_after_mending(tmp_path):
    path = store.path_of(tmp_path, MACHINE)
    context = multiprocessing.get_context("fork")
    for delay in (0.02, 0.05, 0.11):
        writer = context.Process(target=_write_many, args=(path, delay, 10_000))
        writer.start()
        time.sleep(delay)
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        store.mend(path)
    store.append(path, make_record(commit="last"))
    assert [r.commit for r in store.read(path)][-1] == "last"


def test_a_sweep_without_records_is_named_with_what_there_is(tmp_path):
    store.write_manifest(tmp_path, "resolution", "title", ["k"], "command")
    with pytest.raises(HarnessError, match=r"no sweep 'resoluton' under .*; there are: resolution"):
        store.records_of(tmp_path, "resoluton")
    manifest, records = store.records_of(tmp_path, "resolution")
    assert (manifest.keys, records) == (("k",), [])
