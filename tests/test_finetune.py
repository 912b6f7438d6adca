"""The two-stage recipe of full size on tiny parts in the hub's formats: one process and two, killed and undisturbed."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import traceback
import warnings
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.distributed.tensor import DTensor
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from conftest import ENCODER
from harness import sweep
from harness.configuration.compose import compose_all
from harness.configuration.options import Stage
from harness.configuration.points import make_point
from harness.evaluate import answers
from harness.models.answering import PLACE, Composed
from harness.models.encoders import _keep_signal
from harness.models.vlm import check_checkpoint, load_vlm, read_tokenizer
from harness.schema import LINE, HarnessError, Llm, Template
from harness.storage.intake import TOKENIZER_BYTES, read_json
from harness.train import finetune as door
from harness.train.conversations import open_conversations, read_sample, tokenise
from harness.train.dialogues import IGNORED
from harness.train.finetune import ARTICLE, extrapolate, finetune, outcome, prepare, rate_at
from harness.train.lesson import Lesson, Lessons, collate
from harness.train.parts import llm_of

ROOT = Path(__file__).parent.parent
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def save_llm(folder):
    """A tiny Qwen2 with a byte-level tokenizer, as `save_pretrained` writes them; more rows than tokens, like Qwen2."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: k for k, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>").save_pretrained(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 512}
    torch.manual_seed(0)
    config = Qwen2Config(vocab_size=272, tie_word_embeddings=True, **sizes, **heads)
    Qwen2ForCausalLM(config).save_pretrained(folder, max_shard_size="40KB")
    return folder


