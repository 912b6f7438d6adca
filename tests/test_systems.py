"""Every system from configuration has the parameters and the visual tokens of its source."""

import pytest
import torch
import transformers
from transformers.initialization import no_init_weights

from conftest import MACHINE, make_result
from harness.analysis.table import table_of
from harness.configuration.compose import compose_all, options
from harness.configuration.points import make_point
from harness.models.connectors.mlp import Identity
from harness.models.vlm import Vlm, VlmSpec
from harness.schema import HarnessError, Part
from harness.timing.costs import parameters_of, work_of
from harness.timing.plan import components_of, make_plan


def point_of(*arguments):
    return make_point(compose_all(arguments)[1][0])


def count_all(*arguments):
    return [work_of(part) for part in components_of(point_of(*arguments)).values()]


@pytest.mark.parametrize("name", options("system"))
def test_parameters_and_tokens_are_those_of_the_source(name):
    point = point_of(f"system={name}")
    *parts, whole = components_of(point).values()
    assert point.model.system.name == name
    assert point.visual_tokens == point.model.system.visual_tokens
    if point.model.system.parameters is not None:  # MM1's LLM is in-house
        assert parameters_of(whole) / 1e6 == pytest.approx(point.model.system.parameters, rel=0.005)
    assert {part.kind for part in parts} >= {"encoder", "connector", "llm"}
    # What the parts hold together is what the whole holds, and every part but the LLM can be counted.
    assert sum(map(parameters_of, parts)) == parameters_of(whole)
    for part in parts:
        if part.kind != "llm":
            assert set(work_of(part)) == {part.MAIN_STAGE}


def test_only_the_system_whose_llm_is_private_has_no_parameters():
    assert [n for n in options("system") if point_of(f"system={n}").model.system.parameters is None] == ["mm1_like"]


LLAMA = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}


