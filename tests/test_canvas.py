"""What pictures share: labels that do not collide, names that do not, and both files of each."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from harness.report.canvas import STYLE, Figure, Gallery, annotate


@pytest.fixture
def canvas():
    with plt.rc_context(STYLE):
        made = plt.figure(figsize=(6.6, 4.6))
        made.suptitle("title")
        yield made
        plt.close(made)


def boxes(canvas, axes):
    canvas.draw_without_rendering()
    return [text.get_window_extent() for text in axes.texts]


@pytest.mark.parametrize("count", [2, 40])
def test_labels_do_not_cover_each_other(canvas, count):
    axes = canvas.add_subplot()
    places = [(str(100 + k), 1 + k % 7 / 50, 1 + k // 7 / 50) for k in range(count)]
    axes.plot([0, 2], [0, 2])
    annotate(axes, places, [(x, y) for _, x, y in places])
    found = boxes(canvas, axes)
    assert 1 <= len(found) <= count
    for k, one in enumerate(found):
        assert not one.count_overlaps(found[k + 1 :])


def test_a_picture_is_named_once_even_if_a_suite_is_called_like_another(tmp_path):
    gallery = Gallery(tmp_path)
    for name in ("frontier-user", "frontier-user", "Frontier-User"):
        gallery.add(Figure(name, name, "c", lambda canvas: canvas.add_subplot(), pd.DataFrame(), 2.0))
    assert len({picture.stem.casefold() for picture in gallery.pictures}) == 3
    assert len(list(tmp_path.glob("*.png"))) == 3