def save_encoder(folder, spec=ENCODER):
    """A tiny timm encoder with its head, as timm's hub folders hold it."""
    torch.manual_seed(1)
    model = timm.create_model(spec.timm, num_classes=5, **spec.args)
    _keep_signal(model)
    folder.mkdir()
    save_file(model.state_dict(), folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Encoder, LLM, images, captions and conversations."""
    folder = tmp_path_factory.mktemp("parts")
    save_llm(folder / "llm")
    save_encoder(folder / "encoder")
    rng = np.random.default_rng(0)
    (folder / "images" / "a").mkdir(parents=True)
    captions, talks = [], []
    for k in range(10):
        pixels = rng.integers(0, 256, (5, 7, 3), np.uint8)
        Image.fromarray(pixels).resize((70, 50), Image.Resampling.NEAREST).save(folder / "images" / "a" / f"{k}.png")
        asked = {"from": "human", "value": "Describe it.\n<image>"}
        caption = [asked, {"from": "gpt", "value": f"picture {k}"}]
        captions.append({"id": str(k), "image": f"a/{k}.png", "conversations": caption})
        turns = [{"from": "human", "value": "<image>\nWhich?" if k % 5 else "Which?"}, {"from": "gpt", "value": str(k)}]
        turns += [{"from": "human", "value": "Sure?"}, {"from": "gpt", "value": "yes" * (k % 3)}] * (k % 2)
        talks.append({"id": k, "conversations": turns} | ({"image": f"a/{k}.png"} if k % 5 else {}))
    (folder / "captions.json").write_text(json.dumps(captions))
    (folder / "talks.json").write_text(json.dumps(talks))
    return folder


def config_of(parts, folder, *overrides, stage="align", start=None):
    """A composed config of a short training: three steps of four samples at most, one sample in a pass."""
    arguments = [f"stage={stage}", f"data={parts / ('captions.json' if stage == 'align' else 'talks.json')}"]
    arguments += [f"images={parts / 'images'}", f"folder={folder}", "stage.batch=4", "micro_batch=1", "workers=1"]
    own = [f"encoder_weights={parts / 'encoder'}", f"llm_weights={parts / 'llm'}"]
    arguments += [f"start={start}"] if start else own
    (config,) = compose_all([*arguments, *overrides], root="finetune")[1]
    return config if start else config | {"encoder": ENCODER.model_dump(mode="json")}


def together(config, processes, log, before=None):
    """Train in forked processes, as many as a launcher would begin; returns their exit codes. `before()` runs first in
    each: it may break something."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(processes):
        if child := os.fork():
            children.append(child)
            continue
        code = 70
        try:
            for place in (1, 2):
                os.dup2(os.open(f"{log}-{rank}", os.O_CREAT | os.O_WRONLY | os.O_APPEND), place)
            sys.stdout, sys.stderr = (os.fdopen(place, "w", buffering=1) for place in (1, 2))
            warnings.simplefilter("ignore")
            torch.set_num_threads(1)
            os.environ |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
            os.environ |= {"MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
            if processes > 1:
                os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                os.environ |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
            if before:
                before()
            finetune(config)
            code = 0
        except SystemExit as ended:
            code = ended.code
        except HarnessError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            code = 2
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def trained(config, processes, log, before=None):
    """`together`, and it went well; the folder's weights and `training.json`."""
    codes = together(config, processes, log, before)
    said = "".join(Path(f"{log}-{rank}").read_text() for rank in range(processes))
    assert codes == [0] * processes, said
    folder = Path(config["folder"])
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "training.json",
    ]
    return load_file(folder / "model.safetensors"), json.loads((folder / "training.json").read_text()), said


@pytest.fixture(scope="module")
def aligned(parts, tmp_path_factory):
    """Stage 1 by two processes."""
    folder = tmp_path_factory.mktemp("aligned")
    done = trained(config_of(parts, folder / "vlm"), 2, folder / "log")
    check_checkpoint(folder / "vlm")  # once; forked processes know it
    return folder / "vlm", *done


@pytest.fixture(scope="module")
def joint(parts, aligned, tmp_path_factory):
    """Stage 2 by two processes, from the folder of stage 1."""
    folder = tmp_path_factory.mktemp("joint")
    return folder / "vlm", *trained(
        config_of(parts, folder / "vlm", stage="joint", start=aligned[0]), 2, folder / "log"
    )


def alike(one, other, tolerance=2e-6):
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-4, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


# The stages


def test_stage_1_changes_the_projector_and_nothing_else(parts, aligned):
    _, weights, training, _ = aligned
    tower = load_file(parts / "encoder" / "model.safetensors")
    llm = {}
    assert len(list((parts / "llm").glob("*.safetensors"))) > 1  # in shards, as large ones are
    for shard in (parts / "llm").glob("*.safetensors"):
        llm |= load_file(shard)
    ours = {name: value for name, value in weights.items() if not name.startswith("connector.")}
    theirs = {f"encoder.backbone.{name}": value for name, value in tower.items() if not name.startswith("head.")}
    theirs |= {f"llm.{name}": value for name, value in llm.items()}
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    torch.manual_seed(0)
    before = prepare_vlm(parts)
    assert not any(
        torch.equal(value, weights[f"connector.{name}"]) for name, value in before.connector.state_dict().items()
    )
    assert [row["step"] for row in training["log"]] == [1, 2, 3]
    assert training["runs"][0]["processes"] == 2


def prepare_vlm(parts, *overrides):
    return prepare(config_of(parts, parts / "none", *overrides))[0].vlm


def test_two_processes_learn_what_one_learns(parts, aligned, joint, tmp_path):
    alone, training, _ = trained(config_of(parts, tmp_path / "a"), 1, tmp_path / "log")
    alike(alone, aligned[1])
    assert [row["loss"] for row in training["log"]] == pytest.approx(
        [row["loss"] for row in aligned[2]["log"]], rel=1e-5
    )
    config = config_of(parts, tmp_path / "b", "micro_batch=3", "recompute=true", stage="joint", start=aligned[0])
    alone, training, _ = trained(config, 1, tmp_path / "log")  # other passes, and activations computed twice, as well
    alike(alone, joint[1])
    assert [row["loss"] for row in training["log"]] == pytest.approx([row["loss"] for row in joint[2]["log"]], rel=1e-5)


def test_stage_2_changes_everything(aligned, joint):
    before, after = aligned[1], joint[1]
    learned = {name for name in after if not re.search(r"running_|num_batches", name)}
    same = sorted(name for name in learned if torch.equal(before[name], after[name]))
    assert len(same) < 0.05 * len(learned), same  # a gradient may be too small for three steps at 2e-5
    kept = [name for name in after if "running_" in name or "num_batches" in name]
    assert kept
    assert all(torch.equal(before[name], after[name]) for name in kept)


def die_at(step, part=False):
    """Kill the process when it comes to a step; `part`: while a state is written, as far as the folder says."""
    ahead = Lessons.ahead

    def some(self, begin, *more):
        for number, examples in ahead(self, begin, *more):
            if number == step:
                if part:
                    (Path(self.options.folder) / "state" / "step-00000009.part").mkdir(exist_ok=True)
                os.kill(os.getpid(), signal.SIGKILL)
            yield number, examples

    def before():
        Lessons.ahead = some

    return before


def test_a_killed_training_goes_on_to_the_same_result(parts, aligned, joint, tmp_path):
    config = config_of(parts, tmp_path / "vlm", "save_steps=1", stage="joint", start=aligned[0])
    assert together(config, 2, tmp_path / "log", die_at(1)) == [-signal.SIGKILL] * 2
    assert [path.name for path in (tmp_path / "vlm" / "state").iterdir()] == ["step-00000001"]
    with (tmp_path / "vlm" / "log.jsonl").open("a") as log:
        log.write('{"step": 2, "loss": 9')  # torn by the kill
    assert together(config, 1, tmp_path / "log", die_at(2, part=True)) == [-signal.SIGKILL]  # one process goes on
    weights, training, said = trained(config, 2, tmp_path / "log")  # and two
    assert "going on after step 2" in said
    alike(weights, joint[1])
    assert [row["step"] for row in training["log"]] == [1, 2, 3]
    assert [run["from"] for run in training["runs"]] == [0, 1, 2]
    again = together(config, 2, tmp_path / "again")
    assert again == [0, 0]
    assert "finished before" in (tmp_path / "again-0").read_text()
    other = config_of(parts, tmp_path / "vlm", "seed=1", stage="joint", start=aligned[0])
    assert together(other, 2, tmp_path / "other") == [2, 2]
    assert "a VLM of another training; give another folder" in (tmp_path / "other-0").read_text()
    assert (tmp_path / "other-1").read_text() == ""  # said once


def test_the_same_state_is_exactly_the_same(parts, tmp_path):
    undisturbed, _, _ = trained(config_of(parts, tmp_path / "a"), 1, tmp_path / "log")
    config = config_of(parts, tmp_path / "b", "save_steps=1")
    assert together(config, 1, tmp_path / "log", die_at(2)) == [-signal.SIGKILL]
    resumed, _, _ = trained(config, 1, tmp_path / "log")
    assert all(torch.equal(value, undisturbed[name]) for name, value in resumed.items())


def test_weights_spread_over_processes_learn_the_same(parts, aligned, joint, tmp_path):
    """FSDP2 on gloo. accelerate offers it on GPUs alone, so its state is told here that these are some."""

    def pretend():
        from accelerate import state

        usual = state.AcceleratorState.__init__

        def init(self, *args, fsdp_plugin=None, **kwargs):
            usual(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
            if fsdp_plugin is not None:
                self._shared_state["distributed_type"] = state.DistributedType.FSDP
                self._shared_state["fsdp_plugin"] = fsdp_plugin

        state.AcceleratorState.__init__ = init
        train = door._train

        def looked_at(accelerator, model, *more):
            spread = [weight for weight in model.parameters() if isinstance(weight, DTensor)]
            assert len(spread) == len([*model.parameters()])
            assert sum(weight.to_local().numel() < weight.numel() for weight in spread) > 0.9 * len(spread)
            train(accelerator, model, *more)

        door._train = looked_at

    def pretend_and_die():
        pretend()
        die_at(2)()

    align = config_of(parts, tmp_path / "a", "shard=true")
    weights, _, _ = trained(align, 2, tmp_path / "log", pretend)
    alike(weights, aligned[1])
    spread = ("shard=true", "save_steps=2", "micro_batch=2")
    config = config_of(parts, tmp_path / "b", *spread, stage="joint", start=aligned[0])
    assert together(config, 2, tmp_path / "killed", pretend_and_die) == [-signal.SIGKILL] * 2
    weights, training, _ = trained(config, 2, tmp_path / "log", pretend)
    alike(weights, joint[1])
    assert [run["from"] for run in training["runs"]] == [0, 2]


# The folder is a point of a sweep


def test_the_folder_is_a_point_and_answers(joint, tmp_path, capsys):
    folder = joint[0]
    spec = check_checkpoint(folder)
    assert (spec.encoder.name, spec.llm.name) == ("micro_fastvithd", "llm")
    arguments = [f"checkpoint={folder}", "suites=[doc_read]", "limit=1", "threads=1"]
    assert sweep.main([*arguments, "dry_run=true", f"results={tmp_path}"]) == 0
    assert "micro_fastvithd 128px" in capsys.readouterr().out
    point = make_point(compose_all(arguments)[1][0])
    vlm = load_vlm(folder)
    model = Composed(vlm, point.resolution, point.weights)
    before, after = vlm.question_ids("Which?")
    assert vlm.text().decode(before).endswith("<|im_start|>user\n")
    assert vlm.text().decode(after) == "\nWhich?<|im_end|>\n<|im_start|>assistant\n"
    assert vlm.text().decode([vlm.end]) == "<|im_end|>"
    score = answers.answer_suite(model, point.suites[0])
    assert len(score.answers) >= 1
    assert all(0 <= answer.score <= 1 for answer in score.answers)


# What is learned


def sample_of(parts, *turns, image="a/1.png"):
    said = [{"from": ("human", "gpt")[k % 2], "value": text} for k, text in enumerate(turns)]
    stored = json.dumps({"id": "x", "conversations": said} | ({"image": image} if image else {})).encode()
    return read_sample(stored, Path("data.json"), 7, parts / "images")


def test_the_loss_is_on_the_answers_and_their_ends_alone(parts):
    vlm = prepare_vlm(parts)
    decode = vlm.text().decode
    sample = sample_of(parts, "What is it?\n<image>", "A dog.", "Sure?", "Yes!", "Why?", "")
    tokens = tokenise(sample, vlm, 4, plain=False, length=2048)
    opening = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    reply = "<|im_end|>\n<|im_start|>assistant\n"
    at = tokens.ids.index(PLACE)
    assert decode(tokens.ids[:at]) == opening
    assert tokens.ids[at : at + 4] == [PLACE] * 4
    following = "<|im_end|>\n<|im_start|>user\n"
    said = f"\nWhat is it?{reply}A dog.{following}Sure?{reply}Yes!{following}Why?{reply}<|im_end|>"
    assert decode(tokens.ids[at + 4 :]) == said
    learned = [k for k, token in enumerate(tokens.target) if token != IGNORED]
    assert decode([tokens.target[k] for k in learned]) == "A dog.<|im_end|>Yes!<|im_end|><|im_end|>"
    assert all(tokens.target[k] == tokens.ids[k + 1] for k in learned)
    assert tokens.target[-1] == IGNORED
    ids = [*vlm.question_ids("What is it?")[0], *[PLACE] * 4, *vlm.question_ids("What is it?")[1]]
    assert tokens.ids[: len(ids)] == ids  # as it will be asked
    cut = tokenise(sample, vlm, 4, plain=False, length=at + 30)
    assert (cut.ids, cut.target) == (tokens.ids[: at + 30], tokens.target[: at + 30])


def test_text_alone_and_captions_have_masks_of_their_own(parts):
    vlm = prepare_vlm(parts)
    decode = vlm.text().decode
    tokens = tokenise(sample_of(parts, "Hi!", "Hello.", image=None), vlm, 4, plain=False, length=2048)
    assert PLACE not in tokens.ids
    assert decode(tokens.ids).endswith("user\nHi!<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>")
    assert decode([token for token in tokens.target if token != IGNORED]) == "Hello.<|im_end|>"
    plain = tokenise(sample_of(parts, "<image>\nDescribe.", "A dog."), vlm, 4, plain=True, length=2048)
    assert decode(plain.ids[4:]) == "A dog.\n"
    assert plain.target == [IGNORED] * 3 + plain.ids[4:] + [IGNORED]


def test_an_image_reaches_the_loss_and_padding_does_not(parts):
    lessons, _ = prepare(config_of(parts, parts / "none", stage="align"))
    lesson = Lesson(lessons.vlm, lessons.stage, autocast=False)
    examples = [lessons.example(k, True) for k in range(3)]
    with torch.no_grad():
        whole = float(lesson(*collate(examples, 128)))
        parts_of = sum(float(lesson(*collate([example], 128))) for example in examples)
        pixels, ids, target = collate(examples, 128)
        other = float(lesson(pixels.flip(0), ids, target))
    assert whole == pytest.approx(parts_of, rel=1e-5)
    assert whole != pytest.approx(other, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "args", "features"),
    [
        ("vit_base_patch16_siglip_512", {"embed_dim": 32, "depth": 1, "num_heads": 2, "dynamic_img_size": True}, 32),
        ("eva02_large_patch14_clip_336", {"embed_dim": 32, "depth": 1, "num_heads": 2, "dynamic_img_size": True}, 32),
        ("convnext_large_mlp", {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]}, 16),
    ],
)
def test_every_weight_that_learns_has_a_gradient(parts, name, args, features):
    """What has none would stop processes that train together."""
    from harness.models.vlm import Vlm, VlmSpec

    stride = {"vit": 16, "eva": 14, "con": 32}[name[:3]]
    encoder = ENCODER.model_copy(
        update={"timm": name, "args": args, "features": features, "stride": stride, "native": 224}
    )
    vlm = prepare_vlm(parts)
    vlm = Vlm(VlmSpec(**vlm.spec.model_dump() | {"encoder": encoder.model_dump()}), vlm.tokenizer)
    stage = Stage(**compose_all(["stage=joint"], root="finetune")[1][0]["stage"])
    lesson = Lesson(vlm, stage, autocast=True)
    ids = torch.tensor([[PLACE] * (224 // stride) ** 2 + [5, 6]])
    lesson(torch.zeros(1, 224, 224, 3, dtype=torch.uint8), ids, ids.where(ids != PLACE, IGNORED)).backward()
    assert [n for n, p in lesson.named_parameters() if p.requires_grad and p.grad is None] == []


def test_the_rate_warms_up_and_falls():
    stage = Stage(name="x", learns=("connector",), lr=1e-3, batch=1, warmup=0.03, epochs=1, plain=True)
    rates = [rate_at(stage, step, 1000) for step in range(1000)]
    assert rates[0] == pytest.approx(1e-3 / 30)
    assert rates[29] == rates[30] == 1e-3
    assert rates[515] == pytest.approx(5e-4, rel=1e-2)
    assert sorted(rates[30:], reverse=True) == rates[30:]
    assert 0 < rates[-1] < 1e-8


# Data


TURNS = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "That."}]


@pytest.mark.parametrize(
    ("sample", "said"),
    [
        (5, "an object with conversations is expected, found 5"),
        ({"id": "k"}, "(id k): conversations: a list of turns is expected, found None"),
        ({"conversations": []}, "no answer to learn from"),
        ({"conversations": [{"from": "user", "value": "a"}]}, '"human" or "gpt"'),
        ({"conversations": [{"from": "human", "value": 5}]}, '"value": TEXT'),
        ({"conversations": [TURNS[1]]}, "no answer to learn from"),
        ({"conversations": [TURNS[0], TURNS[0], TURNS[1]], "image": "a/1.png"}, "two turns of human in a row"),
        ({"conversations": TURNS}, "<image> stands in it, but it has no image"),
        ({"conversations": [{"from": "human", "value": "a"}, TURNS[1]], "image": "a/1.png"}, "stands in it 0 times"),
        ({"conversations": TURNS * 2, "image": "a/1.png"}, "stands in it 2 times"),
        ({"conversations": TURNS, "image": "a/none.png"}, "there is no image"),
        ({"conversations": TURNS, "image": "../secret.png"}, "leaves the folder of images"),
        ({"conversations": TURNS, "image": "/etc/passwd"}, "leaves the folder of images"),
        ({"conversations": TURNS, "image": ["a/1.png", "a/2.png"]}, "the path of one image is expected"),
        ({"conversations": TURNS, "image": "a" * 5000}, "there is no image"),
        ({"conversations": [TURNS[0], {"from": "gpt", "value": "<|im_end|>"}], "image": "a/1.png"}, "holds <|im_end|>"),
        ({"conversations": [{"from": "human", "value": "a"}, TURNS[1]]}, "stage align wants one image and one answer"),
    ],
)
def test_a_bad_sample_is_one_line_that_names_it(parts, tmp_path, sample, said):
    path = tmp_path / "data.json"
    path.write_text(json.dumps([{"conversations": TURNS, "image": "a/1.png"}, sample]))
    lines = []
    forbidden = re.compile("|".join(map(re.escape, SPECIAL)))
    with pytest.raises(
        HarnessError, match=r"1 of 2 samples cannot be used; mend them, or leave them out with bad=skip"
    ):
        open_conversations(path, parts / "images", True, forbidden, lines.append, skip=False)
    (line,) = lines
    assert line.startswith(f"{path}: sample 1")
    assert said in line
    assert line.isprintable()
    assert len(line) <= LINE
    assert len(open_conversations(path, parts / "images", True, forbidden, lines.append, skip=True)) == 1


def test_many_bad_samples_are_counted(tmp_path):
    path = tmp_path / "data.json"
    path.write_text(json.dumps([1] * 30))
    lines = []
    with pytest.raises(HarnessError, match="no sample can be used"):
        open_conversations(path, None, False, re.compile(r"(?!)"), lines.append, skip=True)
    assert len(lines) == 21
    assert lines[-1].endswith("10 more samples cannot be used")


def test_lines_of_json_and_cut_begins_are_taken(parts, tmp_path):
    path = tmp_path / "data.jsonl"
    rows = [{"conversations": [TURNS[1], *TURNS], "image": "a/1.png"}, {"conversations": TURNS, "image": "a/2.png"}]
    path.write_text("\n".join(map(json.dumps, rows)))
    found = open_conversations(path, parts / "images", True, re.compile(r"(?!)"), print, skip=False)
    assert [found[k].image.name for k in range(len(found))] == ["1.png", "2.png"]
    assert found[0].turns == (("What?", "That."),)


@pytest.mark.parametrize("bad", ["refuse", "skip"])
def test_an_image_that_cannot_be_read_is_named(parts, tmp_path, bad):
    images = tmp_path / "images" / "a"
    images.mkdir(parents=True)
    for k in range(10):
        (images / f"{k}.png").write_bytes((parts / "images" / "a" / f"{k}.png").read_bytes())
    (images / "3.png").write_bytes(b"no picture")
    config = config_of(parts, tmp_path / "vlm", f"images={tmp_path / 'images'}", f"bad={bad}")
    codes = together(config, 1, tmp_path / "log")
    said = (tmp_path / "log-0").read_text()
    assert "sample 3 (id 3): unreadable image of 10 bytes" in said
    assert codes == [{"refuse": 2, "skip": 0}[bad]]


# The door


def test_pace_is_measured_and_the_articles_is_extrapolated(aligned, joint):
    _, _, training, said = aligned
    run = training["runs"][-1]
    assert (run["samples"], run["steps"]) == (6, 2)  # without the first step
    found = training["extrapolated"]
    assert found["hours"] == pytest.approx(ARTICLE / (6 / run["seconds"]) / 3600)
    assert re.search(r"measured: \S+ samples/s in stage align \(6 samples in \S+ s, 2 processes on ", said)
    assert re.search(
        r"extrapolated: 558,000 samples at \S+ samples/s would take \S+ h .* the article says about 30", said
    )
    assert joint[2]["extrapolated"] is None
    stage = Stage(name="x", learns=("connector",), lr=1e-3, batch=1, warmup=0.03, epochs=1, plain=True)
    runs = [{"processes": 8, "samples": 1000, "seconds": 25.0}]
    assert extrapolate(runs, stage)["hours"] == pytest.approx(3.875)
    lines = outcome({"runs": runs, "stage": {"name": "align"}, "extrapolated": extrapolate(runs, stage)}, "H")
    assert "558,000 samples at 40 samples/s would take 3.88 h on this machine" in lines[1]


def test_an_llm_of_the_catalogue_keeps_its_name(tmp_path):
    import yaml

    listed = yaml.safe_load((ROOT / "sweeps" / "llm" / "qwen2_0_5b.yaml").read_text())
    config = {**listed["config"], "model_type": "qwen2", "max_position_embeddings": 131072, "rope_theta": 1e6}
    config |= {"hidden_act": "silu", "use_sliding_window": False, "sliding_window": 131072, "max_window_layers": 24}
    config |= {"bos_token_id": 151643, "torch_dtype": "bfloat16", "architectures": ["Qwen2ForCausalLM"]}
    config.pop("rope_parameters")
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert llm_of(tmp_path, "Qwen2-0.5B") == Llm(**listed)
    (tmp_path / "config.json").write_text(json.dumps(config | {"intermediate_size": 4096}))
    assert llm_of(tmp_path, "My LLM").name == "My_LLM"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["data=null"], "data=null: a JSON file of conversations is expected"),
        (["data=none.json"], "none.json: not readable"),
        (["stage=joint"], "start=null: stage=joint goes on from the folder"),
        (["start=checkpoints"], "encoder=...: start=checkpoints already has its parts"),
        (["llm_weights={parts}/encoder"], "config.json: not readable"),
        (["encoder_weights={parts}/llm"], "there is no model.safetensors"),
        (["encoder=tiny_vit"], "these are not the weights of encoder tiny_vit"),
        (["template=vicuna"], "it has no token </s> of template vicuna"),
        (["resolution=100"], "stride 64, which does not divide it"),
        (["length=20"], "an image and its prompt alone have"),
        (["shard=true"], "shard=true: accelerate spreads weights over several GPUs"),
        (["stage.lr=0"], "stage.lr=0: a number above 0"),
        (["micro_batch=0"], "micro_batch=0: a whole number above 0"),
        (["length=64,128"], "2 trainings: one at a time"),
        (["images=null"], "no sample can be used"),
    ],
)
def test_what_cannot_be_trained_is_one_line(parts, tmp_path, change, said, capsys):
    sizes = [f"+encoder.args.{key}={str(value).replace(' ', '')}" for key, value in ENCODER.args.items()]
    sizes = ["encoder=tiny_fastvithd", *(one.replace("+", "") for one in sizes), "encoder.features=64"]
    own = [
        f"data={parts / 'captions.json'}",
        f"images={parts / 'images'}",
        f"folder={tmp_path / 'vlm'}",
        "resolution=128",
    ]
    own += [f"encoder_weights={parts / 'encoder'}", f"llm_weights={parts / 'llm'}"]
    change = [one.format(parts=parts) for one in change]
    own += [] if any(one.startswith("encoder=") for one in change) else sizes
    os.environ["ACCELERATE_USE_CPU"] = "true"
    try:
        assert door.main([*own, *change]) == 2
    finally:
        del os.environ["ACCELERATE_USE_CPU"]
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    assert said in line
    assert len(line) <= LINE + 7
    assert not (tmp_path / "vlm" / "model.safetensors").exists()


