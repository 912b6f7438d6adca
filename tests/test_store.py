import math
import multiprocessing
import os
import signal
import time

import pytest

from conftest import (
    MACHINE,
    failed_measurement,
    make_evaluation,
    make_measurement,
    make_result,
    make_samples,
    make_score,
)
from harness.analysis.composition import load_results, refresh
from harness.evaluate.journal import Journal
from harness.schema import Evaluation, HarnessError, Measurement, Samples
from harness.storage import store
from harness.storage.lock import locked


def test_round_trip(tmp_path):
    path = store.path_of(tmp_path, MACHINE, Measurement)
    measurements, evaluation = [make_measurement(block=block) for block in (0, 1)], make_evaluation()
    for entry in (*measurements, evaluation):
        store.append(tmp_path, entry)
    assert list(store.read(path, Measurement)) == measurements
    assert store.read_all(tmp_path, Measurement) == measurements
    assert store.read_all(tmp_path, Evaluation) == [evaluation]
    assert len(store.files(tmp_path)) == 2


def test_a_torn_last_line_is_moved_aside_and_said(tmp_path):
    path = store.path_of(tmp_path, MACHINE, Measurement)
    store.append(tmp_path, make_measurement())
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: len(whole) // 2])
    assert len(list(store.read(path, Measurement))) == 1  # what has no end was never acknowledged
    said = store.mend(path)
    assert said == f"{path}: a write was interrupted; its {len(whole) // 2} bytes are in measurements.jsonl.torn now"
    assert path.read_bytes() == whole
    assert path.with_name("measurements.jsonl.torn").read_bytes() == whole[: len(whole) // 2] + b"\n"
    assert store.mend(path) == ""


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (b"not json\n", "not a JSON record"),
        (b'{"schema_version": 3}\n', "key: Field required"),
        (b"\n", "not a JSON record"),
        (b"[1, 2]\n", "not a JSON record"),
        (b"\xff\xfe{}\n", "not a JSON record"),
        (b"[" * 100_000 + b"\n", "not a JSON record"),
        (b'{"schema_version": 3, "seconds": ' + b"9" * 5000 + b"}\n", "not a JSON record"),
        (b'{"schema_version": 3, "\\u001b[31m\\n": 1}\n', "key: Field required"),
    ],
)
def test_a_damaged_line_is_named_by_file_and_line(tmp_path, damage, what):
    path = store.path_of(tmp_path, MACHINE, Measurement)
    store.append(tmp_path, make_measurement())
    path.write_bytes(path.read_bytes() + damage)
    store.append(tmp_path, make_measurement())
    with pytest.raises(HarnessError) as error:
        list(store.read(path, Measurement))
    assert f"{path}:2: damaged record ({what}" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("version", ["1", "2", "4", "true", "null", '"3"', "[3]"])
def test_entries_of_another_schema_are_told_apart_from_damage(tmp_path, version):
    path = store.path_of(tmp_path, MACHINE, Measurement)
    line = make_measurement().model_dump_json()
    path.parent.mkdir(parents=True)
    path.write_text(line.replace('"schema_version":3', f'"schema_version":{version}') + "\n")
    with pytest.raises(HarnessError, match=r":1: written with schema .*, this version reads 3; move the file"):
        list(store.read(path, Measurement))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, -1.0])
def test_what_is_not_a_number_is_never_written(tmp_path, bad):
    """However it came into the entry: a copy is not validated."""
    good = make_measurement()
    samples = good.samples.model_copy(update={"seconds": {**good.samples.seconds, "encode": (bad,) * 7}})
    for entry in (
        good.model_copy(update={"seconds": bad}),
        good.model_copy(update={"samples": samples}),
        make_evaluation().model_copy(update={"seconds": bad}),
    ):
        with pytest.raises(HarnessError, match="that is not a result"):
            store.append(tmp_path, good.model_copy(update={"block": 1}), entry)
    assert not store.files(tmp_path)  # not even the good one beside it


