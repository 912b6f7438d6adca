"""Which points nothing beats: the frontier of (seconds, accuracy). Pure."""

from __future__ import annotations

from collections.abc import Sequence

import moocore
import numpy as np


def on_frontier(seconds: Sequence[float], accuracy: Sequence[float]) -> list[bool]:
    """For each point: no other one is at least as fast and as accurate, and better in one of the two.

    Equal points are on the frontier together. Values must be finite.
    """
    if len(seconds) != len(accuracy):
        raise ValueError(f"{len(seconds)} times and {len(accuracy)} accuracies")
    if not seconds:
        return []
    points = np.column_stack([np.asarray(seconds, float), np.asarray(accuracy, float)])
    if not np.isfinite(points).all():
        raise ValueError("a point without a finite time and accuracy cannot be compared")
    return [bool(x) for x in moocore.is_nondominated(points, maximise=[False, True], keep_weakly=True)]
