"""Counted work against torch's own counter on the real modules, and against formulas."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from conftest import ENCODER, LLM, make_component
from harness.models.encoders import build_encoder
from harness.models.llms import build_llm, prefill
from harness.schema import Encoder
from harness.timing.costs import parameters_of, work_of

VIT = Encoder(
    name="vit",
    title="ViT",
    timm="vit_large_patch14_clip_336",
    args={"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2, "dynamic_img_size": True},
    stride=16,
    features=32,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    native=64,
    source="tests",
)


def counted(call):
    with torch.no_grad(), FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        call()
    return counter.get_total_flops()


@pytest.mark.parametrize(("spec", "resolution"), [(ENCODER, 128), (VIT, 64), (VIT, 96)])
def test_an_encoder_has_the_operations_that_torch_counts(spec, resolution):
    encoder = build_encoder(spec).eval()
    encoder.prepare(resolution)
    expected = counted(lambda: encoder(torch.randn(1, 3, resolution, resolution)))
    component = make_component(encoder=spec, resolution=resolution, visual_tokens=spec.visual_tokens(resolution))
    work = work_of(component)["encode"]
    assert work.flops == expected > 0
    assert work.parameters == sum(p.numel() for p in encoder.parameters())
    grown = 32 * ((resolution // 16) ** 2 - 16) if spec is VIT else 0  # a ViT's position embedding fits the resolution
    assert parameters_of(component) == work.parameters - grown


def test_unavoidable_bytes_are_weights_inputs_and_outputs_once():
    component = make_component("connector")
    work = work_of(component)["project"]
    tokens, features, width = component.visual_tokens, 64, 32
    weights = features * width + width + width * width + width
    assert work.parameters == weights
    assert work.bytes == 4 * (weights + tokens * features + tokens * width)
    assert work.flops == 2 * tokens * (features * width + width * width)
    # Alone, each operation reads and writes the hidden tokens; whether torch adds a bias in the product or after it is
    # its own affair and makes the difference between four times and eight.
    assert work.bytes + 4 * 4 * tokens * width <= work.eager_bytes <= work.bytes + 8 * 4 * tokens * width


def test_prefill_counts_causal_attention_once_and_the_vocabulary_for_the_last_token_only():
    llm = LLM.model_copy(update={"config": {**LLM.config, "vocab_size": 500}})
    component = make_component("llm", llm=llm, visual_tokens=10)
    length, width, layers = 34, 32, 2
    everything = counted(lambda: prefill(build_llm(llm), torch.randn(1, length, width)))
    above = length * (length - 1) // 2  # pairs above the diagonal, in two products, for each layer
    work = work_of(component)["prefill"]
    assert work.flops == everything - layers * above * 4 * width
    embedding = 500 * width * 4  # tied with the head, which is read for the last token
    body = 4 * (work.parameters - 500 * width)
    cache = 2 * layers * length * (width // 2) * 4
    assert embedding + body + cache < work.bytes < 1.2 * (embedding + body + cache)


def test_a_whole_vlm_is_the_sum_of_its_parts():
    llm = LLM.model_copy(update={"config": {**LLM.config, "vocab_size": 500}})
    whole = work_of(make_component("composed_vlm", llm=llm))
    for kind, stage in (("encoder", "encode"), ("connector", "project"), ("llm", "prefill")):
        assert work_of(make_component(kind, **({"llm": llm} if kind == "llm" else {})))[stage] == whole[stage]
