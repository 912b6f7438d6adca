import io

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image

from conftest import CONNECTOR, ENCODER, LLM
from harness.configuration.compose import ROOT, options
from harness.models.connectors import build_connector
from harness.models.encoders import build_encoder
from harness.models.llms import build_llm, cache_name
from harness.models.preprocess import ASPECT, CANVAS, decode_image, pixel_tensor, square
from harness.models.tokenizer import build_tokenizer
from harness.models.vlm import Vlm, VlmSpec, load_vlm
from harness.schema import Connector, Encoder, HarnessError, Llm, grid_of


def encoder_of(name):
    return Encoder(**yaml.safe_load((ROOT / "encoder" / f"{name}.yaml").read_text()))


def llm_of(name):
    return Llm(**yaml.safe_load((ROOT / "llm" / f"{name}.yaml").read_text()))


def millions(module):
    return sum(p.numel() for p in module.parameters()) / 1e6


# Published counts include the pre-training head, which a VLM drops: (head's width, M parameters with it).
PUBLISHED = {
    "fastvithd": (768, 125.07),
    "fastvit": (512, 35.70),
    "convnext_l": (768, 200.13),
    "vit_l_14_336": (768, 304.29),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_full_size_encoders_have_the_published_parameters(name):
    spec = encoder_of(name)
    head, published = PUBLISHED[name]
    extra = {"inference_mode": True} if spec.timm.startswith("fastvit") else {}
    if name == "convnext_l":
        extra["head_hidden_size"] = 1536
    with torch.device("meta"):
        whole = timm.create_model(spec.timm, num_classes=head, **spec.args, **extra)
    assert millions(whole) == pytest.approx(published, rel=0.005)
    tower = build_encoder(spec, device="meta")
    assert millions(tower) == pytest.approx(published, rel=0.025)


# ../facts: floor(R / stride)^2 tokens; resolutions that the paper reports.
TOKENS = [
    ("fastvithd", 256, 16),
    ("fastvithd", 512, 64),
    ("fastvithd", 768, 144),
    ("fastvithd", 1024, 256),
    ("fastvit", 256, 64),
    ("fastvit", 768, 576),
    ("convnext_l", 320, 100),
    ("convnext_l", 512, 256),
    ("vit_l_14_336", 336, 576),
]


@pytest.mark.parametrize(("name", "resolution", "tokens"), TOKENS)
def test_full_size_encoders_give_the_published_tokens(name, resolution, tokens):
    spec = encoder_of(name)
    assert spec.visual_tokens(resolution) == tokens
    out = build_encoder(spec, device="meta")(torch.zeros(1, 3, resolution, resolution, device="meta"))
    assert out.shape == (1, tokens, spec.features)


@pytest.mark.parametrize(
    ("name", "published"),
    [("qwen2_0_5b", 494.0), ("qwen2_1_5b", 1543.7), ("qwen2_7b", 7615.6), ("vicuna_7b", 6738.4)],
)
def test_full_size_llms_have_the_published_parameters(name, published):
    assert millions(build_llm(llm_of(name), device="meta")) == pytest.approx(published, abs=0.1)


@pytest.mark.parametrize("name", [n for n in options("encoder") if n.startswith("tiny_")])
def test_reference_encoders_keep_their_promises(name):
    spec = encoder_of(name)
    encoder = build_encoder(spec, training_form=True).eval()
    pixels = torch.randn(2, 3, 128, 128)
    with torch.no_grad():
        before = encoder(pixels)
        encoder.fuse()
        after = encoder(pixels)
    assert before.shape == (2, spec.visual_tokens(128), spec.features)
    torch.testing.assert_close(before, after, atol=1e-4, rtol=1e-4)


def test_reference_fastvithd_has_five_stages_with_attention_in_the_last_two():
    backbone = build_encoder(encoder_of("tiny_fastvithd")).backbone
    kinds = [type(stage.blocks[0]).__name__ for stage in backbone.stages]
    assert kinds == ["RepMixerBlock"] * 3 + ["AttentionBlock"] * 2


def test_a_vit_prepared_for_a_resolution_gives_what_it_gives_unprepared():
    encoder = build_encoder(encoder_of("tiny_vit")).eval()
    pixels = {r: torch.randn(1, 3, r, r) for r in (64, 192, 256)}
    with torch.no_grad():
        before = {r: encoder(x) for r, x in pixels.items()}
        for r in (192, 64, 256, 192):
            encoder.prepare(r)
            torch.testing.assert_close(encoder(pixels[r]), before[r], atol=1e-5, rtol=1e-4)


def test_an_encoder_that_timm_does_not_know_is_named_with_near_names():
    spec = ENCODER.model_copy(update={"timm": "fastvit_mci33"})
    with pytest.raises(HarnessError, match=r"timm has no model 'fastvit_mci33'; near names: .*fastvit_mci3"):
        build_encoder(spec)


def test_an_unknown_connector_is_named():
    with pytest.raises(HarnessError, match=r"unknown connector 'mlp3x'; did you mean mlp2x_gelu\?"):
        build_connector(Connector(name="mine", kind="mlp3x"), [(4, 4)], 4)


def test_prefill_and_decode_equal_one_pass_over_everything(vlm_folder):
    vlm = load_vlm(vlm_folder)
    torch.manual_seed(1)
    visual = vlm.project(vlm.encode(torch.randn(1, 3, 128, 128)))
    before, after = (torch.tensor([ids]) for ids in vlm.question_ids("what is the total?"))
    said = torch.tensor([[40, 41, 42]])
    with torch.no_grad():
        logits, cache = vlm.prefill(vlm.prompt(visual, before, after))
        steps = [logits, *(vlm.decode(said[:, k : k + 1], cache)[:, -1] for k in range(3))]
        whole = vlm.llm(inputs_embeds=vlm.prompt(visual, before, torch.cat([after, said], 1))).logits[:, -4:]
    torch.testing.assert_close(torch.stack(steps, 1), whole, atol=1e-5, rtol=1e-4)


def test_a_saved_vlm_gives_the_same_features_as_the_one_that_was_saved(vlm_folder):
    training, inference = load_vlm(vlm_folder, training=True), load_vlm(vlm_folder)
    pixels = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        torch.testing.assert_close(training.encode(pixels), inference.encode(pixels), atol=1e-4, rtol=1e-4)
    assert millions(inference) < millions(training)


def test_a_folder_that_is_no_checkpoint_says_what_is_missing(tmp_path, vlm_folder):
    with pytest.raises(HarnessError, match=r"no checkpoint in .*: config.json and model.safetensors"):
        load_vlm(tmp_path)
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((vlm_folder / name).read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(HarnessError, match=r"model.safetensors does not fit config.json"):
        load_vlm(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(HarnessError, match=r"config.json: encoder: Field required"):
        load_vlm(tmp_path)


def test_random_weights_have_no_tokenizer():
    spec = VlmSpec(encoder=ENCODER, connector=CONNECTOR, llm=LLM, training_form=False)
    with pytest.raises(HarnessError, match="no vocabulary of its own"):
        Vlm(spec)


def test_tokenizer_keeps_known_words_whole_and_spells_the_rest():
    tokenizer = build_tokenizer(["coffee", "price"])
    assert tokenizer.tokenize("PRICE of coffee") == ["price", "o", "##f", "coffee"]
    for text in ("671", "coffee", "zebra"):
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_preprocess_pads_to_a_square_and_normalises():
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (64, 32), (255, 0, 0)).save(buffer, "PNG")
    pixels = pixel_tensor(buffer.getvalue(), ENCODER, 64)
    assert pixels.shape == (1, 3, 64, 64)
    torch.testing.assert_close(pixels[0, :, 32, 32], torch.tensor([2.0, -2.0, -2.0]))
    torch.testing.assert_close(pixels[0, :, 2, 32], torch.zeros(3), atol=0.01, rtol=0)  # the mean colour
    assert square(Image.new("RGB", (10, 20)), 8, (0, 0, 0)).shape == (8, 8, 3)
    with pytest.raises(HarnessError, match="unreadable image of 3 bytes"):
        pixel_tensor(b"abc", ENCODER, 64)


def padded_and_resized(image, resolution, fill):
    """As it was done for every image."""
    side = max(image.size)
    canvas = Image.new("RGB", (side, side), fill)
    canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return np.asarray(canvas.resize((resolution, resolution), Image.Resampling.BICUBIC))


def test_ordinary_images_are_padded_as_they_always_were():
    rng = np.random.default_rng(0)
    for width, height in ((640, 480), (31, 1000), (2000, 2), (100, 100)):
        image = Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))
        assert np.array_equal(square(image, 96, (9, 99, 200)), padded_and_resized(image, 96, (9, 99, 200)))


