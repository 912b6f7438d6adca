"""The stages of a pass, and the sums of them that go by a name."""

from __future__ import annotations

STAGES = ("preprocess", "tokenize", "transfer", "encode", "handover", "project", "fuse", "prefill", "sample")
"""Stages of a staged pass in their order; see `harness.timing.bench` for what each covers."""

TTFTS = {
    "ttft_paper": ("encode", "prefill_visual"),
    "ttft_model": ("encode", "handover", "project", "fuse", "prefill"),
    "ttft_user": STAGES,
}
"""The sums of stages that go by a name; `ttft_fused` is measured, not summed."""
