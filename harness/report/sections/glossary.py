"""What the terms on the page mean."""

from __future__ import annotations

from harness.report.content import Report
from harness.report.sections import Section

ORDER = 100


def section(report: Report) -> Section:
    """The same on every page."""
    note = (
        "**ttft_paper**: encode + prefill over the visual tokens alone (the definition of FastVLM's paper). "
        "**ttft_model**: encode + project + fuse (layers within the LLM that attend to visual features) + prefill over "
        "visual and text tokens. **ttft_user**: from preprocessing to the id of the first token, waiting for the "
        "device after every stage. **ttft_fused**: the same without waiting in between. **Composed**: each encoder, "
        "connector and LLM was measured once in every block and is shared by all points that use it; a point's time in "
        "a block is the sum of its components' medians. **Share of roofline**: the least time in which the stage's "
        "operations and bytes could be processed at the ceilings (matrix product, copy) of the same process, as a "
        "share of the measured time. **n/a**: too few independent samples for that percentile."
    )
    return Section("Glossary", note)
