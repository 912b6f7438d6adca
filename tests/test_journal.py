import json

from harness.evaluate.journal import Journal


def test_answers_are_there_again_and_new_ones_are_appended(tmp_path):
    path = tmp_path / "below" / "journal.jsonl"
    with Journal(path) as book:
        book.add({"a": "one", "b": "two\nlines"})
    with Journal(path) as book:
        assert book.known == {"a": "one", "b": "two\nlines"}
        book.add({"c": ""})
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == ["a", "b", "c"]


def test_a_torn_last_line_is_cut_and_a_damaged_one_is_an_answer_to_give_again(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_text('{"key": "a", "text": "one"}\n[1]\nnot json\n{"key": "b", "te')
    with Journal(path) as book:
        assert book.known == {"a": "one"}
        book.add({"b": "two"})
    assert path.read_text().splitlines()[-1] == '{"key": "b", "text": "two"}'


def test_without_a_path_nothing_is_written(tmp_path):
    with Journal(None) as book:
        book.add({"a": "one"})
        assert book.known == {"a": "one"}
    assert not list(tmp_path.iterdir())


def test_what_was_written_survives_without_a_proper_end(tmp_path):
    path = tmp_path / "journal.jsonl"
    book = Journal(path).__enter__()
    book.add({"a": "one"})
    with Journal(path) as other:
        assert other.known == {"a": "one"}
    book.__exit__(None, None, None)
