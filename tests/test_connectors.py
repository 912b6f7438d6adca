"""Connectors against the definitions that they follow."""

import pytest
import torch
import yaml
from torch import nn
from transformers import InstructBlipQFormerConfig, InstructBlipQFormerModel, Qwen2VLImageProcessor, SmolVLMConfig
from transformers.models.smolvlm.modeling_smolvlm import SmolVLMConnector

from harness.configuration.compose import ROOT, options
from harness.models.connectors import CONNECTORS, build_connector, to_map, to_tokens
from harness.models.connectors.c_abstractor import CAbstractor
from harness.models.connectors.ldp import LdpV2
from harness.models.connectors.perceiver import Attention, PerceiverResampler
from harness.models.connectors.pixel_shuffle import PixelShuffle
from harness.models.connectors.pooling import AveragePool
from harness.models.connectors.qformer import QFormer
from harness.models.connectors.spatial_vision import SpatialVisionAggregator, SpatialVisionLayer
from harness.models.connectors.visual_abstractor import VisualAbstractor
from harness.models.towers import MultiStage, PruMerge, Qwen2Vl, prune_and_merge
from harness.schema import Connector, HarnessError


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
    with torch.inference_mode():
        yield


def test_a_map_is_its_tokens_row_by_row():
    tokens = torch.randn(2, 9, 4)
    assert torch.equal(to_map(tokens)[1, :, 2, 1], tokens[1, 7])
    assert torch.equal(to_tokens(to_map(tokens)), tokens)
    with pytest.raises(ValueError, match="8 visual tokens are no square grid"):
        to_map(torch.randn(1, 8, 4))


def test_pooling_is_the_mean_of_projected_squares():
    pool = AveragePool([(16, 6)], 8, shrink=2)
    tokens = torch.randn(1, 16, 6)
    projected = pool.linear_2(nn.functional.gelu(pool.linear_1(tokens)))
    square = [projected[0, k] for k in (2, 3, 6, 7)]  # upper right
    torch.testing.assert_close(pool(tokens)[0, 1], torch.stack(square).mean(0))
    assert pool(tokens).shape == (1, 4, 8)


def test_pixel_shuffle_is_that_of_transformers():
    config = SmolVLMConfig(
        vision_config={"hidden_size": 8, "num_attention_heads": 2},
        text_config={"model_type": "llama", "hidden_size": 16, "num_attention_heads": 2},
        scale_factor=3,
    )
    theirs, ours = SmolVLMConnector(config), PixelShuffle([(36, 8)], 16, shrink=3)
    ours.proj.load_state_dict(theirs.modality_projection.proj.state_dict())
    tokens = torch.randn(2, 36, 8)
    torch.testing.assert_close(ours(tokens), theirs(tokens))


def test_ldpv2_pools_and_adds_a_depthwise_convolution():
    ldp = LdpV2([(36, 5)], 8, grid=3)
    tokens = torch.randn(1, 36, 5)
    image = to_map(ldp.mlp(tokens)).reshape(1, 8, 3, 2, 3, 2).mean((3, 5))
    assert ldp(tokens).shape == (1, 9, 8)
    torch.testing.assert_close(ldp(tokens), to_tokens(ldp.position(image) + image))


def test_the_qformer_with_a_question_is_instructblips():
    ours = QFormer([(9, 12)], 16, queries=4, instruction=5, layers=2).eval()
    config = InstructBlipQFormerConfig(encoder_hidden_size=12, num_hidden_layers=2, vocab_size=30523)
    theirs = InstructBlipQFormerModel(config).eval()
    theirs.encoder.load_state_dict(ours.former.encoder.state_dict())
    theirs.embeddings.layernorm.load_state_dict(ours.former.layernorm.state_dict())
    theirs.embeddings.word_embeddings.load_state_dict(ours.words.state_dict())
    theirs.embeddings.position_embeddings.load_state_dict(ours.places.state_dict())
    tokens = torch.randn(2, 9, 12)
    found = theirs(
        input_ids=torch.arange(1, 6)[None].expand(2, -1),
        query_embeds=ours.queries.expand(2, -1, -1),
        encoder_hidden_states=ours.norm(tokens),
        attention_mask=torch.ones(2, 9, dtype=torch.long),
    ).last_hidden_state[:, :4]
    torch.testing.assert_close(ours(tokens), ours.proj(found), atol=1e-5, rtol=1e-4)