def test_without_accelerate_it_says_how_to_get_it(parts, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(HarnessError, match=r"accelerate is missing: pip install 'vlm-harness\[train\]'"):
        finetune(config_of(parts, tmp_path))


def test_a_launcher_begins_two_processes_that_train_by_the_command_line(parts, tmp_path):
    """The one launch that is not forked: torch's launcher, which `accelerate launch` is on GPUs. (On CPUs accelerate
    1.15 begins several processes through MPI alone.)"""
    sizes = [f"encoder.args.{key}={str(value).replace(' ', '')}" for key, value in ENCODER.args.items()]
    arguments = ["encoder=tiny_fastvithd", *sizes, "encoder.features=64", "encoder.name=micro", "resolution=128"]
    arguments += [f"data={parts / 'captions.json'}", f"images={parts / 'images'}", f"folder={tmp_path / 'vlm'}"]
    arguments += [f"encoder_weights={parts / 'encoder'}", f"llm_weights={parts / 'llm'}", "stage.batch=4"]
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node=2",
        f"--master_port={29000 + os.getpid() % 999}",
    ]
    done = subprocess.run(
        [*launch, "-m", "harness.train.finetune", *arguments],
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("written to") == 1
    assert check_checkpoint(tmp_path / "vlm").encoder.name == "micro"


def test_a_tokenizer_of_a_million_values_is_read(tmp_path):
    template = compose_all(["template=chatml"], root="finetune")[1][0]["template"]
    tokens = {f"t{number}": number for number in range(520_000)} | {"<unk>": 520_000}
    tokenizer = Tokenizer(models.WordLevel(tokens, "<unk>"))
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(HarnessError, match="more than 1000000 values"):
        read_json(tmp_path / "tokenizer.json", TOKENIZER_BYTES)
    read = read_tokenizer(tmp_path / "tokenizer.json", Template(**template))
    assert len(read) == 520_001 + len(SPECIAL)
    (tmp_path / "tokenizer.json").write_text('{"model": ' + "[" * 100_000)
    with pytest.raises(HarnessError, match="not a tokenizer"):
        read_tokenizer(tmp_path / "tokenizer.json", Template(**template))
