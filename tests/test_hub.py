"""Published VLMs, as tiny random checkpoints in the hub's own format: our answers are those of their own `generate`."""

import io

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from benchmarks.checkpoints import KINDS
from conftest import CONNECTOR, ENCODER, LLM
from harness.answers import Engine
from harness.models.hub import folder_of_hub, hash_hub, load_hub
from harness.models.vlm import Vlm, VlmSpec
from harness.schema import HarnessError

TOKENS = 6
TEXTS = ["What is it?", "What colour is it?", "Read it!", "Is it a dog?"]
SIZES = [(128, 128), (128, 128), (150, 90), (90, 150)]


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


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(1)
    found = {}
    for number, size in enumerate(SIZES):
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
    assert len(set(generated.values())) > 6  # a model that always says the same would prove nothing
    assert answered(model, images)[0] == generated
    assert answered(model, images, encode_batch=1, decode_batch=1)[0] == generated
    assert answered(model, images, encode_batch=4, decode_batch=3)[0] == generated
    assert answered(model, images, reuse=False)[0] == generated


def test_a_resumed_run_gives_the_same_answers_and_repeats_none(model, images, generated, tmp_path):
    journal = tmp_path / "journal.jsonl"
    answered(model, images, journal, texts=TEXTS[:2])
    found, resumed = answered(model, images, journal)
    assert (found, resumed) == (generated, 2 * len(images))


def test_an_image_is_encoded_once_and_its_pixels_are_made_once(model, images, monkeypatch):
    encoded, made = [], []
    own, kind = model.model.get_image_features, type(model.processor.image_processor)
    monkeypatch.setattr(model.model, "get_image_features", lambda **given: encoded.append(1) or own(**given))
    call = kind.__call__
    monkeypatch.setattr(kind, "__call__", lambda self, *a, **k: made.append(1) or call(self, *a, **k))
    answered(model, images, encode_batch=1)
    assert (len(encoded), len(made)) == (len(images), len(images))


def test_what_is_shared_is_prefilled_once(model, images, monkeypatch):
    begun = []
    own = model.begin
    monkeypatch.setattr(model, "begin", lambda *given: begun.append(1) or own(*given))
    answered(model, images, encode_batch=1)
    shares = model.model.config.model_type != "paligemma" and "<image>{% endif %}{% endfor %}{% endfor %}" not in (
        model.processor.chat_template or ""
    )
    assert len(begun) == (1 if shares else len(TEXTS)) * len(images)


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


def test_alike_images_are_one_batch(folder, model, images):
    """Two of four images have one size; models that make squares of all of them take them together."""
    prepared = [model.prepare(stored, TEXTS[:1]) for stored in images.values()]
    groups = len({model.alike(one) for one in prepared})
    assert groups == {"qwen2_vl": 3, "llava_onevision": 3, "internvl": 2}.get(model.model.config.model_type, 1)


def test_batches_are_as_large_as_their_caches_may_be(model, images, generated, monkeypatch):
    begun, rows = [], []
    begin, generate = model.begin, Engine._generate
    monkeypatch.setattr(model, "begin", lambda images, *given: begun.append(len(images)) or begin(images, *given))
    monkeypatch.setattr(Engine, "_generate", lambda self, *given: rows.append(len(given[1])) or generate(self, *given))
    monkeypatch.setattr("harness.answers.CACHE", 1)
    many = images | {f"again {name}": stored for name, stored in images.items()}
    found = answered(model, many)[0]
    assert {pair: found[pair] for pair in generated} == generated
    assert max(begun[4:]) == 1  # the first ones were taken before anything was known
    assert max(rows) == 1


def test_its_resolution_can_be_overridden(folder):
    kind = folder.name
    picture = Image.new("RGB", (300, 200), "red")
    sides = {"fast_vlm": (128, 256, 4, 16), "qwen2_vl": (112, 224, 12, 54), "smolvlm": (64, 128, 4, 20)}
    if kind not in sides:
        pytest.skip("its vision tower has position embeddings for one size")
    low, high, few, many = sides[kind]
    for side, tokens in ((low, few), (high, many)):
        model = load_hub(folder, side)
        ids = model.prepare([picture], ["What?"]).prompts[0]["input_ids"]
        assert int((ids == model.image_token).sum()) == tokens
        with torch.inference_mode():
            found = Engine(model, {"a": [picture]})
            assert found.answer([found.ask("a", "What?", 2)]).faults == ("",)


def test_a_resolution_that_its_tower_cannot_take_is_a_fault_of_the_question(tmp_path):
    model = load_hub(KINDS["llava"](tmp_path / "llava"), 84)
    engine = Engine(model, {"a": [Image.new("RGB", (50, 50))]})
    with torch.inference_mode():
        (fault,) = engine.answer([engine.ask("a", "What?", 2)]).faults
    assert "84" in fault
    assert "56" in fault


def test_what_is_no_checkpoint_is_named_in_one_line(tmp_path):
    with pytest.raises(HarnessError, match="neither a folder nor to be had"):
        folder_of_hub("no/such-model")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(HarnessError, match=r"^vlm .*: [^\n]*$"):
        load_hub(tmp_path)


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
