"""The answerer: one trained VLM and a suite -> one answer for each question. The only place that generates text.

An image is preprocessed and encoded once for all its questions. Questions with prompts of one length are decoded
together, so nothing is padded and the batch changes no answer.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor

from harness.models.preprocess import pixel_tensor
from harness.models.vlm import Vlm
from harness.schema import Answer, Score, Suite
from harness.suites.embedded import Asked, data_fingerprint, load
from harness.suites.metrics import METRICS

ENCODE_BATCH = 16
DECODE_BATCH = 64


@torch.inference_mode()
def answer_suite(vlm: Vlm, suite: Suite, resolution: int, tick: Callable[[], None] = lambda: None) -> Score:
    """Answer and score every question of `suite`; `tick` is called now and then as a sign of life."""
    begin = time.perf_counter()
    questions = load(suite)
    device, dtype = next(vlm.parameters()).device, next(vlm.parameters()).dtype
    images = {question.image: question.encoded for question in questions}
    names = list(images)
    visual: dict[str, Tensor] = {}
    for start in range(0, len(names), ENCODE_BATCH):
        batch = names[start : start + ENCODE_BATCH]
        pixels = torch.cat([pixel_tensor(images[name], vlm.spec.encoder, resolution) for name in batch])
        tokens = vlm.project(vlm.encode(pixels.to(device, dtype)))
        visual.update(zip(batch, tokens, strict=True))
        tick()
    prompts = [vlm.question_ids(question.question) for question in questions]
    by_length: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, (before, after) in enumerate(prompts):
        by_length[len(before), len(after)].append(index)
    texts = [""] * len(questions)
    for indices in by_length.values():
        for start in range(0, len(indices), DECODE_BATCH):
            chosen = indices[start : start + DECODE_BATCH]
            tokens = torch.stack([visual[questions[i].image] for i in chosen])
            first, second = (torch.tensor([prompts[i][side] for i in chosen], device=device) for side in (0, 1))
            for i, text in zip(chosen, generate(vlm, tokens, first, second, suite.max_new_tokens), strict=True):
                texts[i] = text
            tick()
    answers = tuple(_scored(suite, question, text) for question, text in zip(questions, texts, strict=True))
    return Score(
        suite=suite.name,
        metric=suite.metric,
        data=data_fingerprint(suite),
        answers=answers,
        seconds=time.perf_counter() - begin,
    )


def generate(vlm: Vlm, visual: Tensor, before: Tensor, after: Tensor, max_new_tokens: int) -> list[str]:
    """Greedy answers to prompts of one length: visual (B, N, W), ids before (B, T0) and after (B, T1) the image."""
    logits, cache = vlm.prefill(vlm.prompt(visual, before, after))
    done = torch.zeros(len(visual), dtype=torch.bool, device=visual.device)
    produced = []
    for step in range(max_new_tokens):
        token = logits.argmax(-1)
        done |= token == vlm.end
        produced.append(token.masked_fill(done, vlm.end))
        if bool(done.all()) or step + 1 == max_new_tokens:
            break
        logits = vlm.decode(token[:, None], cache)
    ids = torch.stack(produced, 1).tolist()
    return [str(vlm.text().decode([t for t in row if t != vlm.end], skip_special_tokens=True)) for row in ids]


def _scored(suite: Suite, question: Asked, text: str) -> Answer:
    score = METRICS[suite.metric](text, question.answers)
    return Answer(question_id=question.question_id, image=question.image, kind=question.kind, text=text, score=score)
