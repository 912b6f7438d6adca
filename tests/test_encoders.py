"""Full-size encoders have the parameters and the visual tokens that their sources name."""

import pytest
import torch
import yaml

from harness.configuration.compose import ROOT, options
from harness.configuration.points import check_resolution
from harness.models.encoders import build_encoder
from harness.schema import Encoder, HarnessError

# Millions of parameters and visual tokens at a resolution: FastVLM's Table 10, timm's benchmark table and the models'
# configurations, less the CLIP head (features x width) that they count and no VLM runs.
SOURCES = {
    "fastvithd": (125.07 - 3072 * 768e-6, 1024, 256),
    "fastvit": (35.7 - 1280 * 512e-6, 768, 576),
    "mci4": (321.57 - 4096 * 768e-6, 256, 16),
    "vit_l_14_224": (304.2, 224, 256),
    "vit_l_14_336": (304.5, 336, 576),
    "siglip_so400m_384": (413.0, 384, 729),
    "siglip_so400m_384_ov": (397.8, 384, 729),
    "siglip_b_16_512": (86.4, 512, 1024),
    "eva02_l_336": (304.4, 336, 576),
    "eva_g_224": (1012.6, 224, 256),
    "internvit_300m": (304.0, 448, 1024),
    "dfn_h_378": (632.7, 378, 729),
    "convnext_l": (200.13 - 1536 * 1000e-6, 320, 100),
    "convnext_xxl": (846.47 - 3072 * 1024e-6, 256, 64),
    "convllava_l": (668.9, 1024, 256),
    "vitamin_l_384": (333.3, 384, 576),
    "dinov2_l_518": (304.4, 518, 1369),
    "dinov2_g_378": (1136.5, 378, 729),
    "convnext_xxl_stages": (846.47 - 3072 * 1024e-6, 1024, 9216),
    "vit_l_14_336_prumerge": (304.5, 336, 40),
    "vit_l_14_336_prumerge_plus": (304.5, 336, 40),
    "qwen2_vl": (665.4, 980, 1225),
}


def spec_of(name):
    return Encoder(**yaml.safe_load((ROOT / "encoder" / f"{name}.yaml").read_text()))


def test_every_full_size_encoder_is_held_against_its_source():
    assert set(SOURCES) == {name for name in options("encoder") if not name.startswith("tiny_")}


@pytest.mark.parametrize("name", SOURCES)
def test_parameters_and_tokens_are_those_of_the_source(name):
    spec = spec_of(name)
    parameters, resolution, tokens = SOURCES[name]
    encoder = build_encoder(spec, device="meta").eval()
    assert sum(p.numel() for p in encoder.parameters()) / 1e6 == pytest.approx(parameters, rel=0.005)
    assert spec.visual_tokens(check_resolution(spec, resolution)) == tokens
    encoder.prepare(resolution)
    assert encoder(torch.empty(1, 3, resolution, resolution, device="meta")).shape == (1, tokens, spec.features)


class Patches(torch.nn.Module):
    """Somebody's own encoder: one convolution."""

    def __init__(self, width):
        super().__init__()
        self.patch = torch.nn.Conv2d(3, width, 16, 16)

    def forward(self, pixels):
        return self.patch(pixels)


OWN = {"name": "mine", "title": "Mine", "stride": 16, "features": 8, "native": 64, "source": "me"}
OWN |= {"mean": (0, 0, 0), "std": (1, 1, 1)}


def test_an_encoder_may_be_anybodys_class():
    spec = Encoder(**OWN, target=f"{__name__}:Patches", args={"width": 8})
    assert build_encoder(spec)(torch.zeros(2, 3, 64, 64)).shape == (2, 16, 8)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("no.such:Thing", "No module named"),
        (f"{__name__}:Nobody", "has no attribute"),
        ("os:getcwd", r"not a subclass of torch\.nn\.Module"),
    ],
)
def test_a_class_that_is_not_there_is_one_line(target, said):
    with pytest.raises(HarnessError, match=said):
        build_encoder(Encoder(**OWN, target=target, args={"width": 8}))


def test_pixels_beyond_the_last_patch_are_dropped_where_the_published_encoder_drops_them():
    spec = Encoder(**OWN | {"crop": True}, target=f"{__name__}:Patches", args={"width": 8})
    encoder = build_encoder(spec)
    pixels = torch.randn(1, 3, 70, 70)
    assert torch.equal(encoder(pixels), encoder(pixels[..., :64, :64]))
    assert check_resolution(spec, 70) == 70
    with pytest.raises(HarnessError, match="nearest that work: 64, 80"):
        check_resolution(spec.model_copy(update={"crop": False}), 70)