def test_a_long_image_is_made_shorter_before_it_is_padded(monkeypatch):
    sizes, new = [], Image.new
    monkeypatch.setattr(Image, "new", lambda mode, size, *fill: sizes.append(size) or new(mode, size, *fill))
    assert square(new("RGB", (60_000, 100), (200, 0, 0)), 256, (0, 0, 0)).shape == (256, 256, 3)
    assert square(new("RGB", (1, 200_000)), 64, (0, 0, 0)).shape == (64, 64, 3)
    assert max(side for size in sizes for side in size) == CANVAS
    monkeypatch.setattr("harness.models.preprocess.CANVAS", 1024)
    ramp = np.linspace(0, 255, 1500).astype(np.uint8)
    image = Image.fromarray(np.broadcast_to(ramp[:, None, None], (1500, 500, 3)).copy())
    near = square(image, 128, (0, 0, 0)).astype(int) - padded_and_resized(image, 128, (0, 0, 0)).astype(int)
    assert np.abs(near[:, 48:80]).max() <= 2  # its edges may fall half a pixel aside


def test_an_image_is_bounded_by_its_header_before_it_is_decoded(monkeypatch):
    def stored(form, size=(40, 30)):
        out = io.BytesIO()
        Image.new("RGB", size).save(out, form)
        return out.getvalue()

    for form in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"):
        assert decode_image(stored(form)).size == (40, 30)
    with pytest.raises(HarnessError, match=r"unreadable image of .* bytes: none of PNG, JPEG"):
        decode_image(stored("EPS"))  # Pillow would run a program on it
    with pytest.raises(HarnessError, match="image of 4001 x 4 px: more than 1000 times longer than wide"):
        decode_image(stored("PNG", (4001, 4)), ASPECT)
    monkeypatch.setattr("harness.storage.intake.IMAGE_PIXELS", 1000)
    with pytest.raises(HarnessError, match="40 x 30 px, at most 1000 px are decoded"):
        decode_image(stored("PNG"))
    monkeypatch.setattr("harness.storage.intake.IMAGE_BYTES", 10)
    with pytest.raises(HarnessError, match="at most 10 are read"):
        decode_image(stored("PNG"))


