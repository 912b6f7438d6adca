"""Data as people have it: every format, images inside and beside, with and without a card; and as attackers do."""

import base64
import csv
import io
import json
import os
import struct
import zlib
from pathlib import Path

import datasets
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pyarrow import ipc, parquet

from benchmarks.mutations_data import make
from harness.schema import LINE, HarnessError
from harness.storage import apart
from harness.suites import questions
from harness.suites.local import content_of
from harness.suites.tasks import load_suite


def png(shade, size=(40, 30)):
    out = io.BytesIO()
    Image.new("RGB", size, (shade, 255 - shade, 9)).save(out, "PNG")
    return out.getvalue()


def rows_of(image, count=4):
    """DocVQA's columns, two questions an image; `image`: shade -> what stands in the column."""
    return [
        {
            "questionId": f"0{k}",
            "question": f"what is, number {k}?",
            "question_types": ["form", "table"],
            "answers": ["12", "NA", "2024-01-01"],
            "image": image(60 * (k // 2)),
        }
        for k in range(count)
    ]


def inside(shade):
    return {"bytes": png(shade), "path": None}


def spelled(shade):
    return base64.b64encode(png(shade)).decode()


def beside(shade):
    return f"{shade}.png"


def put_pictures(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for shade in (0, 60):
        (folder / f"{shade}.png").write_bytes(png(shade))


def write(path, rows):
    """Rows in the format of the file's ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=3)
    elif path.suffix == ".arrow":
        table = pa.Table.from_pylist(rows)
        with ipc.new_stream(str(path), table.schema) as sink:
            sink.write_table(table)
    elif path.suffix in (".csv", ".tsv"):
        with path.open("w", newline="") as file:
            cells = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            cells.writerow(rows[0])
            cells.writerows([[json.dumps(v) if isinstance(v, list) else v for v in row.values()] for row in rows])
    elif path.suffix == ".json":
        path.write_text(json.dumps({"dataset_name": "docvqa", "data": rows}))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def ask(path, name="docvqa"):
    return questions.load(load_suite(name, data=str(path)))


def fault(path, name="docvqa"):
    with pytest.raises(HarnessError) as error:
        ask(path, name)
    said = str(error.value)
    assert said.isprintable()
    assert len(said) <= LINE
    return said


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return ask(write(tmp_path_factory.mktemp("data") / "a.parquet", rows_of(inside)))


@pytest.mark.parametrize("image", [inside, spelled, beside])
@pytest.mark.parametrize("ending", ["parquet", "arrow", "csv", "tsv", "jsonl", "ndjson", "json"])
def test_every_format_gives_the_same_questions_and_images(ending, image, tmp_path, expected):
    put_pictures(tmp_path)
    rows = rows_of(image if image is not inside or ending in ("parquet", "arrow") else lambda s: {"bytes": spelled(s)})
    if image is inside and ending in ("csv", "tsv"):
        rows = rows_of(lambda shade: "data:image/png;base64," + spelled(shade))
    found = ask(write(tmp_path / f"whatever.{ending}", rows))
    assert found.asked == expected.asked
    assert found.fingerprint == expected.fingerprint
    assert [found.images[key] for key in found.images] == [(png(0),), (png(60),)]
    assert found.asked[1].answers == ("12", "NA", "2024-01-01")  # a date and `NA` stay what they are


@pytest.mark.parametrize(
    "place",
    [
        "data/validation-00000-of-00001.parquet",
        "val.jsonl",
        "DocVQA_VAL.tsv",
        "validation/0000.parquet",
        "DocVQA/validation-00000-of-00001.parquet",
        "anything.csv",
    ],
)
def test_the_split_is_found_by_names_or_because_there_is_one_table(place, tmp_path, expected):
    form = inside if place.endswith("parquet") else spelled
    write(tmp_path / place, rows_of(form))
    if place != "anything.csv":  # others beside it do not disturb
        write(tmp_path / Path(place).parent / "train.jsonl", rows_of(spelled, 2))
        write(tmp_path / "test" / "0000.parquet", rows_of(inside, 2))
    (tmp_path / "dataset_info.json").write_text("{}")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "validation.csv").write_text("x")
    assert ask(tmp_path).asked == expected.asked


def test_shards_are_one_table_and_all_of_them_must_be_there(tmp_path, expected):
    rows = rows_of(inside)
    write(tmp_path / "validation-00000-of-00002.parquet", rows[:1])
    assert "data: 1 of 2 files of split validation are there" in fault(tmp_path).replace(str(tmp_path), "data")
    write(tmp_path / "validation-00001-of-00002.parquet", rows[1:])
    assert ask(tmp_path).asked == expected.asked


def test_an_image_folder_has_a_column_file_name(tmp_path, expected):
    put_pictures(tmp_path / "pictures")
    rows = [{"file_name": f"pictures/{row.pop('image')}", **row} for row in rows_of(beside)]
    for name in ("metadata.csv", "metadata.jsonl"):
        path = write(tmp_path / name, rows)
        assert ask(tmp_path).asked == expected.asked
        path.unlink()


def test_what_the_datasets_library_saves_is_read(tmp_path, expected):
    features = datasets.Features(
        {
            **dict.fromkeys(("questionId", "question"), datasets.Value("string")),
            **dict.fromkeys(("question_types", "answers"), datasets.List(datasets.Value("string"))),
            "image": datasets.Image(),
        }
    )
    table = datasets.Dataset.from_list(rows_of(inside), features=features)
    datasets.DatasetDict({"validation": table}).save_to_disk(tmp_path / "saved")
    assert ask(tmp_path / "saved").asked == expected.asked


def test_the_images_of_gqa_are_a_table_of_their_own_or_files(tmp_path):
    rows = [{"id": str(k), "imageId": f"n{k // 2}", "question": "is it?", "answer": "yes"} for k in range(4)]
    write(tmp_path / "a" / "testdev_balanced_instructions" / "testdev-00000-of-00001.parquet", rows)
    shown = [{"id": f"n{k}", "image": inside(60 * k)} for k in range(2)]
    write(tmp_path / "a" / "testdev_balanced_images" / "testdev-00000-of-00001.parquet", shown)
    write(tmp_path / "b" / "testdev.jsonl", rows)
    put_pictures(tmp_path / "b" / "images")
    for shade in (0, 60):
        (tmp_path / "b" / "images" / f"{shade}.png").rename(tmp_path / "b" / "images" / f"n{shade // 60}.png")
    a, b = ask(tmp_path / "a", "gqa"), ask(tmp_path / "b", "gqa")
    assert a.asked == b.asked
    assert [*a.images.values()] == [*b.images.values()] == [(png(0),), (png(60),)]


def test_rows_are_read_in_any_order(tmp_path):
    rows = [row | {"image": inside(k)} for k, row in enumerate(rows_of(inside, 50))]
    found = ask(write(tmp_path / "a.parquet", rows))
    keys = list(found.images)
    assert [found.images[keys[k]] for k in (49, 0, 17, 16, 31)] == [(png(k),) for k in (49, 0, 17, 16, 31)]


def test_columns_of_a_header_with_semicolons_and_a_mark(tmp_path, expected):
    path = write(tmp_path / "a.csv", rows_of(spelled))
    cells = list(csv.reader(io.StringIO(path.read_text(), newline="")))
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file, delimiter=";").writerows(cells)
    assert ask(path).asked == expected.asked


def test_a_missing_column_is_named_with_its_file(tmp_path):
    rows = [{k: v for k, v in row.items() if k not in ("answers", "image")} for row in rows_of(spelled)]
    for ending in ("parquet", "csv", "jsonl", "json"):
        path = write(tmp_path / f"a.{ending}", rows)
        assert fault(path).removeprefix(str(path)) == (
            ": no column answers and no image, which suite docvqa asks for; the columns are: "
            "questionId, question, question_types"
        )


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("../secret.png", "'../secret.png' leaves the folder"),
        ("/etc/passwd.png", "'/etc/passwd.png' leaves the folder"),
        ("a/../../secret.png", "leaves the folder"),
        ("C:\\secret.png", "leaves the folder"),
        ("https://example.org/a.png", "leaves the folder"),
        ("link.png", "is a link that leaves the folder"),
        ("linked/secret.png", "is a link that leaves the folder"),
        ("pipe.png", "'pipe.png' is neither a file in"),
        ("none.png", "'none.png' is neither a file in"),
        ("x" * 5000, "is neither a file in"),
        ("\x00.png", "is neither a file in"),
        (7, "holds no stored image, but int"),
        (None, "holds no stored image, but NoneType"),
        ({"bytes": None, "path": "../secret.png"}, "leaves the folder"),
        ({"path": None}, "holds no stored image, but NoneType"),
    ],
)
def test_no_image_is_read_outside_of_the_folder(value, said, tmp_path):
    folder = tmp_path / "data"
    put_pictures(folder)
    (tmp_path / "secret.png").write_bytes(png(1))
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "linked").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe.png")
    rows = rows_of(beside)
    rows[2]["image"] = value
    write(folder / "validation.jsonl", rows)
    message = fault(folder)
    assert "row 2: image: " in message
    assert said in message


def test_no_table_is_read_outside_of_the_folder(tmp_path):
    write(tmp_path / "secret.jsonl", rows_of(spelled))
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "validation.jsonl").symlink_to(tmp_path / "secret.jsonl")
    assert "is a link that leaves the folder" in fault(folder)
    for pattern in ("../*.jsonl", str(tmp_path / "*.jsonl"), "hf://datasets/a/b"):
        (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: DocVQA\n  data_files: '{pattern}'\n---\n")
        assert "leaves the folder" in fault(folder)


def test_the_hubs_cache_is_a_folder_of_links(tmp_path, expected):
    write(tmp_path / "blobs" / "1a2b.parquet", rows_of(inside)).rename(tmp_path / "blobs" / "1a2b")
    snapshot = tmp_path / "snapshots" / "c0ffee" / "DocVQA"
    snapshot.mkdir(parents=True)
    (snapshot / "validation-00000-of-00001.parquet").symlink_to(tmp_path / "blobs" / "1a2b")
    assert ask(tmp_path / "snapshots" / "c0ffee").asked == expected.asked


def test_two_tables_that_may_be_meant_are_named(tmp_path):
    write(tmp_path / "val.jsonl", rows_of(spelled))
    write(tmp_path / "val.csv", rows_of(spelled))
    assert "2 tables may be split validation: val.csv, val.jsonl; give one of the files" in fault(tmp_path)


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("question", None, "doc_to_text: ValueError: a text is expected, not NoneType"),
        ("question", ["a"], "doc_to_text: ValueError: a text is expected, not list"),
        ("questionId", None, "id: None is no text"),
        ("answers", [], "answers is empty"),
        ("answers", None, "answers is empty"),
        ("answers", [None], "answers: None is no text"),
        ("answers", {"a": 1}, "answers: {'a': 1} is no text"),
    ],
)
def test_a_value_of_another_type_is_named_with_its_row(column, value, said, tmp_path):
    rows = rows_of(spelled)
    rows[1][column] = value
    message = fault(write(tmp_path / "a.jsonl", rows))
    assert "split validation, row 1: " in message
    assert said in message


def test_text_that_is_not_unicode_is_named_with_its_line(tmp_path):
    rows = rows_of(spelled)
    rows[1]["question"] = "\ud800"
    assert "a.jsonl, line 2: '\\ud800' is not Unicode text" in fault(write(tmp_path / "a.jsonl", rows))


def test_damaged_images_are_found_before_anything_is_asked(tmp_path):
    jpeg = io.BytesIO()
    Image.new("RGB", (640, 480), (9, 99, 200)).save(jpeg, "JPEG")
    size = b"IHDR" + struct.pack(">II", 50_000, 50_000) + png(1)[24:29]
    bomb = png(1)[:12] + size + struct.pack(">I", zlib.crc32(size)) + png(1)[33:]
    for stored, said in (
        (png(1)[:-30], "unreadable image"),
        (jpeg.getvalue()[:-200], "unreadable image"),
        (bomb, "2500000000"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "none of PNG, JPEG"),
    ):
        rows = rows_of(inside)
        rows[3]["image"] = {"bytes": stored, "path": None}
        suite = load_suite("docvqa", data=str(write(tmp_path / "a.parquet", rows)))
        with pytest.raises(HarnessError, match=f"row 3: image: .*{said}"):
            questions.inspect(suite.model_dump_json())


def test_a_column_of_repeats_is_not_unfolded_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr("harness.suites.local.GROWTH", -(2**30))
    assert "that is not read" in fault(write(tmp_path / "a.parquet", rows_of(inside)))


def test_an_inspection_says_what_is_there(tmp_path, expected):
    suite = load_suite("docvqa", data=str(write(tmp_path / "a.csv", rows_of(spelled))))
    assert questions.inspect(suite.model_dump_json()) == {
        "split": "validation",
        "columns": ["questionId", "question", "question_types", "answers", "image"],
        "questions": 4,
        "images": 2,
        "fingerprint": expected.fingerprint,
    }


def test_the_parent_learns_of_a_fault_from_a_child_with_a_time_limit(tmp_path, monkeypatch):
    path = write(tmp_path / "a.jsonl", rows_of(spelled))
    suite = load_suite("docvqa", data=str(path))
    assert questions.fault_of(suite) == ""
    assert questions.fault_of(load_suite("doc_read")) == ""  # drawn: nothing to open
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}{{ question }}{% endfor %}{% endfor %}"
    monkeypatch.setattr(questions, "OPENING", 1.0)
    said = questions.fault_of(suite.model_copy(update={"prompt": loop}))
    assert said.startswith(str(path))
    assert "took longer than" in said
    apart._apart.stop()


def test_other_data_is_another_evaluation(tmp_path):
    put_pictures(tmp_path)
    path = write(tmp_path / "a.csv", rows_of(beside))
    before = [content_of(one) for one in (tmp_path, path)]
    (tmp_path / "60.png").write_bytes(png(61, (41, 30)))
    assert all(content_of(one) != old for one, old in zip((tmp_path, path), before, strict=True))


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_any_folder_is_read_or_refused_in_one_line(seed, tmp_path_factory):
    folder, said = tmp_path_factory.mktemp("fuzz") / "f", ""
    try:
        suite = load_suite("docvqa", data=str(make(seed, folder)))
        found = questions.inspect(suite.model_dump_json())
    except HarnessError as error:
        said = str(error)
    if said:
        assert said.isprintable()
        assert len(said) <= LINE
    else:
        assert found["questions"] > 0
        assert found["images"] > 0
