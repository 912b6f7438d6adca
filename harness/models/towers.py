"""Vision towers that timm has not, each a class that an encoder's YAML names as its `target`.

All map pixels (B, 3, R, R) to visual tokens (B, N, features) or a map (B, features, H, W).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import timm
import torch
from torch import Tensor, nn
from transformers import ConvNextConfig, ConvNextModel
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel
from transformers.vision_utils import get_vision_position_ids


class ConvNext(nn.Module):
    """transformers' ConvNeXt, with as many stages as one likes (ConvLLaVA has five); timm's has four."""

    def __init__(self, depths: Sequence[int], widths: Sequence[int]):
        super().__init__()
        config = ConvNextConfig(num_stages=len(depths), depths=list(depths), hidden_sizes=list(widths))
        self.model = ConvNextModel(config)
        self.model.layernorm = nn.Identity()  # normalises the pooled feature, which nobody asks for

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, R, R) -> (B, last width, R / stride, R / stride)."""
        features: Tensor = self.model.encoder(self.model.embeddings(pixels)).last_hidden_state
        return features


class MultiStage(nn.Module):
    """The maps of all stages of a timm backbone, brought to one side and put one behind the other.

    Cambrian-1 takes its ConvNeXt-XXL so (clip_convnext_encoder.py): 384 + 768 + 1536 + 3072 channels at 96 x 96.
    """

    def __init__(self, timm_name: str, side: int):
        super().__init__()
        self.trunk = timm.create_model(timm_name, pretrained=False, features_only=True)
        self.side = side

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, R, R) -> (B, sum of the stages' channels, side, side)."""
        size = (self.side, self.side)
        maps = [nn.functional.interpolate(m, size, mode="bilinear", align_corners=False) for m in self.trunk(pixels)]
        return torch.cat(maps, dim=1)


class Qwen2Vl(nn.Module):
    """Qwen2-VL's tower at any multiple of 28 px, with the merger of 2 x 2 patches to the LLM's width; transformers'."""

    def __init__(self, width: int, **config: Any):
        super().__init__()
        self.config = Qwen2VLVisionConfig(hidden_size=width, **config)
        self.model = Qwen2VisionTransformerPretrainedModel(self.config)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, R, R) -> (B, (R / 28)^2, width); an image is two equal frames, as its processor makes it."""
        config, batch = self.config, len(pixels)
        merge, patch, frames = config.spatial_merge_size, config.patch_size, config.temporal_patch_size
        side = pixels.shape[-1] // patch
        cut = pixels.reshape(batch, 3, side // merge, merge, patch, side // merge, merge, patch)
        # Patches in the order of the processor: squares that the merger joins lie one behind the other.
        ordered = cut.permute(0, 2, 5, 3, 6, 1, 4, 7)[:, :, :, :, :, :, None].expand(
            -1, -1, -1, -1, -1, -1, frames, -1, -1
        )
        patches = ordered.reshape(batch * side**2, -1)
        # On `meta`, where work is counted, the grid must still have numbers.
        grid = torch.tensor([[1, side, side]] * batch, device="cpu" if pixels.is_meta else pixels.device)
        places = get_vision_position_ids(grid, merge).to(pixels.device)
        merged: Tensor = self.model(patches, grid_thw=grid, position_ids=places).pooler_output
        return merged.reshape(batch, -1, merged.shape[-1])


class PruMerge(nn.Module):
    """A CLIP ViT that keeps the tokens its class token looks at, each merged with its nearest ones.

    LLaVA-PruMerge (arXiv 2403.15388, clip_encoder.py, `token_prune_merge_advanced`): queries and keys of the last block
    score the patches of the block before it; each kept one adds its 32 nearest by key, weighted by their scores, and
    one more token gathers the rest. How many are kept follows from outliers there; here the number is given, because
    random weights have none worth counting, and the loop over kept tokens, with its copy to the host, is one product.
    `spread`: so many evenly spaced tokens for each that is kept for its score (3 in PruMerge+).
    """

    def __init__(self, timm_name: str, keep: int, spread: int = 0, nearest: int = 32):
        super().__init__()
        self.trunk = timm.create_model(timm_name, pretrained=False, num_classes=0)
        self.keep, self.spread, self.nearest = keep, spread, nearest
        self._seen: dict[str, Tensor] = {}
        last = self.trunk.blocks[-1]
        last.register_forward_pre_hook(lambda _, given: self._seen.update(hidden=given[0]))
        last.attn.qkv.register_forward_hook(lambda _, given, out: self._seen.update(qkv=out))

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, R, R) -> (B, keep, width)."""
        self.trunk.forward_features(pixels)
        hidden, (query, key, _) = self._seen["hidden"], self._seen["qkv"].chunk(3, dim=-1)
        self._seen.clear()
        scores = (query[:, :1] @ key.transpose(1, 2) * key.shape[-1] ** -0.5).softmax(-1)[:, 0, 1:]
        return prune_and_merge(hidden[:, 1:], key[:, 1:], scores, self.keep, self.spread, self.nearest)


def prune_and_merge(tokens: Tensor, keys: Tensor, scores: Tensor, keep: int, spread: int, nearest: int) -> Tensor:
    """Tokens and keys (B, N, C) with scores (B, N) -> (B, keep, C); see `PruMerge`."""
    count = keep - 1
    wish = scores
    if spread:
        best = torch.zeros_like(scores).scatter(1, scores.topk(count // (1 + spread)).indices, 4.0)
        even = torch.linspace(0, scores.shape[1] - 1, count - count // (1 + spread), device=scores.device).long()
        wish = scores + best + torch.zeros_like(scores).index_fill(1, even, 2.0)
    kept = wish.topk(count).indices
    unit = nn.functional.normalize(keys, dim=-1)
    chosen = unit.gather(1, kept[..., None].expand(-1, -1, keys.shape[-1]))
    near = (chosen @ unit.transpose(1, 2)).scatter(2, kept[..., None], -torch.inf)  # not itself
    clusters = near.topk(nearest, dim=2).indices
    own = scores[:, None].expand(-1, count, -1).gather(2, clusters)
    weights = torch.zeros_like(near).scatter(2, clusters, own)
    merged = weights @ tokens + tokens.gather(1, kept[..., None].expand(-1, -1, tokens.shape[-1]))
    rest = scores.scatter(1, kept, 0.0)[:, None] @ tokens
    return torch.cat([merged, rest], dim=1)
