"""LLMs: any transformers causal language model, from its configuration, with random weights."""

from __future__ import annotations

import functools
import inspect

import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, DynamicCache, PreTrainedModel

from harness.schema import HarnessError, Llm


def build_llm(
    spec: Llm, attention: str = "sdpa", device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """`spec` with random weights on `device` (`meta` allocates nothing), with `attention` as implementation."""
    if spec.architecture not in CONFIG_MAPPING:
        raise HarnessError(f"llm {spec.name}: transformers has no architecture {spec.architecture!r}")
    try:
        config = AutoConfig.for_model(spec.architecture, **spec.config)
    except Exception as error:  # each configuration class has checks, and errors, of its own
        raise HarnessError(f"llm {spec.name}: its configuration: {error}") from error
    try:
        with torch.device(device):
            model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=dtype)
    except ValueError as error:
        why = str(error).partition(". ")[0]
        raise HarnessError(f"llm {spec.name}, attention={attention}: {why}; another one: attention=eager") from error
    return model.eval()


def splice(llm: PreTrainedModel, before: Tensor, visual: Tensor, after: Tensor) -> Tensor:
    """Visual tokens (B, N, W) between text ids (B, T0) and (B, T1) -> embeddings (B, T0 + N + T1, W)."""
    embed = llm.get_input_embeddings()
    return torch.cat([embed(before), visual, embed(after)], dim=1)


def prefill(llm: PreTrainedModel, embeddings: Tensor) -> tuple[Tensor, DynamicCache]:
    """Embeddings (B, L, W) -> logits of the last position (B, vocabulary) and the KV cache."""
    cache = DynamicCache(config=llm.config)
    out = llm(inputs_embeds=embeddings, **{cache_name(llm.__class__): cache}, use_cache=True, logits_to_keep=1)
    return out.logits[:, -1], cache


@functools.cache
def cache_name(kind: type[PreTrainedModel]) -> str:
    """What a class of models calls its KV cache: `past_key_values` up to transformers 5.23, `cache` later, where the
    old name costs a warning. Looked up once for each class: it is asked within timed passes."""
    takes = inspect.signature(kind.forward).parameters
    return "past_key_values" if "past_key_values" in takes else "cache"
