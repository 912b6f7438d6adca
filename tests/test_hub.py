"""Published VLMs, as tiny random checkpoints in the hub's own format: our answers are those of their own `generate`."""

import io
import json
import os
import re
import shutil
import time
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from packaging.version import Version
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from benchmarks.checkpoints import KINDS, LLAVA, REFUSED
from conftest import CONNECTOR, ENCODER, LLM
from harness import runtimes, sweep
from harness.configuration.compose import compose_all
from harness.configuration.points import make_point
from harness.evaluate.answers import Engine
from harness.models.hub import folder_of_hub, hash_hub, learn, load_hub, parameters_of_hub, weights_of_hub
from harness.models.vlm import Vlm, VlmSpec
from harness.schema import HarnessError, HubComponent, HubModel
from harness.suites.questions import examples
from harness.timing.plan import components_of
from harness.timing.workloads import build

TOKENS = 6
TEXTS = ["What is it?", "What colour is it?", "Read it!", "Is it a dog?"]
SIZES = [(128, 128), (128, 128), (150, 90), (90, 150)]


CORE = ("fast_vlm", "llava", "llava_question_first", "qwen2_vl", "smolvlm", "paligemma", "llava_onevision", "internvl")
"""Between them they do everything that the engine can be asked for."""
EAGER = {"got_ocr2"}
"""Whose tower knows no other attention."""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Two threads of a model of a few thousand weights only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=KINDS)
def folder(request, tmp_path_factory):
    torch.manual_seed(0)
    return KINDS[request.param](tmp_path_factory.mktemp("hub") / request.param)


@pytest.fixture(scope="module")
def model(folder):
    return load_hub(folder, attention="eager" if folder.name in EAGER else "sdpa")


