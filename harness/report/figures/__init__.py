"""The pictures of a report: one file each, in the order of its `ORDER`; an installed package may offer more.

A module of this folder has `figures(report)`, which yields a `canvas.Figure` for each picture that it has numbers for.
"""

from __future__ import annotations

from pathlib import Path

from harness.registry import ordered
from harness.report.canvas import Gallery, Picture
from harness.report.content import Report


def draw_figures(report: Report, folder: Path) -> list[Picture]:
    """Every picture that the report has numbers for, in files of its own."""
    gallery = Gallery(folder)
    for module in ordered("report.figures", "figures"):
        for figure in module.figures(report):
            gallery.add(figure)
    return gallery.pictures
