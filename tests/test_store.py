import multiprocessing
import os
import signal
import time

import pytest

from conftest import MACHINE, failed_visit, make_exam, make_result, make_visit
from harness import store
from harness.schema import Exam, HarnessError, Visit


def test_round_trip(tmp_path):
    path = store.path_of(tmp_path, MACHINE, Visit)
    visits, exam = [make_visit(block=block) for block in (0, 1)], make_exam()
    for entry in (*visits, exam):
        store.append(tmp_path, entry)
    assert list(store.read(path, Visit)) == visits
    assert store.read_all(tmp_path, Visit) == visits
    assert store.read_all(tmp_path, Exam) == [exam]
    assert len(store.files(tmp_path)) == 2


def test_a_torn_last_line_is_moved_aside_and_said(tmp_path):
    path = store.path_of(tmp_path, MACHINE, Visit)
    store.append(tmp_path, make_visit())
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: len(whole) // 2])
    with pytest.raises(HarnessError, match=rf"{path}:2: damaged record"):
        list(store.read(path, Visit))
    said = store.mend(path)
    assert said.startswith(f"{path}:2: a write was interrupted")
    assert path.read_bytes() == whole
    assert path.with_name("visits.jsonl.torn").read_bytes() == whole[: len(whole) // 2] + b"\n"
    assert store.mend(path) == ""


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (b"not json\n", "not a JSON record"),
        (b'{"schema_version": 3}\n', "key: Field required"),
        (b"\n", "not a JSON record"),
        (b"[1, 2]\n", "not a JSON record"),
    ],
)
def test_a_damaged_line_is_named_by_file_and_line(tmp_path, damage, what):
    path = store.path_of(tmp_path, MACHINE, Visit)
    store.append(tmp_path, make_visit())
    path.write_bytes(path.read_bytes() + damage)
    store.append(tmp_path, make_visit())
    with pytest.raises(HarnessError) as error:
        list(store.read(path, Visit))
    assert f"{path}:2: damaged record ({what}" in str(error.value)
    assert "\n" not in str(error.value)


def test_entries_of_another_schema_are_told_apart_from_damage(tmp_path):
    path = store.path_of(tmp_path, MACHINE, Visit)
    path.parent.mkdir(parents=True)
    path.write_bytes(b'{"schema_version": 1, "latency": {}}\n')
    with pytest.raises(HarnessError, match=r":1: written with schema 1, this version reads 3; move the file elsewhere"):
        list(store.read(path, Visit))


def test_the_newest_visit_of_a_block_counts_even_if_it_failed():
    first, again, other = make_visit(seconds=1.0), make_visit(seconds=2.0), make_visit(block=1)
    failed = failed_visit(block=1, status="timeout", reason="hung")
    assert store.by_block([first, other, again]) == {first.key: {0: again, 1: other}}
    assert store.by_block([other, failed])[first.key][1] == failed


def test_the_newest_good_exam_counts_and_a_later_failure_does_not_hide_it():
    good, better = make_exam(seconds=1.0), make_exam(seconds=2.0)
    failed = make_exam(status="timeout", reason="hung", score=None)
    assert store.latest([failed, good, better, failed]) == {good.key: better}
    assert store.latest([failed]) == {good.key: failed}


def test_a_writer_mends_what_another_one_left_torn(tmp_path):
    path = store.path_of(tmp_path, MACHINE, Visit)
    store.append(tmp_path, make_visit(commit="first"))
    with path.open("ab") as file:
        file.write(b'{"key": "half')
    store.append(tmp_path, make_visit(commit="second"))
    assert [r.commit for r in store.read(path, Visit)] == ["first", "second"]
    assert path.with_name("visits.jsonl.torn").read_bytes() == b'{"key": "half\n'


def _write_many(root, writer, count):
    for k in range(count):
        store.append(root, make_visit(commit=f"{writer}-{k}"))


def test_several_writers_lose_nothing(tmp_path):
    path = store.path_of(tmp_path, MACHINE, Visit)
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_many, args=(tmp_path, w, 20)) for w in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    commits = [record.commit for record in store.read(path, Visit)]
    assert sorted(commits) == sorted(f"{w}-{k}" for w in range(4) for k in range(20))


def test_killed_writers_leave_only_whole_records_after_mending(tmp_path):
    path = store.path_of(tmp_path, MACHINE, Visit)
    context = multiprocessing.get_context("fork")
    for delay in (0.02, 0.05, 0.11):
        writer = context.Process(target=_write_many, args=(tmp_path, delay, 10_000))
        writer.start()
        time.sleep(delay)
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        store.mend(path)
    store.append(tmp_path, make_visit(commit="last"))
    assert [r.commit for r in store.read(path, Visit)][-1] == "last"


def test_a_sweep_without_records_is_named_with_what_there_is(tmp_path):
    planned = make_result().planned
    store.write_manifest(tmp_path, "resolution", "title", [planned], "command")
    with pytest.raises(HarnessError, match=r"no sweep 'resoluton' under .*; there are: resolution"):
        store.read_manifest(tmp_path, "resoluton")
    assert store.read_manifest(tmp_path, "resolution").points == (planned,)
    (tmp_path / "sweeps" / "resolution.json").write_text("{}")
    with pytest.raises(HarnessError, match="damaged manifest; delete it and run the sweep again"):
        store.read_manifest(tmp_path, "resolution")