@pytest.fixture
def core(folder):
    if folder.name not in CORE:
        pytest.skip("shown with others")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A checkpoint by its kind, made once."""
    made = {}

    def make(kind):
        if kind not in made:
            torch.manual_seed(0)
            made[kind] = (KINDS | REFUSED)[kind](tmp_path_factory.mktemp("hub") / kind)
        return made[kind]

    return make


@pytest.fixture(scope="module")
def images(folder):
    generator = torch.Generator().manual_seed(1)
    found = {}
    for number, size in enumerate(SIZES if folder.name in CORE else SIZES[:3]):
        pixels = torch.randint(0, 256, (6, 6, 3), generator=generator, dtype=torch.uint8).numpy()
        file = io.BytesIO()
        Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST).save(file, "PNG")
        found[f"image{number}"] = [file.getvalue()]
    return found


def theirs(folder):
    """Model and processor by transformers alone."""
    attention = "eager" if folder.name in EAGER else "sdpa"
    how = {"dtype": torch.float32, "attn_implementation": attention}
    return AutoModelForImageTextToText.from_pretrained(folder, **how).eval(), AutoProcessor.from_pretrained(folder)


@pytest.fixture(scope="module")
def generated(folder, images):
    """Answers by transformers alone: its processor, its `generate`, one question at a time."""
    model, processor = theirs(folder)
    answers = {}
    for name, (stored,) in images.items():
        for text in TEXTS:
            picture = Image.open(io.BytesIO(stored)).convert("RGB")
            content = [{"type": "image"}, {"type": "text", "text": text}]
            prompt = f"{processor.image_token}{text}"
            if processor.chat_template:
                prompt = processor.apply_chat_template(
                    [{"role": "user", "content": content}], add_generation_prompt=True
                )
            given = processor(images=[picture], text=[prompt], return_tensors="pt")
            given.pop("labels", None)
            given["pixel_values"] = given["pixel_values"].float()  # Llama 4's come in half precision
            with torch.inference_mode():
                ids = model.generate(**given, max_new_tokens=TOKENS, do_sample=False)
            said = ids[0, given["input_ids"].shape[1] :]
            answers[name, text] = processor.tokenizer.decode(said, skip_special_tokens=True)
    return answers


@torch.inference_mode()
def answered(model, images, journal=None, texts=TEXTS, **how):
    engine = Engine(model, images, **how)
    asks = [engine.ask(image, text, TOKENS) for image in images for text in texts]
    found = engine.answer(asks, journal)
    assert not any(found.faults), found.faults
    pairs = [(image, text) for image in images for text in texts]
    return dict(zip(pairs, found.texts, strict=True)), found.resumed


def test_answers_are_those_of_generate_however_they_are_grouped(model, images, generated):
    assert len(set(generated.values())) > len(generated) // 3  # a model that always says the same would prove nothing
    assert answered(model, images)[0] == generated
    assert answered(model, images, reuse=False)[0] == generated


@pytest.mark.usefixtures("core")
def test_the_size_of_a_batch_changes_no_answer(model, images, generated):
    assert answered(model, images, encode_batch=1, decode_batch=1)[0] == generated
    assert answered(model, images, encode_batch=4, decode_batch=3)[0] == generated


@pytest.mark.usefixtures("core")
def test_a_resumed_run_gives_the_same_answers_and_repeats_none(model, images, generated, tmp_path):
    journal = tmp_path / "journal.jsonl"
    answered(model, images, journal, texts=TEXTS[:2])
    found, resumed = answered(model, images, journal)
    assert (found, resumed) == (generated, 2 * len(images))


@pytest.mark.usefixtures("core")
def test_an_image_is_encoded_once_and_its_pixels_are_made_once(model, images, monkeypatch):
    encoded, made = [], []
    own, kind = model.model.get_image_features, type(model.processor.image_processor)
    monkeypatch.setattr(model.model, "get_image_features", lambda **given: encoded.append(1) or own(**given))
    call = kind.__call__
    monkeypatch.setattr(kind, "__call__", lambda self, *a, **k: made.append(1) or call(self, *a, **k))
    answered(model, images, encode_batch=1)
    assert (len(encoded), len(made)) == (len(images), len(images))


def test_what_is_shared_is_prefilled_once(model, images, monkeypatch):
    prefilled = []
    own = model.begin
    monkeypatch.setattr(model, "begin", lambda *given: prefilled.append(1) or own(*given))
    answered(model, images, encode_batch=1)
    shares = model.model.config.model_type != "paligemma" and "<image>{% endif %}{% endfor %}{% endfor %}" not in (
        model.processor.chat_template or ""
    )
    assert len(prefilled) == (1 if shares else len(TEXTS)) * len(images)


def test_questions_about_several_images_are_those_of_generate(folder, model, images):
    """As in MMMU: all images first, then the question; questions about the same ones share their prefill."""
    shown = {"image0+image2": [images["image0"][0], images["image2"][0]], "image1": images["image1"]}
    found, _ = answered(model, shown)
    own, processor = theirs(folder)
    pictures = [Image.open(io.BytesIO(stored)).convert("RGB") for stored in shown["image0+image2"]]
    for text in TEXTS:
        content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": text}]
        prompt = f"{processor.image_token * 2}{text}"
        if processor.chat_template:
            prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        given = processor(images=pictures, text=[prompt], return_tensors="pt")
        given.pop("labels", None)
        given["pixel_values"] = given["pixel_values"].float()
        with torch.inference_mode():
            ids = own.generate(**given, max_new_tokens=TOKENS, do_sample=False)
        said = processor.tokenizer.decode(ids[0, given["input_ids"].shape[1] :], skip_special_tokens=True)
        assert found["image0+image2", text] == said


@pytest.mark.usefixtures("core")
def test_alike_images_are_one_batch(folder, model, images):
    """Two of four images have one size; models that make squares of all of them take them together."""
    prepared = [model.prepare(stored, TEXTS[:1]) for stored in images.values()]
    groups = len({model.batch_key(one) for one in prepared})
    assert groups == {"qwen2_vl": 3, "llava_onevision": 3, "internvl": 2}.get(model.model.config.model_type, 1)


@pytest.mark.usefixtures("core")
def test_batches_are_as_large_as_their_caches_may_be(model, images, generated, monkeypatch):
    prefilled, rows = [], []
    begin, generate = model.begin, Engine._generate
    monkeypatch.setattr(model, "begin", lambda images, *given: prefilled.append(len(images)) or begin(images, *given))
    monkeypatch.setattr(Engine, "_generate", lambda self, *given: rows.append(len(given[1])) or generate(self, *given))
    monkeypatch.setattr("harness.evaluate.answers.KV_CACHE_BYTES", 1)
    many = images | {f"again {name}": stored for name, stored in images.items()}
    found = answered(model, many)[0]
    assert {pair: found[pair] for pair in generated} == generated
    assert max(prefilled[4:]) == 1  # the first ones were taken before anything was known
    assert max(rows) == 1


FREE = {
    "fast_vlm": (128, 256, 4, 16),
    "qwen2_vl": (112, 224, 12, 54),
    "qwen2_5_vl": (112, 224, 12, 54),
    "qwen3_vl": (128, 256, 12, 70),
    "smolvlm": (64, 128, 4, 20),
    "idefics3": (64, 128, 4, 20),
    "idefics2": (64, 112, 4, 4),
    "mistral3": (56, 224, 4, 48),
}
"""Two sides that a tower of no fixed size takes, and the visual tokens of an image of 300 x 200."""


@pytest.mark.parametrize("kind", FREE)
def test_a_size_that_is_free_can_be_overridden(kind, folders):
    picture = Image.new("RGB", (300, 200), "red")
    low, high, few, many = FREE[kind]
    for side, tokens in ((low, few), (high, many)):
        model = load_hub(folders(kind), side)
        ids = model.prepare([picture], ["What?"]).prompts[0]["input_ids"]
        assert int((ids == model.image_token).sum()) == tokens
        with torch.inference_mode():
            found = Engine(model, {"a": [picture]})
            assert found.answer([found.ask("a", "What?", 2)]).faults == ("",)


@cache
def base():
    return compose_all(["vlm=hub", "vlm.path=x", "suites=[]", "threads=1"])[1][0]


def point_of(folder, **changes):
    """The point of a folder, without the command line around it."""
    return make_point(base() | {"vlm": base()["vlm"] | {"path": str(folder)}} | changes)


OWN = {
    "fast_vlm": (128, 4),
    "llava": (56, 16),
    "llava_question_first": (56, 16),
    "qwen2_vl": (140, 25),
    "smolvlm": (128, 20),
    "paligemma": (56, 16),
    "llava_onevision": (56, 88),
    "internvl": (56, 20),
    "llava_next": (56, 88),
    "vipllava": (56, 16),
    "aya_vision": (56, 20),
    "cohere2_vision": (56, 20),
    "gemma3": (56, 4),
    "idefics2": (112, 4),
    "idefics3": (128, 20),
    "mistral3": (112, 16),
    "qwen2_5_vl": (140, 25),
    "qwen3_vl": (160, 25),
    "got_ocr2": (256, 256),
}
"""Resolution and visual tokens of the bench's images where no resolution is asked for."""


