"""The Q-Former of BLIP-2, MiniGPT-4 and InstructBLIP, by transformers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from harness.models.connectors import CONNECTORS, Inputs


@CONNECTORS.register("qformer")
class QFormer(nn.Module):
    """Learned queries attend to the visual tokens in every second of twelve layers; a linear map to the LLM follows.

    BLIP-2 (arXiv 2301.12597); InstructBLIP (arXiv 2305.06500) puts the question's tokens beside the queries
    (`instruction`: how many; their values decide no latency).
    """

    def __init__(self, inputs: Inputs, width: int, queries: int = 32, instruction: int = 0, layers: int = 12):
        super().__init__()
        features = inputs[0][1]
        self.norm = nn.LayerNorm(features)
        self.instruction = instruction
        config = Blip2QFormerConfig(
            encoder_hidden_size=features, num_hidden_layers=layers, use_qformer_text_input=bool(instruction)
        )
        self.former = Blip2QFormerModel(config)
        self.queries = nn.Parameter(torch.randn(1, queries, config.hidden_size))
        if instruction:
            self.words = nn.Embedding(config.vocab_size + 1, config.hidden_size)
            self.places = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.proj = nn.Linear(config.hidden_size, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Visual tokens (B, N, features) -> (B, queries, width)."""
        count = self.queries.shape[1]
        asked: Tensor = self.queries
        if self.instruction:
            places = torch.arange(self.instruction, device=tokens.device)
            asked = torch.cat([asked, (self.words(places + 1) + self.places(places))[None]], dim=1)
        asked = asked.expand(len(tokens), -1, -1)
        found = self.former(query_embeds=asked, query_length=count, encoder_hidden_states=self.norm(tokens))
        projected: Tensor = self.proj(found.last_hidden_state[:, :count])
        return projected
