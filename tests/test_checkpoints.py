"""A checkpoint folder is foreign content: it runs no code, and what does not fit is one line before it is built."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.configuration.compose import compose_all
from harness.configuration.points import make_point
from harness.models.encoders import VisionEncoder
from harness.models.vlm import check_checkpoint, load_vlm, read_spec
from harness.schema import LINE, HarnessError


@pytest.fixture
def folder(vlm_folder, tmp_path):
    return shutil.copytree(vlm_folder, tmp_path / "mine")


def change(folder, **changes):
    """Write `config.json` again with `a__b=value` in place of what is at a.b."""
    path = folder / "config.json"
    content = json.loads(path.read_text())
    for place, value in changes.items():
        *above, last = place.split("__")
        inner = content
        for key in above:
            inner = inner[key]
        inner[last] = value
    path.write_text(json.dumps(content))


def fault(folder) -> str:
    with pytest.raises(HarnessError) as error:
        check_checkpoint(folder)
    said = str(error.value)
    assert said.isprintable()
    assert len(said) <= LINE
    assert str(folder) in said
    return said


@pytest.mark.parametrize("target", ["os:system", "harness.models.encoders:VisionEncoder", "subprocess:Popen", "x y:z"])
def test_a_stored_target_is_never_imported_nor_called(folder, target, tmp_path, monkeypatch):
    monkeypatch.setattr("harness.models.encoders.importlib", None)  # any import by name would fail otherwise
    change(folder, encoder__target=target, encoder__timm="", encoder__args={"command": f"touch {tmp_path}/ran"})
    for reader in (check_checkpoint, load_vlm, read_spec):
        with pytest.raises(HarnessError, match=r"encoder.target=.* names code, which a checkpoint may not"):
            reader(folder)
    assert not (tmp_path / "ran").exists()


def test_nor_through_lm_evaluation(folder, tmp_path):
    """The way by which code ran: `python -m harness.lm_evaluation --model_args checkpoint=FOLDER`."""
    args = {"command": f"touch {tmp_path}/ran"}
    change(folder, encoder__target="os:system", encoder__timm="", encoder__args=args)
    code = (
        "import sys; from harness.schema import HarnessError\n"
        "from harness.lm_evaluation import load_model\n"
        "try: load_model(sys.argv[1], None, 'sdpa', 'cpu', 'float32')\n"
        "except HarnessError as error: sys.exit(str(error))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "names code, which a checkpoint may not" in done.stderr
    assert not (tmp_path / "ran").exists()


def test_a_target_is_that_of_the_users_own_yaml_and_a_module(tmp_path, monkeypatch, vlm_folder):
    (tmp_path / "own_parts.py").write_text(
        "import pathlib, torch\n"
        "def run(path): pathlib.Path(path).touch()\n"
        "class Mine(torch.nn.Module):\n"
        "    def __init__(self, width):\n"
        "        super().__init__()\n"
        "        self.patches = torch.nn.Conv2d(3, width, 64, 64)\n"
        "    def forward(self, pixels): return self.patches(pixels)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    spec = read_spec(vlm_folder).encoder
    own = spec.model_copy(update={"timm": "", "target": "own_parts:Mine", "args": {"width": 64}})
    assert VisionEncoder(own)(torch.zeros(1, 3, 128, 128)).shape == (1, 4, 64)
    for target, args in (("own_parts:run", {"path": str(tmp_path / "ran")}), ("os:system", {"command": "true"})):
        with pytest.raises(HarnessError, match=r"not a subclass of torch\.nn\.Module"):
            VisionEncoder(own.model_copy(update={"target": target, "args": args}))
    assert not (tmp_path / "ran").exists()
    for target in ("own_parts", "own_parts:", ":Mine", "own_parts:Mine()", "../own_parts:Mine", "own_parts:Mine.x"):
        with pytest.raises(HarnessError, match=r"package\.module:Class is expected"):
            VisionEncoder(own.model_copy(update={"target": target}))
    folder = shutil.copytree(vlm_folder, tmp_path / "mine")
    change(folder, encoder__timm="", encoder__target="own_parts:Mine", encoder__args={"width": 64})
    assert read_spec(folder, own).encoder.target == "own_parts:Mine"
    with pytest.raises(HarnessError, match="names code"):
        read_spec(folder, own.model_copy(update={"target": "own_parts:Other"}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"encoder__stride": 0}, "encoder.stride: Input should be greater than or equal to 1"),
        ({"encoder__std": [0, 1, 1]}, "encoder.std.0: Input should be greater than 0"),
        ({"encoder__mean": ["a", 0, 0]}, "encoder.mean.0"),
        ({"encoder__args": {"layers": [1, 1]}}, "has no counterpart"),
        ({"encoder__args": {"embed_dims": "wide"}}, "its parts cannot be built"),
        ({"encoder__timm": "no_such_model"}, "timm has no model"),
        ({"encoder__features": 65}, "connector"),
        ({"connector__kind": "os.system"}, "unknown connector"),
        ({"llm__architecture": "no_such"}, "no_such"),
        ({"llm__config": {}}, "config.hidden_size=None: a whole number above 0 is expected"),
        ({"llm__config__num_attention_heads": 0}, "its parts cannot be built"),
        ({"llm__config__hidden_size": 48}, "does not fit config.json"),
        ({"llm__config__num_hidden_layers": 3}, "has no counterpart"),
        ({"format": 2}, "format: Input should be less than or equal to 1"),
        ({"training_form": "perhaps"}, "training_form"),
        ({"extra": 1}, "extra: Extra inputs are not permitted"),
    ],
)
def test_a_configuration_that_does_not_fit_is_one_line(folder, changes, said):
    change(folder, **changes)
    assert said in fault(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["empty", "half", "foreign", "pipe", "folder", "bytes"])
def test_a_damaged_file_is_one_line(folder, name, damage):
    path = folder / name
    content = path.read_bytes()
    path.unlink()
    if damage == "pipe":
        os.mkfifo(path)
    elif damage == "folder":
        path.mkdir()
    else:
        foreign = (folder / "training.json").read_bytes()
        made = {"empty": b"", "half": content[: len(content) // 2], "foreign": foreign, "bytes": bytes(range(256)) * 9}
        path.write_bytes(made[damage])
    if name == "tokenizer.json" and damage in ("pipe", "folder"):
        fault(folder)  # as without a tokenizer: then the vocabulary has no size
    else:
        assert name in fault(folder)


@pytest.mark.parametrize("size", ["num_hidden_layers", "intermediate_size", "hidden_size", "vocab_size"])
def test_a_model_that_nobody_could_build_is_refused_at_once(folder, size):
    change(folder, **{f"llm__config__{size}": 10**9})
    fault(folder)


def test_weights_that_are_not_finite_are_refused_by_name(folder):
    state = load_file(folder / "model.safetensors")
    name = next(name for name in state if name.startswith("llm.") and state[name].dim() > 1)
    state[name][0, 0] = float("nan")
    save_file(state, folder / "model.safetensors")
    check_checkpoint(folder)  # names and shapes are right
    with pytest.raises(HarnessError, match=rf"the weights are not finite: {name} holds a NaN or an infinity"):
        load_vlm(folder)


def test_the_command_line_refuses_it_before_anything_is_measured(folder):
    change(folder, encoder__name="tiny_fastvithd", llm__name="tiny_qwen2_m")
    (folder / "model.safetensors").write_bytes(b"")
    _, configs = compose_all([f"checkpoint={folder}", "resolution=128"])
    with pytest.raises(HarnessError, match="not readable as safetensors"):
        make_point(configs[0])
