"""The door for foreign content: bounded, one line, and the only one."""

import ast
import json
import os
import random
from pathlib import Path

import pytest

from harness.schema import LINE, HarnessError, one_line
from harness.storage.intake import (
    ITEM_BYTES,
    bounded,
    hash_files,
    parse_json,
    read_bytes,
    read_items,
    read_json,
    read_part,
    read_text,
    read_yaml,
    tensors_of,
)

ROOT = Path(__file__).parent.parent / "harness"

ANYONES = {"read_text", "read_bytes", "from_pretrained", "from_file", "open"}
"""Methods that read a file, of whatever they are."""
OF_MODULES = {
    **{name: {"load", "loads", "safe_load", "memmap"} for name in ("json", "yaml", "pickle", "torch", "np")},
    "importlib": {"import_module"},
    "os": {"open", "fdopen"},
    "pd": {"read_csv", "read_parquet", "read_json", "read_excel", "read_pickle"},
    "datasets": {"load_dataset", "load_from_disk"},
}
BARE = {"open", "load_file", "safe_open", "load_dataset", "import_module", "exec", "eval"}

ALLOWED: dict[str, dict[str, str]] = {
    "storage/intake.py": dict.fromkeys(
        ("Image.open", "json.loads", "os.fdopen", "os.open", "safe_open", "yaml.load"), "it is the door"
    ),
    "storage/apart.py": {
        "importlib.import_module": "a function of this project that the parent names in its code",
        "json.loads": "what parent and child say to each other",
        "os.fdopen": "the pipe between them",
    },
    "storage/lines.py": dict.fromkeys(
        ("open", "os.open"), "bounded line by line; the store parses them through intake"
    ),
    "storage/lock.py": {"os.fdopen": "writes the holder's name"},
    "configuration/command_line.py": {"os.open": "/dev/null, in place of a pipe that is closed"},
    "configuration/compose.py": {"read_text": "the comments of this project's own configuration"},
    "report/canvas.py": {"Image.open": "a picture that was drawn just now"},
    "report/page.py": {"read_bytes": "a picture that was drawn just now"},
    "models/hub.py": {
        "safe_open": "headers of safetensors, looked at in the child",
        "from_pretrained": "in the child first; no code and no pickle of a folder is taken",
    },
    "machine.py": {"read_text": "the kernel's files"},
    "timing/telemetry/linux.py": dict.fromkeys(("os.open", "read_text"), "the kernel's files"),
    "runtimes/torch.py": {"read_text": "the kernel's files"},
    "registry.py": {
        "importlib.import_module": "files of ours, of installed packages, and what the user's command names"
    },
    "models/encoders.py": {"importlib.import_module": "the class that the user's own configuration names"},
    "models/vlm.py": {"load_file": "safetensors whose header was compared with the configuration"},
    "analysis/published.py": {"pd.read_csv": "text that intake has read"},
    "storage/store.py": {"open": "writes"},
    "suites/hub.py": {"datasets.load_dataset": "the door for data sets; no script is run"},
    "train/stages.py": {"load_file": "a stage that was finished here, or that comes with the package"},
    "train/instruct.py": {"np.load": "visual tokens of this very training; no pickles (numpy's default)"},
    "train/print.py": {"np.load": "arrays that this very training drew; no pickles (numpy's default)"},
    "train/finetune.py": {"open": "writes the log"},
    "train/parts.py": {"load_file": "safetensors whose header was compared with the modules"},
    "train/checkpointing.py": {"load_file": "a checkpoint of this very training"},
    "train/pool.py": {
        "np.load": "arrays that this very training drew; no pickles (numpy's default)",
        **dict.fromkeys(("json.loads", "read_text"), "rows that this very training drew"),
    },
    "timing/executors/__init__.py": {"json.loads": "what the measuring process says"},
}
"""Module -> call -> why what it reads is not foreign, or who bounded it."""


