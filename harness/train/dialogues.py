"""Questions and answers as tokens, and their loss: several questions about an image in one sequence."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from harness.models.llms import splice
from harness.models.tokenizer import ANSWER, BOS, EOS
from harness.train.pool import Row

IGNORED = -100


class Dialogues:
    """What is asked about some scenes, in the reference family's way (see `harness.models.vlm`)."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        self.begin, ask, end = tokenizer.convert_tokens_to_ids([BOS, ANSWER, EOS])

        @cache
        def tokens(question: str, answer: str) -> tuple[list[int], list[int]]:
            asked = [*tokenizer.encode(question, add_special_tokens=False), ask]
            said = [*tokenizer.encode(answer, add_special_tokens=False), end]
            return [*asked, *said[:-1]], [IGNORED] * (len(asked) - 1) + said

        self.tokens = tokens
        """Question, answer -> ids, and the token that must follow each of them (`IGNORED` outside the answer)."""

    def draw(self, rows: Sequence[Row], rng: np.random.Generator, questions: int) -> tuple[Tensor, Tensor]:
        """`questions` questions of each scene, with repetition where it has fewer: ids and targets (B, Q, T)."""
        chosen = []
        for row in rows:
            count = len(row.questions)
            order = rng.permuted(np.arange(max(questions, count)) % count)[:questions]
            chosen.append([self.tokens(*row.questions[k][:2]) for k in order])
        return self.stack(chosen)

    def stack(self, chosen: list[list[tuple[list[int], list[int]]]]) -> tuple[Tensor, Tensor]:
        """Tokens of as many questions for each scene, filled up at their ends."""
        length = max(len(ids) for each in chosen for ids, _ in each)
        ids = torch.zeros(len(chosen), len(chosen[0]), length, dtype=torch.long)
        target = torch.full(ids.shape, IGNORED)
        for i, each in enumerate(chosen):
            for j, (given, wanted) in enumerate(each):
                ids[i, j, : len(given)] = torch.tensor(given)
                target[i, j, : len(wanted)] = torch.tensor(wanted)
        return ids, target


def shared_prefix_mask(prefix: int, questions: int, length: int, device: torch.device | None = None) -> Tensor:
    """Attention mask (1, 1, L, L), true where allowed: causal, and no question sees another one."""
    block = torch.cat([torch.zeros(prefix, dtype=torch.long), torch.arange(1, questions + 1).repeat_interleave(length)])
    allowed = (block[None, :] == 0) | (block[None, :] == block[:, None])
    return (allowed & torch.ones(len(block), len(block)).tril().bool())[None, None].to(device)


def answer(llm: PreTrainedModel, begin: int, visual: Tensor, ids: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens in the LLM's width (B, N, W), questions with answers (B, Q, T) -> cross-entropy, and (B, Q) whether the
    whole answer is right."""
    batch, questions, length = ids.shape
    embeddings = splice(llm, torch.full((batch, 1), begin, device=ids.device), visual, ids.flatten(1))
    prefix = 1 + visual.shape[1]
    position = torch.cat([torch.arange(prefix), torch.arange(prefix, prefix + length).repeat(questions)])
    hidden = llm.model(
        inputs_embeds=embeddings,
        attention_mask=shared_prefix_mask(prefix, questions, length, ids.device),
        position_ids=position[None].expand(batch, -1).to(ids.device),
        use_cache=False,
    ).last_hidden_state[:, prefix:]
    flat = target.flatten(1)
    asked = flat != IGNORED
    logits = llm.lm_head(hidden[asked])
    right = torch.ones_like(target, dtype=torch.bool)
    right.flatten(1)[asked] = logits.argmax(-1) == flat[asked]
    return F.cross_entropy(logits, flat[asked]), right.all(-1)
