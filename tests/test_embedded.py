import hashlib
import io
from collections import Counter

import pytest
from PIL import Image

from harness.suites import embedded
from harness.suites.questions import load
from harness.suites.scenes import SOURCE, generator
from harness.suites.tasks import load_suite

SUITES = tuple(embedded.DRAW)


@pytest.mark.parametrize("name", SUITES)
def test_a_suite_has_200_questions_and_several_an_image(name):
    asked = load(load_suite(name)).asked
    assert len(asked) >= 200
    assert len({a.question_id for a in asked}) == len(asked)
    per_image = Counter(a.image for a in asked)
    assert min(per_image.values()) >= 1
    assert len(asked) / len(per_image) > 3


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("doc_read", {"questionId", "question", "question_types", "image", "docId", "answers"}),
        ("scene_text", {"image_id", "question_id", "question", "image", "image_classes", "answers"}),
        ("shapes", {"id", "imageId", "question", "answer", "groups", "image"}),
    ],
)
def test_rows_have_the_columns_of_the_benchmark(name, columns):
    row = next(embedded.rows(name, 1))
    assert set(row) == columns
    with Image.open(io.BytesIO(row["image"]["bytes"])) as image:
        assert image.size == (SOURCE, SOURCE)
        assert min(image.size) > 256  # larger than any resolution of the default sweep


def test_scene_text_has_ten_references_of_which_most_agree():
    for row in embedded.rows("scene_text", 30):
        assert len(row["answers"]) == 10
        assert Counter(row["answers"]).most_common(1)[0][1] >= 7


@pytest.mark.parametrize("name", SUITES)
def test_drawing_is_deterministic_and_training_never_sees_a_test_image(name):
    def digest(split, index):
        return hashlib.sha256(embedded.DRAW[name](generator(name, split, index)).image.tobytes()).hexdigest()

    assert digest("test", 0) == digest("test", 0)
    tests = {digest("test", k) for k in range(80)}
    assert len(tests) == 80
    assert not tests & {digest("train", k) for k in range(200)}


@pytest.mark.parametrize("name", SUITES)
def test_items_lie_on_the_canvas_and_questions_are_lower_case(name):
    for index in range(40):
        scene = embedded.DRAW[name](generator(name, "test", index))
        assert scene.items
        assert all(0 < item.x < 1 and 0 < item.y < 1 for item in scene.items)
        assert all(q.text == q.text.lower() and q.answer == q.answer.lower() for q in scene.questions)


def test_every_question_and_answer_is_made_of_known_words_or_numbers():
    known = set(embedded.words())
    for name in SUITES:
        for asked in load(load_suite(name, 40)).asked:
            words = [*asked.prompt.rstrip("?").split(), *asked.answers]
            assert all(word in known or word.isdigit() for word in words), words