def test_tiles_are_an_overview_and_the_squares_of_a_grid_row_by_row():
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0)]
    image = Image.new("RGB", (128, 128))
    for number, colour in enumerate(colours):
        image.paste(colour, (64 * (number % 2), 64 * (number // 2), 64 * (number % 2) + 64, 64 * (number // 2) + 64))
    spec = ENCODER.model_copy(update={"mean": (0, 0, 0), "std": (1, 1, 1)})
    tiles = pixel_tensor(image, spec, 64, 5)
    assert tiles.shape == (5, 3, 64, 64)
    assert torch.equal(tiles[:1], pixel_tensor(image, spec, 64))
    for tile, colour in zip(tiles[1:], colours, strict=True):
        assert torch.allclose(tile[:, 32, 32] * 255, torch.tensor(colour).float())


@pytest.mark.parametrize(("tiles", "grid"), [(1, 1), (5, 2), (10, 3), (17, 4), (37, 6)])
def test_a_number_of_tiles_is_a_grid_and_its_overview(tiles, grid):
    assert grid_of(tiles) == grid


@pytest.mark.parametrize("tiles", [0, 2, 4, 9, 11])
def test_other_numbers_of_tiles_are_refused(tiles):
    with pytest.raises(HarnessError, match=f"tiles={tiles}: 1 is expected, or a grid"):
        grid_of(tiles)


def test_the_kv_cache_goes_by_the_name_that_a_model_takes():
    """transformers 5.24 renamed it, and warns about the old name in every pass."""

    class Old:
        def forward(self, input_ids, past_key_values=None): ...

    class New:
        def forward(self, input_ids, cache=None): ...

    assert (cache_name(Old), cache_name(New)) == ("past_key_values", "cache")