def test_at_its_own_size_a_point_is_what_a_pass_finds(folder, model):
    attention = model.model.config._attn_implementation
    point = point_of(folder, attention=attention)
    assert (point.resolution, point.visual_tokens) == OWN[folder.name]
    assert point.model.override is None
    assert weights_of_hub(folder) == parameters_of_hub(folder)
    (component,) = components_of(point).values()
    workload = build(lambda where: runtimes.find(where.runtime)(where), component, examples())
    with torch.inference_mode():
        stages = [*workload.run(0)]
        left = workload.outputs()
        stages += [*workload.extra_stages(), "ttft_fused"]
    assert stages == [*HubComponent.STAGES]
    assert (left.calls, left.visual_tokens, left.text_tokens) == (1, *point.model.tokens)


@pytest.mark.parametrize("kind", [kind for kind in OWN if kind not in FREE and kind != "llava_question_first"])
def test_a_fixed_size_says_what_it_takes_before_anything_is_measured(kind, folders):
    attention = "eager" if kind in EAGER else "sdpa"
    with pytest.raises(HarnessError) as error:
        point_of(folders(kind), resolution=224, attention=attention)
    assert f"resolution=224: {json.loads((folders(kind) / 'config.json').read_text())['model_type']} cannot" in str(
        error.value
    )
    assert f"its own size is {OWN[kind][0]} px" in str(error.value)