def test_a_result_that_contradicts_itself_is_refused_where_it_is_made():
    measurement = make_measurement()
    samples = measurement.samples.model_dump()
    for changed in (
        {"marks": samples["marks"][:-1]},
        {"warmup": 7},
        {"seconds": {}},
        {"seconds": {**samples["seconds"], "encode": samples["seconds"]["encode"][:-1]}},
    ):
        with pytest.raises(ValueError, match="passes"):
            Samples(**(samples | changed))
    with pytest.raises(ValueError, match="status ok without samples"):
        make_measurement(samples=None)
    with pytest.raises(ValueError, match="a llm has stages"):
        make_measurement("llm", samples=make_samples("encoder"))
    with pytest.raises(ValueError, match="status timeout with a score"):
        make_evaluation(status="timeout")
    score = make_score("doc_read", 3)
    with pytest.raises(ValueError, match="a question is answered twice"):
        make_evaluation(score=score.model_copy(update={"answers": score.answers * 2}))
    with pytest.raises(ValueError, match="has a score of shapes"):
        make_evaluation(score=make_score("shapes", 3))
    with pytest.raises(ValueError, match="exactly where nobody else judges"):
        make_evaluation(
            score=score.model_copy(update={"answers": (score.answers[0].model_copy(update={"score": None}),)})
        )


def test_the_newest_measurement_of_a_block_counts_even_if_it_failed():
    first, again, other = make_measurement(seconds=1.0), make_measurement(seconds=2.0), make_measurement(block=1)
    failed = failed_measurement(block=1, status="timeout", reason="hung")
    assert store.by_block([first, other, again]) == {first.key: {0: again, 1: other}}
    assert store.by_block([other, failed])[first.key][1] == failed


def test_the_newest_good_evaluation_counts_and_a_later_failure_does_not_hide_it():
    good, better = make_evaluation(seconds=1.0), make_evaluation(seconds=2.0)
    failed = make_evaluation(status="timeout", reason="hung", score=None)
    assert store.latest([failed, good, better, failed]) == {good.key: better}
    assert store.latest([failed]) == {good.key: failed}


def test_a_writer_mends_what_another_one_left_torn(tmp_path):
    path = store.path_of(tmp_path, MACHINE, Measurement)
    store.append(tmp_path, make_measurement(commit="first"))
    with path.open("ab") as file:
        file.write(b'{"key": "half')
    store.append(tmp_path, make_measurement(commit="second"))
    assert [r.commit for r in store.read(path, Measurement)] == ["first", "second"]
    assert path.with_name("measurements.jsonl.torn").read_bytes() == b'{"key": "half\n'


def _write_many(root, writer, count):
    for k in range(count):
        store.append(root, make_measurement(commit=f"{writer}-{k}"))


def _journal_many(path, writer, count):
    with Journal(path) as book:
        for k in range(count):
            book.add({f"{writer}-{k}": f"answer {k}\n" * (1 + k % 3)})


def _side_by_side(target, arguments):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=target, args=given) for given in arguments]
    for writer in writers:
        writer.start()
    return writers


def test_eight_writers_lose_nothing_and_a_reader_beside_them_sees_whole_records(tmp_path):
    path = store.path_of(tmp_path, MACHINE, Measurement)
    writers = _side_by_side(_write_many, [(tmp_path, w, 15) for w in range(8)])
    seen = 0
    while any(writer.is_alive() for writer in writers):
        found = len(list(store.read(path, Measurement)))
        assert found >= seen
        seen = found
    commits = [record.commit for record in store.read(path, Measurement)]
    assert sorted(commits) == sorted(f"{w}-{k}" for w in range(8) for k in range(15))
    assert [writer.exitcode for writer in writers] == [0] * 8


def test_eight_writers_of_one_journal_lose_no_answer(tmp_path):
    path = tmp_path / "journal.jsonl"
    for writer in _side_by_side(_journal_many, [(path, w, 25) for w in range(8)]):
        writer.join()
        assert writer.exitcode == 0
    with Journal(path) as book:
        assert book.known == {f"{w}-{k}": f"answer {k}\n" * (1 + k % 3) for w in range(8) for k in range(25)}
    assert len(path.read_bytes().splitlines()) == 200


