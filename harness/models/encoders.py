"""Vision encoders: any timm backbone, or any class, as a function from pixels to a sequence of visual tokens."""

from __future__ import annotations

import difflib
import importlib
import re
from typing import Any

import timm
import torch
from timm.layers import resample_abs_pos_embed
from timm.utils import reparameterize_model
from torch import Tensor, nn

from harness.schema import Encoder, HarnessError


class VisionEncoder(nn.Module):
    """A backbone whose last features, before any pooling, are the visual tokens."""

    def __init__(self, spec: Encoder, training_form: bool = False):
        """Build `spec` with random weights.

        FastViT-type backbones exist in two forms: branches with batch norm for training, and one convolution per
        branch for inference. Latency means the second; `training_form=True` gives the first.
        """
        super().__init__()
        args = {key: tuple(value) if isinstance(value, list) else value for key, value in spec.args.items()}
        if spec.timm.startswith("fastvit") and not training_form:
            args["inference_mode"] = True
        self.spec = spec
        self._position: Tensor | None = None
        self._grid: tuple[int, int] = (0, 0)
        self.backbone: Any
        if spec.target:
            self.backbone = _call(spec, args)
            return
        if not timm.is_model(spec.timm):
            near = difflib.get_close_matches(spec.timm, timm.list_models(), n=3)
            raise HarnessError(f"encoder {spec.name}: timm has no model {spec.timm!r}; near names: {', '.join(near)}")
        self.backbone = timm.create_model(spec.timm, pretrained=False, num_classes=0, **args)
        if args.get("inference_mode"):
            _keep_signal(self.backbone)

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (B, 3, R, R) -> visual tokens (B, N, features), row by row; N is (R / stride)^2 unless the
        encoder leaves another number."""
        if self.spec.crop:
            side = pixels.shape[-1] // self.spec.stride * self.spec.stride
            pixels = pixels[..., :side, :side]
        features: Tensor = self.backbone(pixels) if self.spec.target else self.backbone.forward_features(pixels)
        if features.dim() == 4:  # a convolutional map (B, C, H, W)
            return features.flatten(2).transpose(1, 2)
        if self.spec.target:
            return features
        prefix = int(getattr(self.backbone, "num_prefix_tokens", 0))  # a ViT's class and register tokens
        return features[:, prefix:]

    def prepare(self, resolution: int) -> None:
        """Fit a ViT's position embedding to `resolution` once; otherwise timm resizes it again for each image."""
        if getattr(self.backbone, "dynamic_img_size", False):
            if self._position is None:
                embedding = self.backbone.pos_embed.detach().float()
                self._position = embedding.clone() if embedding.is_meta else embedding.cpu().clone()
                self._grid = self.backbone.patch_embed.grid_size
            side = resolution // self.spec.stride
            fitted = resample_abs_pos_embed(
                self._position,
                new_size=[side, side],
                old_size=list(self._grid),
                num_prefix_tokens=self.backbone.num_prefix_tokens,
            )
            self.backbone.pos_embed = nn.Parameter(fitted.to(self.backbone.pos_embed), requires_grad=False)
            self.backbone.patch_embed.grid_size = (side, side)

    def fuse(self) -> None:
        """Turn the training form into the inference form, with the same outputs in evaluation mode."""
        if self.spec.target:
            return
        self.backbone = reparameterize_model(self.backbone.eval())


TARGET = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def _call(spec: Encoder, args: dict[str, Any]) -> nn.Module:
    """The module of a class `package.module:Class`, which is looked at before it is called: importing it runs code, so
    it is the user's own configuration that names it, never a file (`harness.models.vlm.read_spec`)."""
    where = f"encoder {spec.name}: target={spec.target}"
    if not TARGET.fullmatch(spec.target):
        raise HarnessError(f"{where}: package.module:Class is expected")
    module, _, name = spec.target.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
        if not (isinstance(found, type) and issubclass(found, nn.Module)):
            raise HarnessError(f"{where}: not a subclass of torch.nn.Module")
        return found(**args)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise HarnessError(f"{where}: {error}") from error


def _keep_signal(backbone: nn.Module) -> None:
    """Random weights through which an image still reaches the output.

    timm's initial weights are made for batch norms, which the inference form has not: the signal would die out within
    a few blocks (1e-9 at the output of FastViTHD), and no check could tell one image's output from another's.
    """
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)


def build_encoder(spec: Encoder, training_form: bool = False, device: str | torch.device = "cpu") -> VisionEncoder:
    """`spec` with random weights, made on `device` (`meta` allocates nothing)."""
    with torch.device(device):
        return VisionEncoder(spec, training_form)