def test_a_size_that_was_asked_for_is_another_point(folders):
    free = folders("qwen2_vl")
    own, asked = point_of(free), point_of(free, resolution=140)
    assert own.resolution == asked.resolution == 140
    assert own != asked  # a small image keeps its size in one, not in the other
    assert (own.model.override, asked.model.override) == (None, 140)
    assert own.model.native is None


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_cut_into_stages_says_why(kind, folders):
    why = {
        "llama4": "cannot go on from an image that is encoded",
        "mllama": "no visual tokens are in the sequence",
        "blip2": "needs the image again for every token",
        "instructblip": "features of an image belong to one question",
        "florence2": "image and question go through an encoder together",
    }
    if kind == "llama4" and Version(transformers.__version__) < Version("5.24"):
        assert point_of(folders(kind)).model.tokens  # it is 5.24 in which each of its passes fails
        return
    with pytest.raises(HarnessError, match=why[kind]):
        point_of(folders(kind))


def test_an_attention_that_its_tower_does_not_know_is_refused(folders):
    with pytest.raises(HarnessError, match="attention=sdpa: got_ocr2 does not take it here; give attention=eager"):
        point_of(folders("got_ocr2"))


def test_a_resolution_that_its_tower_cannot_take_is_a_fault_of_the_question(folders):
    model = load_hub(folders("llava"), 84)
    engine = Engine(model, {"a": [Image.new("RGB", (50, 50))]})
    with torch.inference_mode():
        (fault,) = engine.answer([engine.ask("a", "What?", 2)]).faults
    assert "84" in fault
    assert "56" in fault


def test_whatever_a_processor_raises_about_an_image_is_a_fault_of_the_question(folders, monkeypatch):
    model = load_hub(folders("llava"))

    def fail(*_, **__):
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr(type(model.processor.image_processor), "__call__", fail)
    engine = Engine(model, {"a": [Image.new("RGB", (50, 50))]})
    with torch.inference_mode():
        (fault,) = engine.answer([engine.ask("a", "What?", 2)]).faults
    assert fault == "its processor cannot take it: ZeroDivisionError: division by zero"


def test_what_is_no_checkpoint_is_named_in_one_line(tmp_path):
    with pytest.raises(HarnessError, match="neither a folder nor to be had"):
        folder_of_hub("no/such-model")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(HarnessError, match=r"^vlm .*: [^\n]*$"):
        load_hub(tmp_path)


@pytest.fixture
def llava(folders, tmp_path):
    """A copy that may be spoilt."""
    return Path(shutil.copytree(folders("llava"), tmp_path / "llava"))


def rewrite(file, **changes):
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | changes))


def refusal(folder, **changes):
    """The one line that a folder is refused with."""
    with pytest.raises(HarnessError) as error:
        point_of(folder, **changes)
    said = str(error.value)
    assert said.isprintable()
    assert len(said) <= 300
    return said


