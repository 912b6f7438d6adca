"""What the words of the page mean."""

from __future__ import annotations

from harness.report.content import Report
from harness.report.sections import Section

ORDER = 100


def section(report: Report) -> Section:
    """The same on every page."""
    note = (
        "**ttft_paper**: encode + prefill over the visual tokens alone (the definition of FastVLM's paper). "
        "**ttft_model**: encode + project + fuse (layers within the LLM that attend to visual features) + prefill over "
        "visual and text tokens. **ttft_user**: preprocess to the first token's id, the device awaited after every "
        "stage. **ttft_fused**: the same without waiting in between. **Composed**: the encoder, the connector and the "
        "LLM were each measured once in every block and shared by all points that have them; a point's time in a block "
        "is the sum of their medians. **Of limit**: the least time that the stage's operations and bytes need at the "
        "ceilings (matrix product, copy) of the same process, as a share of the measured time. **n/a**: too few "
        "independent samples for that percentile."
    )
    return Section("Words", note)