def test_attention_of_the_resampler_is_softmax_of_scaled_products():
    attention = Attention(6, 10, heads=2, head_dim=4)
    asked, memory = torch.randn(1, 3, 6), torch.randn(1, 5, 10)
    key, value = attention.key_value(memory)[0].chunk(2, -1)
    query = attention.query(asked)[0]
    heads = [
        (query[:, h] @ key[:, h].T / 4**0.5).softmax(-1) @ value[:, h] for h in (slice(0, 4), slice(4, 8))
    ]  # fmt: skip
    torch.testing.assert_close(attention(asked, memory)[0], attention.out(torch.cat(heads, -1)))


@pytest.mark.parametrize(
    ("connector", "shape"),
    [
        (PerceiverResampler([(16, 8)], 99, latents=3, depth=2, heads=2, head_dim=4), (2, 3, 8)),
        (VisualAbstractor([(16, 8)], 12, queries=3, layers=2, heads=2, inner=6), (2, 4, 12)),
        (CAbstractor([(16, 8)], 12, queries=4, hidden=16, depth=1), (2, 4, 12)),
        (QFormer([(16, 8)], 12, queries=3, layers=2), (2, 3, 12)),
    ],
)
def test_queries_decide_how_many_tokens_leave_and_the_image_what_they_are(connector, shape):
    connector.eval()
    one, other = torch.randn(2, 16, 8), torch.randn(2, 16, 8)
    assert connector(one).shape == shape
    assert not torch.allclose(connector(one), connector(other))
    torch.testing.assert_close(connector(one)[:1], connector(one[:1]), atol=1e-5, rtol=1e-4)  # tiles do not mix


def test_the_aggregator_looks_at_each_querys_own_window():
    sva = SpatialVisionAggregator([(16, 6), (9, 5)], 10, grids=[4, 2], queries=4, hidden=32, depth=1)
    first, second = torch.randn(1, 16, 6), torch.randn(1, 9, 5)
    before = sva(first, second)
    assert before.shape == (1, 4, 10)
    assert sva.memory.shape == (4, 4 + 1 + 1, 32)
    moved = first.clone()
    moved[0, 15] = 0  # lower right: the window of the last query, and the mean that all see
    context = sva.memory[:, -1].clone()
    sva(moved, second)
    inside = sva.memory[:, :4]
    again = sva.towers[0](first[0, [10, 11, 14]])
    torch.testing.assert_close(inside[3, :3], again)
    assert not torch.equal(sva.memory[:, -1], context)


def test_a_spatial_layer_attends_within_the_memory_of_its_row():
    layer = SpatialVisionLayer(6, 32, windows=[4, 1], heads=2)
    queries, memory = torch.randn(3, 1, 6), torch.randn(3, 6, 32)
    alone = torch.cat([layer(queries[k : k + 1], memory[k : k + 1]) for k in range(3)])
    torch.testing.assert_close(layer(queries, memory), alone)
    inner = layer.into(torch.cat([queries[0], layer.context(memory[0, 5:])], -1))
    maps = [memory[0, :4] + layer.places[0], memory[0, 4:5]]
    keys = torch.cat([key(m) for key, m in zip(layer.keys, maps, strict=True)])
    values = torch.cat([value(m) for value, m in zip(layer.values, maps, strict=True)])
    query = layer.query(inner)
    heads = [(query[:, h] @ keys[:, h].T / 4.0).softmax(-1) @ values[:, h] for h in (slice(0, 16), slice(16, 32))]
    expected = layer.back(layer.norm(inner + layer.out(torch.cat(heads, -1)))) + queries[0]
    torch.testing.assert_close(layer(queries, memory)[0], expected)