def test_reading_takes_no_lock_and_writes_nothing(tmp_path):
    """As on read-only media: nothing is made beside the files, and a lock that is held keeps no reader out."""
    store.append(tmp_path, make_measurement())
    store.append(tmp_path, make_evaluation())
    path = store.path_of(tmp_path, MACHINE, Measurement)
    for beside in path.parent.glob("*.lock*"):
        beside.unlink()
    with path.open("ab") as file:
        file.write(b'{"torn": ')
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    for folder in (path.parent, path.parent.parent, tmp_path):
        folder.chmod(0o555)
    try:
        measurements, evaluations = store.load(tmp_path)
        assert (len(measurements), len(evaluations)) == (1, 1)
        assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before
    finally:
        for folder in (tmp_path, path.parent.parent, path.parent):
            folder.chmod(0o755)
    with locked(path.with_name(path.name + ".lock")):
        assert len(store.read_all(tmp_path, Measurement)) == 1


def test_several_entries_are_added_all_at_once(tmp_path):
    measurements = [make_measurement(block=block) for block in range(3)]
    store.append(tmp_path, *measurements)
    store.append(tmp_path)
    assert store.read_all(tmp_path, Measurement) == measurements


def test_killed_writers_leave_only_whole_records_after_mending(tmp_path):
    path = store.path_of(tmp_path, MACHINE, Measurement)
    context = multiprocessing.get_context("fork")
    for delay in (0.02, 0.05, 0.11):
        writer = context.Process(target=_write_many, args=(tmp_path, delay, 10_000))
        writer.start()
        time.sleep(delay)
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        store.mend(path)
    store.append(tmp_path, make_measurement(commit="last"))
    assert [r.commit for r in store.read(path, Measurement)][-1] == "last"


def test_a_sweep_without_records_is_named_with_what_there_is(tmp_path):
    planned = make_result().planned
    store.write_manifest(tmp_path, store.make_manifest("resolution", "title", [planned], "command"))
    with pytest.raises(HarnessError, match=r"no sweep 'resoluton' under .*; there are: resolution"):
        store.read_manifest(tmp_path, "resoluton")
    assert store.read_manifest(tmp_path, "resolution").points == (planned,)
    for damage in (b"{}", b"\xff", b"[" * 10**5, b'{"name": NaN}', b'{"name": "../x"}'):
        (tmp_path / "sweeps" / "resolution.json").write_bytes(damage)
        with pytest.raises(HarnessError, match=r"damaged manifest \(.*; delete it and run the sweep again|not UTF-8"):
            store.read_manifest(tmp_path, "resolution")


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "a/b", "", ".", "..", "a\nb", "x" * 300])
def test_the_name_of_a_sweep_names_no_other_place(tmp_path, name):
    with pytest.raises(HarnessError, match="is not the name of a sweep"):
        store.read_manifest(tmp_path, name)


def test_a_run_rests_on_the_entries_that_it_pinned(tmp_path):
    result = make_result(right=None)
    first = [measurement for blocks in result.measurements.values() for measurement in blocks.values()]
    for measurement in first:
        store.append(tmp_path, measurement)
    manifest = store.make_manifest("mine", "Mine", [result.planned], "command")
    store.write_manifest(
        tmp_path, manifest.model_copy(update={"pins": store.Contents.of(tmp_path).pin([result.planned])})
    )
    before = load_results(tmp_path, "mine")[1][0].times()
    again = make_measurement(
        block=0, scale=5.0, component=result.measurements["encoder"][0].component, started="2026-02-03"
    )
    store.append(tmp_path, again)
    assert load_results(tmp_path, "mine")[1][0].times() == before
    said = refresh(tmp_path, "mine")
    assert len(said) == 1
    assert said[0].startswith("encoder micro_fastvithd 128px: encode ")
    assert load_results(tmp_path, "mine")[1][0].measurements["encoder"][0] == again
    assert refresh(tmp_path, "mine") == []
    path = store.path_of(tmp_path, MACHINE, Measurement)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[1:-1]))
    with pytest.raises(HarnessError, match="records that are not in the store any more"):
        load_results(tmp_path, "mine")
