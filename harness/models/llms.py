"""LLMs: any transformers causal language model, from its configuration, with random weights."""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from harness.schema import HarnessError, Llm


def build_llm(
    spec: Llm, attention: str = "sdpa", device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """`spec` with random weights on `device` (`meta` allocates nothing), with `attention` as implementation."""
    try:
        config = AutoConfig.for_model(spec.architecture, **spec.config)
    except (ValueError, KeyError) as error:
        raise HarnessError(f"llm {spec.name}: transformers has no architecture {spec.architecture!r}") from error
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=dtype)
    return model.eval()