TEMPLATES = {
    "{% for": "cannot take it",
    "{{ messages[9].content }}": "cannot take it",
    "{{ 1 / 0 }}": "ZeroDivisionError",
    "{{ messages.__class__.__mro__ }}": "put no image|SecurityError",
    "words alone": "put no image|number of|match",
    LLAVA.replace("<image>", "<image><image>"): "IndexError|number|match|index",
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_that_fails_is_one_line(template, llava):
    (llava / "chat_template.jinja").write_text(template)
    rewrite(llava / "tokenizer_config.json", chat_template=template)
    assert re.search(TEMPLATES[template], refusal(llava))


SPOILT = {
    ("config.json", "vision_config"): [([], "an object is expected"), ("clip", "an object is expected")],
    ("config.json", "text_config"): [([1], "an object is expected"), ({"model_type": "no"}, "configuration")],
    ("config.json", "model_type"): [
        ("llama", "not one of transformers' image-text-to-text models"),
        (["llava"], "not one of"),
        ("\x1b[31m\n", "not one of"),
    ],
    ("config.json", "image_token_index"): [(10**9, "put no image"), (-1, "put no image")],
    ("preprocessor_config.json", "size"): [
        ({"shortest_edge": 0}, "whole number from 1"),
        ({"height": 10**9, "width": 10**9}, "whole number from 1"),
        ({"shortest_edge": "56"}, "whole number"),
    ],
    ("preprocessor_config.json", "image_mean"): [("a", ""), ([0.5, 0.5], "")],
    ("processor_config.json", "patch_size"): [(0, "whole number from 1"), ("x", "whole number from 1")],
}


@pytest.mark.parametrize(
    ("place", "value", "said"), [(place, *each) for place, cases in SPOILT.items() for each in cases]
)
def test_settings_that_cannot_be_are_one_line(place, value, said, llava):
    file, key = place
    if not (llava / file).exists():  # transformers keeps the image processor's within the processor's
        outer = json.loads((llava / "processor_config.json").read_text())
        rewrite(llava / "processor_config.json", image_processor=outer["image_processor"] | {key: value})
    else:
        rewrite(llava / file, **{key: value})
    assert said in refusal(llava)


@pytest.mark.parametrize("key", ["patch_size", "image_size", "num_hidden_layers", "hidden_size"])
@pytest.mark.parametrize("value", [0, -14, 10**8, 10**30, 14.5, True, "14"])
def test_sizes_that_cannot_be_are_refused_before_anything_is_built(key, value, llava):
    config = json.loads((llava / "config.json").read_text())
    rewrite(llava / "config.json", vision_config=config["vision_config"] | {key: value})
    assert f"vision_config: {key}={value!r}: a whole number from 1" in refusal(
        llava
    ) or "bits is no setting" in refusal(llava)


def test_a_file_that_is_no_json_is_named(llava):
    for content in (b"", b"{", b"\xff\xfe", b"[" * 10**5, b'{"a": NaN}', b"[]", b'{"a": ' + b"9" * 5000 + b"}"):
        (llava / "config.json").write_bytes(content)
        assert "config.json" in refusal(llava)
    (llava / "config.json").unlink()
    assert "config.json" in refusal(llava)
    os.mkfifo(llava / "config.json")
    assert "not a regular file" in refusal(llava)


def test_weights_that_are_not_whole_safetensors_are_named(llava):
    file = llava / "model.safetensors"
    whole = file.read_bytes()
    size = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + size])
    overlap = json.dumps(
        {name: value | {"data_offsets": [0, 4]} if "dtype" in value else value for name, value in header.items()}
    ).encode()
    spoilt = {
        "truncated": whole[: len(whole) // 2],
        "empty": b"",
        "a pickle": b"\x80\x04cos\nsystem\n(S'touch /tmp/no'\ntR.",
        "a header without end": (2**62).to_bytes(8, "little") + whole[8:],
        "tensors that overlap": len(overlap).to_bytes(8, "little") + overlap + whole[8 + size :],
    }
    for what, content in spoilt.items():
        file.write_bytes(content)
        assert "model.safetensors: not a whole safetensors file" in refusal(llava), what
    file.unlink()
    (llava / "pytorch_model.bin").write_bytes(spoilt["a pickle"])
    assert "there are no safetensors, which the weights have to be; pytorch_model.bin is a pickle" in refusal(llava)
    os.mkfifo(file)
    assert "not a regular file" in refusal(llava)


def test_an_index_that_leads_out_of_the_folder_is_refused(llava):
    (llava / "model.safetensors").rename(llava / "model-1-of-1.safetensors")
    for shard in ("../llava/model-1-of-1.safetensors", "model-2-of-2.safetensors", ["x"], None):
        index = {"metadata": {}, "weight_map": {"lm_head.weight": shard}}
        (llava / "model.safetensors.index.json").write_text(json.dumps(index))
        assert "which is not in the folder" in refusal(llava)
    (llava / "model.safetensors.index.json").write_text("{}")
    assert "weight_map is missing" in refusal(llava)


def test_weights_of_another_model_are_not_filled_up_with_random_ones(llava):
    weights = load_file(llava / "model.safetensors")
    left = {name: value for name, value in weights.items() if "lm_head" not in name}
    save_file(left, llava / "model.safetensors", {"format": "pt"})
    with pytest.raises(HarnessError, match=r"its safetensors lack 1 of its weights, e.g. lm_head.weight"):
        load_hub(llava)


def test_no_code_of_a_folder_is_run(llava, tmp_path):
    ran = tmp_path / "ran"
    (llava / "evil.py").write_text(f"open({str(ran)!r}, 'w')\nclass Evil: pass\n")
    names = ("AutoConfig", "AutoModelForImageTextToText", "AutoProcessor", "AutoTokenizer", "AutoImageProcessor")
    for file in ("config.json", "processor_config.json", "tokenizer_config.json"):
        rewrite(llava / file, auto_map=dict.fromkeys(names, "evil.Evil"))
    assert point_of(llava).visual_tokens == 16  # its own classes are known: what it offers does not matter
    assert load_hub(llava).model.config.model_type == "llava"
    rewrite(llava / "config.json", model_type="evil")
    assert "not one of transformers' image-text-to-text models" in refusal(llava)
    for key, value in (("attn_implementation", "some/kernel"), ("architecture", "hf-hub:a/b")):
        config = json.loads((llava / "config.json").read_text())
        rewrite(llava / "config.json", model_type="llava", vision_config=config["vision_config"] | {key: value})
        assert "code of the hub is not run" in refusal(llava)
        rewrite(llava / "config.json", vision_config=config["vision_config"])
    assert not ran.exists()


def test_a_path_that_cannot_be_is_one_line(tmp_path):
    for path in ("x" * 5000, "~nobody-has-this-home/x", "a\0b", ""):
        with pytest.raises(HarnessError):
            folder_of_hub(path)


def test_the_hash_of_a_folder_tells_its_files_apart(tmp_path):
    folder = KINDS["llava"](tmp_path / "llava")
    before = hash_hub(folder)
    assert before == hash_hub(folder)
    (folder / "generation_config.json").write_text("{}")
    assert hash_hub(folder) != before
    snapshot = tmp_path / "snapshots" / ("c" * 40)
    assert hash_hub(snapshot) == "c" * 16


def test_our_parts_with_the_weights_of_fastvlm_are_fastvlm(tmp_path, images):
    """The composed VLM and transformers' FastVlmForConditionalGeneration give the same logits."""
    theirs = load_hub(KINDS["fast_vlm"](tmp_path / "fast_vlm"))
    own = theirs.model.config
    encoder = ENCODER.model_copy(update={"args": own.vision_config.model_args, "mean": (0, 0, 0), "std": (1, 1, 1)})
    text = own.text_config.to_dict()
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    config = {name: text[name] for name in (*names, "num_key_value_heads", "rope_parameters")}
    llm = LLM.model_copy(update={"config": {**config, "tie_word_embeddings": False}})
    ours = Vlm(VlmSpec(encoder=encoder, connector=CONNECTOR, llm=llm, training_form=False)).eval()
    to_ours = (
        ("model.vision_tower.timm_model.", "encoder.backbone."),
        ("model.multi_modal_projector.", "connector."),
        ("model.language_model.", "llm.model."),
        ("lm_head.", "llm.lm_head."),
    )
    state = {}
    for name, value in theirs.model.state_dict().items():
        there, here = next(pair for pair in to_ours if name.startswith(pair[0]))
        state[here + name.removeprefix(there)] = value
    missing, unexpected = ours.load_state_dict(state, strict=False)
    assert not missing
    assert all("head" in name for name in unexpected)  # FastViT's classifier, which no VLM runs
    for shown in list(images.values())[:2]:
        prepared = theirs.prepare(shown, ["What is it?"])
        ids = prepared.prompts[0]["input_ids"]
        place = (ids[0] == theirs.image_token).nonzero()[:, 0]
        with torch.inference_mode():
            expected = theirs.begin([prepared], prepared.prompts, theirs.encode([prepared]), whole=True).logits
            visual = ours.project(ours.encode(prepared.image["pixel_values"]))
            found, _ = ours.prefill(ours.prompt(visual, ids[:, : place[0]], ids[:, place[-1] + 1 :]))
        assert visual.shape[1] == len(place) == encoder.visual_tokens(128)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


LOOP = "{% for i in range(9999) %}" * 4 + "{% endfor %}" * 4


def test_a_template_without_end_is_stopped(llava):
    shown = examples()[0]
    learn(llava, None, "sdpa", shown)  # the child is there: what is waited for below is the template
    (llava / "chat_template.jinja").write_text(LOOP)
    begin = time.monotonic()
    with pytest.raises(HarnessError, match="took longer than 3 s and was stopped"):
        learn(llava, None, "sdpa", shown, seconds=3)
    assert time.monotonic() - begin < 60  # and not START_SECONDS more


@pytest.fixture
def remote(folders, tmp_path, monkeypatch):
    """A hub of one repository; says which files were fetched."""
    import huggingface_hub

    source, fetched = folders("llava"), []
    snapshot = tmp_path / "models--org--llava" / "snapshots" / ("c" * 40)

    def download(path, revision=None, allow_patterns=()):
        assert path == "org/llava"
        snapshot.mkdir(parents=True, exist_ok=True)
        for file in source.iterdir():
            there = (snapshot / file.name).exists()
            if not there and any(file.match(pattern) for pattern in allow_patterns):
                shutil.copy(file, snapshot / file.name)
                fetched.append(file.name)
        return str(snapshot)

    def headers(_, path, revision=None):
        assert path == "org/llava"
        return SimpleNamespace(parameter_count={"F32": parameters_of_hub(source)})

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(huggingface_hub.HfApi, "get_safetensors_metadata", headers)
    return source, fetched


def test_a_dry_run_of_a_hub_model_fetches_everything_but_weights(remote, tmp_path, capsys):
    source, fetched = remote
    words = ["vlm=hub", "vlm.path=org/llava", "suites=[]", "protocol=quick"]
    words += [f"results={tmp_path / 'results'}", f"reports={tmp_path / 'reports'}"]
    assert sweep.main([*words, "dry_run=true"]) == 0
    assert "1 points" in capsys.readouterr().out
    assert {"config.json", "processor_config.json", "tokenizer.json"} <= set(fetched)
    assert not [name for name in fetched if name.endswith(".safetensors")]
    (config,) = compose_all(words)[1]
    planned = make_point(config, weights=False)
    assert weights_of_hub(folder_of_hub("org/llava", weights=False)) == parameters_of_hub(source)

    measured = make_point(config)  # what measures has all of it, and is the same point
    assert [name for name in fetched if name.endswith(".safetensors")]
    assert measured == planned
    assert weights_of_hub(folder_of_hub("org/llava", weights=False)) == parameters_of_hub(source)


def test_a_repository_without_safetensors_is_refused_before_anything_large_is_fetched(remote, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import NotASafetensorsRepoError

    def none(_, path, revision=None):
        raise NotASafetensorsRepoError("'org/llava' is not a safetensors repo")

    monkeypatch.setattr(huggingface_hub.HfApi, "get_safetensors_metadata", none)
    (config,) = compose_all(["vlm=hub", "vlm.path=org/llava", "suites=[]"])[1]
    with pytest.raises(HarnessError, match="vlm org/llava: there are no safetensors, which the weights have to be"):
        make_point(config, weights=False)


def test_a_download_that_was_broken_off_is_not_all_of_the_weights(remote, tmp_path):
    source, _ = remote
    snapshot = tmp_path / "models--org--llava" / "snapshots" / ("c" * 40)
    snapshot.mkdir(parents=True)
    save_file({"x": torch.zeros(3)}, snapshot / "a.safetensors")
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    (config,) = compose_all(["vlm=hub", "vlm.path=org/llava", "suites=[]"])[1]
    assert isinstance(make_point(config, weights=False).model, HubModel)
    assert weights_of_hub(folder_of_hub("org/llava", weights=False)) == parameters_of_hub(source)