def official(name):
    """The same system by its own class in transformers, with the sizes of its published configuration."""
    if name == "llava_1_5_7b":
        vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
        vision |= {"model_type": "clip_vision_model", "image_size": 336, "patch_size": 14}
        text = {**LLAMA, "model_type": "llama", "vocab_size": 32064, "tie_word_embeddings": False}
        return transformers.LlavaConfig(vision_config=vision, text_config=text)
    if name == "llava_onevision_0_5b":
        vision = {"model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304, "patch_size": 14}
        vision |= {"num_attention_heads": 16, "num_hidden_layers": 26, "image_size": 384, "vision_use_head": False}
        text = {"model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24}
        text |= {"num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 152000, "tie_word_embeddings": True}
        return transformers.LlavaOnevisionConfig(vision_config=vision, text_config=text, tie_word_embeddings=True)
    if name == "qwen2_vl_2b":
        text = {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12}
        text |= {"num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True}
        return transformers.Qwen2VLConfig(
            vision_config={"hidden_size": 1536}, text_config=text, tie_word_embeddings=True
        )
    if name == "smolvlm_256m":
        text = {"model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}
        text |= {"num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49280}
        vision = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
        vision |= {"image_size": 512, "patch_size": 16}
        return transformers.SmolVLMConfig(
            vision_config=vision, text_config=text, scale_factor=4, tie_word_embeddings=False
        )
    assert name == "instructblip_7b"
    text = {**LLAMA, "model_type": "llama", "vocab_size": 32001, "tie_word_embeddings": False}
    return transformers.InstructBlipConfig(vision_config={}, qformer_config={}, text_config=text)


@pytest.mark.parametrize(
    "name", ["llava_1_5_7b", "llava_onevision_0_5b", "qwen2_vl_2b", "smolvlm_256m", "instructblip_7b"]
)
def test_transformers_own_class_has_as_many_parameters(name):
    with torch.device("meta"):
        theirs = transformers.AutoModelForImageTextToText.from_config(official(name))
    ours = parameters_of(components_of(point_of(f"system={name}"))[Part("composed_vlm")])
    assert ours == pytest.approx(sum(p.numel() for p in theirs.parameters()), rel=0.005)


@pytest.mark.parametrize(
    ("arguments", "tokens"),
    [
        *(((f"system=fastvlm_0_5b resolution={r}"), (r // 64) ** 2) for r in (256, 512, 768, 1024, 1536, 2048)),
        ("system=fastvlm_7b tiles=5", 1280),  # AnyRes 2 x 2 at 2,048 px
        *((f"system=convllava_7b resolution={r}", n) for r, n in ((768, 144), (1024, 256), (1536, 576))),
        ("system=m3_7b_9 connector=m3_1", 1),
        ("system=qwen2_vl_2b resolution=448", 256),
    ],
)
def test_tokens_at_other_resolutions(arguments, tokens):
    assert point_of(*arguments.split()).visual_tokens == tokens


def test_several_encoders_are_components_of_their_own_and_shared():
    plan = make_plan(
        [(point_of(f"system={name}", "device=cpu"), "") for name in ("cambrian_1_8b", "cambrian_1_8b_dinov2_l")],
        {"cpu": MACHINE},
        "",
        0,
        "always",
    )
    first, second = (planned.components for planned in plan.points)
    assert list(first) == [
        "encoder", "encoder@1", "encoder@2", "encoder@3", "connector", "fusion", "llm@2", "llm@5", "llm@8"
    ]  # fmt: skip
    assert {part for part in first if first[part] != second[part]} == {"encoder@3", "connector"}
    assert plan.components[first["encoder@3"]].resolution == 378
    assert plan.components[second["encoder@3"]].resolution == 518


def test_text_alone_is_in_the_sequence_where_it_attends_to_the_image():
    point = point_of("system=open_flamingo_9b")
    found = {component.kind: component for component in components_of(point).values()}
    assert (point.visual_tokens, point.sequence_tokens) == (64, 0)
    assert (found["llm"].visual_tokens, found["llm"].text_tokens) == (0, 24)
    assert (found["fusion"].visual_tokens, found["fusion"].text_tokens) == (0, 24)
    assert (found["connector"].visual_tokens, found["composed_vlm"].visual_tokens) == (64, 0)


def test_a_changed_system_is_called_what_it_is():
    assert point_of("system=fastvlm_0_5b", "resolution=512").name == "fastvlm_0_5b 512px"
    changed = point_of("system=fastvlm_0_5b", "encoder=fastvit", "resolution=512")
    assert changed.name == "fastvlm_0_5b 512px encoder=fastvit"
    row = table_of([make_result(changed, right=None)]).iloc[0]
    assert row["encoder_title"] == "FastVLM-0.5B, encoder=fastvit"
    assert row["system_title"] == ""  # no published score is joined by its name


def test_what_cannot_be_put_together_is_said():
    with pytest.raises(HarnessError, match="only one encoder can see tiles, here are 4"):
        point_of("system=cambrian_1_8b", "tiles=5")
    with pytest.raises(HarnessError, match="unknown system 'cambrian'; did you mean cambrian_1_8b"):
        compose_all(["system=cambrian"])
    for arguments, said in (
        (
            "system=nanollava connector=m3_144",
            "its parts do not fit: |connector m3_144: a grid of 27 x 27 cannot be pooled",
        ),
        (
            "system=cambrian_1_8b connector=mlp2x_gelu",
            "fusion cambrian_1_8b is made for 576 visual tokens, here are 9216",
        ),
        (
            "system=fastvlm_0_5b fusion=cambrian_1_8b",
            "fusion cambrian_1_8b is made for 576 visual tokens, here are 256",
        ),
        ("system=open_flamingo_9b tiles=5", "fusion open_flamingo_9b is made for 64 visual tokens, here are 320"),
        ("system=open_flamingo_9b llm=qwen2_0_5b", "qwen2_0_5b has 24 layers, no place for 8 more"),
        ("system=open_flamingo_9b attention=sdpa", "llm mpt_7b, attention=sdpa: .*attention=eager"),
        (
            "system=mm1_like encoder=vit_l_14_336_prumerge resolution=336",
            "its parts do not fit: 40 visual tokens are no",
        ),
        ("system=prumerge_7b resolution=672", "its parts do not fit: "),
    ):
        with pytest.raises(HarnessError, match=said):
            count_all(*arguments.split())
    with pytest.raises(ValueError, match="the encoder gives 8 channels, the LLM takes 16"):
        Identity([(4, 8)], 16)


def test_fastvlm_0_5b_of_our_parts_is_the_one_of_transformers():
    """Full width, the same random weights: the same logits. (Two of its 24 equal layers; how many there are is counted
    above.)"""
    point = point_of("system=fastvlm_0_5b", "resolution=256", "llm.config.num_hidden_layers=2")
    torch.manual_seed(0)
    ours = Vlm(
        VlmSpec(encoder=point.model.encoder, connector=point.model.connector, llm=point.model.llm, training_form=False)
    ).eval()
    vision = {"model_type": "timm_wrapper", "architecture": "fastvit_mci3", "do_pooling": True, "global_pool": "avg"}
    vision |= {"hidden_size": 3072, "model_args": {"inference_mode": True}}
    config = transformers.FastVlmConfig(
        vision_config=vision,
        text_config={"model_type": "qwen2", **point.model.llm.config},
        image_token_index=151646,
        tie_word_embeddings=True,
    )
    with no_init_weights():  # they are replaced
        theirs = transformers.FastVlmForConditionalGeneration(config).eval()
    names = (
        ("encoder.backbone.", "model.vision_tower.timm_model."),
        ("connector.", "model.multi_modal_projector."),
        ("llm.model.", "model.language_model."),
        ("llm.lm_head.", "lm_head."),
    )
    state = {}
    for name, value in ours.state_dict().items():
        here, there = next(pair for pair in names if name.startswith(pair[0]))
        state[there + name.removeprefix(here)] = value
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(".head." in name for name in missing)  # FastViT's classifier, which no VLM runs
    ids = torch.tensor([[1, *[151646] * 16, 5, 6, 7]])
    logits = []
    for _ in range(2):
        pixels = torch.rand(1, 3, 256, 256)
        with torch.inference_mode():
            expected = theirs(input_ids=ids, pixel_values=pixels).logits[:, -1]
            visual = ours.project(ours.encode(pixels))
            found, _ = ours.prefill(ours.prompt(visual, ids[:, :1], ids[:, 17:]))
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        logits.append(found)
    assert not torch.allclose(*logits, atol=1e-4)  # the image decides