def calls(path: Path) -> set[str]:
    """Calls by which a module reads a file, parses one, or imports what a text names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name) and node.func.id in BARE:
            found.add(node.func.id)
        elif isinstance(node.func, ast.Attribute):
            name, whose = node.func.attr, getattr(node.func.value, "id", "")
            if name in OF_MODULES.get(whose, ()) or name in ANYONES:
                found.add(f"{whose if whose in (*OF_MODULES, 'Image', 'webbrowser') else ''}.{name}".lstrip("."))
    return found


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\xfe\x00", "not UTF-8 text (byte 0)"),
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"a": NaN}', "NaN is not a number of JSON"),
        (b'{"a": [1, -Infinity]}', "-Infinity is not a number of JSON"),
        (b'{"a": 1e999}', "inf is not a finite number"),
        (b"9" * 5000, "not JSON"),
        (b'{"a": 99999999999999999999}', "a whole number of 67 bits"),
        (b"[" * 100 + b"]" * 100, "nested more than 64 deep"),
        (b"[" * 10**6, "nested too deeply"),
    ],
)
def test_json_of_others_is_refused_in_one_line(tmp_path, content, said):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(HarnessError) as error:
        read_json(path)
    assert str(path) in str(error.value)
    assert said in str(error.value)
    assert str(error.value).isprintable()


def test_what_is_not_a_regular_file_is_refused_at_once(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, said in ((pipe, "not a regular file"), (tmp_path, "directory"), (tmp_path / "none", "No such file")):
        for reader in (read_bytes, read_text, read_json, read_yaml, tensors_of, lambda one: hash_files([one])):
            with pytest.raises(HarnessError, match=said if path != tmp_path else r"directory|not a regular file"):
                reader(path)


def test_a_file_is_read_up_to_its_bound(tmp_path):
    path = tmp_path / "big"
    path.write_bytes(b" " * 101)
    assert len(read_bytes(path, 101)) == 101
    with pytest.raises(HarnessError, match="101 bytes; at most 100 are read"):
        read_bytes(path, 100)


def test_yaml_makes_no_objects_and_no_bombs(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("!!python/object/apply:os.system ['touch /tmp/never']")
    with pytest.raises(HarnessError, match="not readable"):
        read_yaml(path)
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]" for k in range(1, 9)]
    path.write_text("\n".join(lines))
    with pytest.raises(HarnessError, match="more than 1000000 values"):
        read_yaml(path)


@pytest.mark.parametrize("form", ["one line", "indented", "with a mark of order", "lines"])
def test_a_long_list_is_read_value_by_value(tmp_path, form):
    rng = random.Random(0)
    rows = [{"id": k, "text": "ä€\U0001f600" * rng.randint(0, 400), "more": [1, {"y": None}]} for k in range(500)]
    rows += [12345, "]", []]
    path = tmp_path / "rows.json"
    if form == "lines":
        path.write_text("\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n")
    else:
        text = json.dumps(rows, ensure_ascii=False, indent=2 if form == "indented" else None)
        path.write_text("\ufeff " * (form == "with a mark of order") + text)
    assert [json.loads(read_part(path, *place)) for place in read_items(path)] == rows


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[", "Expecting value"),
        (b"[1,", "Expecting value"),
        (b"[1 2]", "',' is expected at byte 3"),
        (b"[1", "',' is expected at byte 2"),
        (b'["\xff"]', "not UTF-8 text"),
        (b"[" * 10**5, "recursion"),
        (b'["' + b"x" * ITEM_BYTES + b'"]', "a value of more than 16777216 bytes at byte 1"),
        (b'["' + b"x" * 3 * ITEM_BYTES, "a value of more than 16777216 bytes at byte 1"),
    ],
)
def test_a_list_that_is_none_is_one_line(tmp_path, content, said):
    path = tmp_path / "rows.json"
    path.write_bytes(content)
    with pytest.raises(HarnessError, match=said) as error:
        list(read_items(path))
    assert str(path) in str(error.value)


def test_good_content_comes_back_as_it_is(tmp_path):
    value = {"a": [1, 2.5, None, True, "\u00e4\u202e"], "b": {"c": []}}
    assert bounded(value, "here") is value
    assert parse_json('{"a": [1, 2.5, null, true]}', "here") == {"a": [1, 2.5, None, True]}
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfbom")
    assert read_text(path) == "bom"


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04", b"\xff" * 100, (2**40).to_bytes(8, "little"), (2).to_bytes(8, "little") + b"{}x"]
)
def test_what_is_not_safetensors_is_one_line(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(HarnessError, match="not readable as safetensors") as error:
        tensors_of(path)
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\n b\t\r\nc", "a b c"),
        ("red \x1b[31m", "red \\x1b[31m"),
        ("\u202eabc\u2028d", "\\u202eabc d"),
        ("\ud800", "\\ud800"),
        ("\x00\x7f\x9b", "\\x00\\x7f\\x9b"),
        ("grün – 10⁹", "grün – 10⁹"),
    ],
)
def test_a_line_is_printable_whatever_it_holds(text, line):
    assert one_line(text) == line
    assert str(HarnessError(text)) == line


def test_a_long_line_loses_its_middle():
    line = one_line("begin " + "x" * 10**7 + " end")
    assert len(line) <= LINE
    assert line.startswith("begin xxx")
    assert line.endswith("xxx end")
    assert " … " in line
    assert len(one_line("\x1b" * 10**6)) <= LINE


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_other_module_reads_what_comes_from_outside(path):
    name = str(path.relative_to(ROOT))
    assert calls(path) <= ALLOWED.get(name, {}).keys(), (
        "read it through harness.storage.intake, or say in ALLOWED why not"
    )


def test_what_is_allowed_is_still_there():
    for name, allowed in ALLOWED.items():
        assert allowed.keys() <= calls(ROOT / name), name