def slowly(tokens, keys, scores, keep, nearest):
    """PruMerge as its paper tells it, one kept token after the other."""
    kept = scores[0].topk(keep - 1).indices.tolist()
    unit = keys[0] / keys[0].norm(dim=-1, keepdim=True)
    made = []
    for k in kept:
        others = [j for j in range(len(unit)) if j != k]
        near = sorted(others, key=lambda j: -float(unit[k] @ unit[j]))[:nearest]
        made.append(tokens[0, k] + sum(scores[0, j] * tokens[0, j] for j in near))
    rest = sum(scores[0, j] * tokens[0, j] for j in range(len(unit)) if j not in kept)
    return torch.stack([*made, rest])[None]


def test_pruning_merges_each_kept_token_with_its_nearest():
    tokens, keys, scores = torch.randn(1, 36, 7), torch.randn(1, 36, 7), torch.rand(1, 36).softmax(-1)
    expected = slowly(tokens, keys, scores, 6, 8)
    torch.testing.assert_close(prune_and_merge(tokens, keys, scores, 6, 0, 8), expected)


def test_prumerge_plus_takes_evenly_spaced_tokens_beside_the_best():
    tokens = torch.arange(100.0)[None, :, None].expand(1, 100, 3)
    scores = torch.full((1, 100), 1e-9)
    scores[0, [41, 42]] = 0.4
    # Everybody's nearest is token 7, which weighs nothing: a kept token stays what it is.
    keys = torch.eye(101)[1:] + 0.9 * torch.eye(101)[:1]
    keys[7] = torch.eye(101)[0]
    found = prune_and_merge(tokens, keys[None], scores, keep=9, spread=3, nearest=1)
    assert sorted(found[0, :-1, 0].round().tolist()) == [0, 19, 39, 41, 42, 59, 79, 99]


def test_a_pruning_tower_keeps_as_many_tokens_as_it_says():
    tower = PruMerge("vit_tiny_patch16_224", keep=10, nearest=4).eval()
    pixels = torch.randn(2, 3, 224, 224)
    assert tower(pixels).shape == (2, 10, 192)
    torch.testing.assert_close(tower(pixels)[:1], tower(pixels[:1]), atol=1e-4, rtol=1e-3)


def test_qwen2_vls_patches_are_those_of_its_processor():
    tower = Qwen2Vl(32, depth=1, embed_dim=16, num_heads=2).eval()
    image = torch.randint(0, 255, (3, 56, 56), dtype=torch.uint8)
    processor = Qwen2VLImageProcessor(do_resize=False)
    given = processor(images=[image], return_tensors="pt")
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (processor.image_mean, processor.image_std))
    pixels = ((image.float() / 255 - mean) / std)[None]
    theirs = tower.model(given["pixel_values"], grid_thw=given["image_grid_thw"]).pooler_output
    torch.testing.assert_close(tower(pixels)[0], theirs, atol=1e-4, rtol=1e-3)
    assert tower(pixels).shape == (1, 4, 32)


def test_stages_are_brought_to_one_side_and_joined():
    tower = MultiStage("convnext_atto", side=8)
    pixels = torch.randn(1, 3, 64, 64)
    maps = tower.trunk(pixels)
    found = tower(pixels)
    assert found.shape == (1, sum(m.shape[1] for m in maps), 8, 8)
    last = nn.functional.interpolate(maps[-1], (8, 8), mode="bilinear")
    torch.testing.assert_close(found[:, -maps[-1].shape[1] :], last)


def test_every_configured_connector_has_a_class_and_refuses_what_it_cannot_take():
    kinds = {yaml.safe_load((ROOT / "connector" / f"{name}.yaml").read_text())["kind"] for name in options("connector")}
    assert kinds == set(CONNECTORS)
    with pytest.raises(HarnessError, match="connector mine: a grid of 5 x 5 cannot be pooled by 2"):
        build_connector(Connector(name="mine", kind="average_pool", args={"shrink": 2}), [(25, 4)], 4)
    with pytest.raises(HarnessError, match=r"connector mine: .*unexpected keyword argument 'shrnk'"):
        build_connector(Connector(name="mine", kind="average_pool", args={"shrnk": 2}), [(16, 4)], 4)
    spec = Connector(name="s", kind="spatial_vision_aggregator", args={"grids": [4], "queries": 4})
    with pytest.raises(HarnessError, match=r"grids=\[4\]: one multiple of 2 is expected for each of 2"):
        build_connector(spec, [(16, 4), (4, 4)], 4)
