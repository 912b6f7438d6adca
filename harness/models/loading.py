"""Trained VLMs, ready to be asked or timed; refused if their weights were replaced since a sweep was planned."""

from __future__ import annotations

import torch

from harness.models.answering import AnsweringModel, Composed
from harness.models.hub import HubVlm, folder_of_hub, hash_hub, load_hub
from harness.models.vlm import Vlm, folder_of, hash_checkpoint, load_vlm, move
from harness.schema import Encoder, Execution, HarnessError, HubModel, Point


def load_trained(checkpoint: str, weights: str, encoder: Encoder, execution: Execution) -> Vlm:
    """A checkpoint on its device and in its precision."""
    folder = folder_of(checkpoint)
    if (found := hash_checkpoint(folder)) != weights:
        raise HarnessError(f"{checkpoint} was replaced since the sweep began ({weights} -> {found})")
    vlm = load_vlm(folder, execution.attention, own=encoder)
    return move(vlm, execution.device, getattr(torch, execution.dtype))


def load_hub_model(model: HubModel, weights: str, execution: Execution) -> HubVlm:
    """A hub model on its device and in its precision."""
    folder = folder_of_hub(model.path, model.revision)
    if (found := hash_hub(folder)) != weights:
        raise HarnessError(f"{model.path} was replaced since the sweep began ({weights} -> {found})")
    dtype = getattr(torch, execution.dtype)
    return load_hub(folder, model.override, execution.attention, execution.device, dtype, weights)


def load_point(point: Point) -> AnsweringModel:
    """A point's VLM, ready to be asked."""
    if isinstance(point.model, HubModel):
        return load_hub_model(point.model, point.weights, point.language)
    vlm = load_trained(point.checkpoint, point.weights, point.model.encoder, point.language)
    vlm.encoder.prepare(point.resolution)
    return Composed(vlm, point.resolution, point.weights)
