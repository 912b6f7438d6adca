"""Layers within the LLM that attend to visual features: where they run, and what they see."""

import pytest
import torch

from conftest import CONNECTOR, ENCODER, GATED, LLM, make_component, make_point
from harness.models.fusions import Fused
from harness.models.vlm import Vlm, VlmSpec
from harness.schema import Connector, Fusion, HarnessError
from harness.timing.costs import work_of
from harness.timing.measurer import Measurer
from harness.timing.plan import components_of

# Wider first weights than 0.02: with those an answer hardly depends on the image, and two images' are the same.
TEXT = LLM.model_copy(
    update={"config": {**LLM.config, "vocab_size": 64, "num_hidden_layers": 4, "initializer_range": 0.2}}
)
LATENTS = Connector(name="latents", kind="perceiver_resampler", args={"latents": 3, "depth": 1}, tokens=3)
SVA = Connector(
    name="sva",
    kind="spatial_vision_aggregator",
    args={"grids": [4, 2], "queries": 4, "hidden": 32, "depth": 1},
    tokens=4,
)
SAMPLERS = Fusion(
    name="samplers",
    title="samplers",
    kind="spatial_vision_sampler",
    args={"windows": [4, 1]},
    every=1,
    first=1,
    count=2,
    memory=(4, 6, 32),
    in_sequence=True,
    source="tests",
)


def vlm_of(**parts):
    torch.manual_seed(0)
    fields = {"encoder": ENCODER, "connector": CONNECTOR, "llm": TEXT, "training_form": False}
    return Vlm(VlmSpec(**(fields | parts)), resolution=256).eval()


def flamingo():
    return vlm_of(connector=LATENTS, fusion=GATED)


def cambrian():
    return vlm_of(connector=SVA, also=(ENCODER,), fusion=SAMPLERS)


BEFORE, AFTER = torch.tensor([[1]]), torch.tensor([[2, 3, 4]])


@torch.inference_mode()
def test_text_attends_before_the_layers_that_are_named():
    vlm = flamingo()
    memory = vlm.project(vlm.encode(torch.randn(1, 3, 256, 256)))
    embeddings = vlm.prompt(memory, BEFORE, AFTER)
    assert embeddings.shape == (1, 4, 32)  # text alone
    found, cache = vlm.prefill(embeddings)
    assert cache.get_seq_length() == 4
    # The same by hand: layers 1 and 3 get what the fusion made of their input.
    hooks = [hook for layer in vlm.llm.model.layers for hook in layer._forward_pre_hooks]
    assert len(hooks) == 2
    for layer in vlm.llm.model.layers:
        layer._forward_pre_hooks.clear()
    inputs = {}
    for number in (1, 3):

        def by_hand(_, given, named, number=number):
            fused = vlm.fused.layers[number // 2](given[0], memory)
            inputs[number] = fused
            return (fused, *given[1:]), named

        vlm.llm.model.layers[number].register_forward_pre_hook(by_hand, with_kwargs=True)
    torch.testing.assert_close(vlm.prefill(embeddings)[0], found)
    assert set(inputs) == {1, 3}


@torch.inference_mode()
def test_another_image_gives_another_token_although_the_sequence_is_the_same():
    vlm = flamingo()
    logits = [
        vlm.prefill(vlm.prompt(vlm.project(vlm.encode(torch.randn(1, 3, 256, 256))), BEFORE, AFTER))[0] for _ in "ab"
    ]
    assert not torch.allclose(*logits)


@torch.inference_mode()
def test_samplers_touch_visual_positions_alone():
    vlm = cambrian()
    images = [torch.randn(1, 3, 256, 256), torch.randn(1, 3, 128, 128)]
    visual = vlm.project(vlm.encode(images[0]), vlm.also[0](images[1]))
    seen = {}
    for number, layer in enumerate(vlm.llm.model.layers):
        layer.register_forward_hook(lambda _, given, out, number=number: seen.setdefault(f"out {number}", out))
        layer.register_forward_pre_hook(lambda _, given, number=number: seen.setdefault(f"in {number}", given[0]))
    vlm.prefill(vlm.prompt(visual, BEFORE, AFTER))
    for number in (0, 1):
        left, entered = (x[0] if isinstance(x, tuple) else x for x in (seen[f"out {number}"], seen[f"in {number + 1}"]))
        assert torch.equal(left[:, [0, 5, 6, 7]], entered[:, [0, 5, 6, 7]])
        rows = vlm.fused.layers[number](left[0, 1:5, None], vlm.connector.memory)
        torch.testing.assert_close(entered[0, 1:5], rows[:, 0])


@torch.inference_mode()
def test_a_decoded_token_passes_by_the_samplers():
    vlm = cambrian()
    visual = vlm.project(torch.randn(1, 16, 64), torch.randn(1, 4, 64))
    _, cache = vlm.prefill(vlm.prompt(visual, BEFORE, AFTER))
    assert vlm.decode(torch.tensor([[5]]), cache).shape == (1, 1, 64)


def test_a_fusion_needs_room_in_the_llm():
    with pytest.raises(HarnessError, match="fusion gated: an LLM of 4 layers has no place for 3 more"):
        vlm_of(connector=LATENTS, fusion=GATED.model_copy(update={"count": 3}))
    with pytest.raises(HarnessError, match="unknown fusion 'gates'; there are: gated_cross_attention"):
        Fused(GATED.model_copy(update={"kind": "gates"}), 32)


def parts_of(**changes):
    fields = {"llm": TEXT, "resolution": 256} | changes
    return {component.kind: component for component in components_of(make_point(**fields)).values()}


def test_stages_are_named_for_what_they_hold():
    found = parts_of(connector=LATENTS, fusion=GATED)
    assert found["fusion"].stages == ("fuse",)
    assert "prefill_visual" not in found["llm"].stages  # its sequence is text
    assert "prefill_visual" in parts_of(connector=SVA, also=(ENCODER,), fusion=SAMPLERS)["llm"].stages


@pytest.mark.parametrize(
    "parts",
    [{"connector": LATENTS, "fusion": GATED}, {"connector": SVA, "also": (ENCODER,), "fusion": SAMPLERS}],
    ids=["flamingo", "cambrian"],
)
def test_every_component_of_a_fused_system_is_measured(parts):
    components = components_of(make_point(llm=TEXT, resolution=256, **parts))
    found = Measurer().measure([{part: component} for part, component in components.items()], "0", print)
    for part, component in components.items():
        samples = found[part][-1].samples
        assert set(samples.seconds) == set(component.stages)
        assert all(len(times) == len(samples.marks) for times in samples.seconds.values())


def test_work_of_a_fusion_is_that_of_its_matrices():
    component = make_component("fusion", fusion=GATED, width=TEXT.config["hidden_size"], visual_tokens=0, text_tokens=5)
    # Of each of two layers: query and output 32 x 16, key and value 64 x 32, attention 2 x 16, and 2 x 32 x 128.
    each = 2 * (5 * 32 * 16 * 2 + 3 * 64 * 32 + 5 * 3 * 16 * 2 + 5 * 32 * 128 * 2)
    assert work_of(component)["fuse"].flops == 2 * each
