"""Fusions: layers between those of an LLM that attend to visual features; one file and one registered class each.

`Fusion.memory` names the shape of what they attend to. A fusion is timed on its own (stage `fuse`); in a whole VLM its
layers run where they belong, within the LLM's prefill.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from harness.registry import Registered
from harness.schema import Fusion, HarnessError

FUSIONS: Registered[Callable[..., nn.Module]] = Registered("models.fusions")
"""Classes `(width, memory channels, **args) -> module` by `kind`."""


class Fused(nn.Module):
    """All layers of a fusion; `attach` puts them between the layers of an LLM."""

    def __init__(self, spec: Fusion, width: int):
        super().__init__()
        kind = FUSIONS[spec.kind]
        self.spec = spec
        try:
            layers = [kind(width, spec.memory[2], **spec.args) for _ in range(spec.count)]
        except (TypeError, ValueError) as error:
            raise HarnessError(f"fusion {spec.name}: {error}") from error
        self.layers = nn.ModuleList(layers)
        self.memory: Tensor | None = None
        self.places = slice(0, 0)

    def forward(self, hidden: Tensor, memory: Tensor) -> Tensor:
        """Hidden states (1, T, width) through all layers one after the other; `memory` has `Fusion.memory`'s shape."""
        for layer in self.layers:
            hidden = self._fuse(layer, hidden, memory)
        return hidden

    def _fuse(self, layer: nn.Module, hidden: Tensor, memory: Tensor) -> Tensor:
        """Rows of the memory belong to all positions, or each to its own."""
        if not self.spec.in_sequence:
            fused: Tensor = layer(hidden, memory)
            return fused
        return layer(hidden.transpose(0, 1), memory).transpose(0, 1)  # type: ignore[no-any-return]

    def attach(self, llm: PreTrainedModel) -> None:
        """Run each layer before the one of `llm` that the specification names."""
        decoder = llm.get_decoder()
        blocks = getattr(decoder, "layers", None) or decoder.blocks
        spec = self.spec
        if spec.first + (spec.count - 1) * spec.every >= len(blocks):
            raise HarnessError(f"fusion {spec.name}: an LLM of {len(blocks)} layers has no place for {spec.count} more")
        for number, layer in enumerate(self.layers):
            blocks[spec.first + number * spec.every].register_forward_pre_hook(self._before(layer), with_kwargs=True)

    def _before(self, layer: nn.Module) -> Callable[..., Any]:
        def hook(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
            hidden = given[0]
            if self.memory is None:
                return None
            if not self.spec.in_sequence:
                return (self._fuse(layer, hidden, self.memory), *given[1:]), named
            if hidden.shape[1] < self.places.stop:  # a token that is decoded: no visual one
                return None
            seen = self._fuse(layer, hidden[:, self.places], self.memory)
            parts = [hidden[:, : self.places.start], seen, hidden[:, self.places.stop :]]
            return (torch.cat(parts, dim=1), *given[1:]), named

        return hook
