import hashlib
import io
from collections import Counter

import pytest
from PIL import Image, ImageDraw

from harness.suites import embedded
from harness.suites.questions import load
from harness.suites.scenes import CLEAR, SOURCE, generator
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
        assert min(image.size) >= 2 * 384  # twice the largest resolution of the default sweep


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


@pytest.fixture
def marks(monkeypatch):
    """What is drawn: (kind, pen, box of its ink in the pen's pixels), in the order of drawing."""
    found = []

    def watch(cls, name, box_of):
        plain = getattr(cls, name)

        def watched(self, xy, *args, **kwargs):
            found.append((name, self, box_of(self, xy, *args, **kwargs)))
            return plain(self, xy, *args, **kwargs)

        monkeypatch.setattr(cls, name, watched)

    def ink(pen, xy, text, font, fill, anchor):
        return pen.textbbox(xy, text, font=font, anchor=anchor)

    watch(ImageDraw.ImageDraw, "text", ink)
    for name in ("rectangle", "line", "rounded_rectangle"):
        watch(ImageDraw.ImageDraw, name, lambda pen, xy, *args, **kwargs: tuple(xy))
    watch(Image.Image, "paste", lambda image, plate, at, mask: (*at, at[0] + plate.width, at[1] + plate.height))
    return found


def inside(box, frame, clear):
    return all(box[k] - frame[k] >= clear and frame[k + 2] - box[k + 2] >= clear for k in (0, 1))


def apart(one, other, clear):
    return any(one[k + 2] + clear <= other[k] or other[k + 2] + clear <= one[k] for k in (0, 1))


def pairs(boxes):
    return ((one, other) for k, one in enumerate(boxes) for other in boxes[:k])


def test_print_of_a_page_touches_no_edge_frame_rule_or_other_print(marks):
    kinds = Counter()
    for index in range(400):
        marks.clear()
        scene = embedded.DRAW["doc_read"](generator("doc_read", "test", index))
        texts = [box for kind, _, box in marks if kind == "text"]
        assert len(texts) == len(scene.items)
        frame = next((box for kind, _, box in marks if kind == "rectangle"), (0, 0, SOURCE, SOURCE))
        assert all(inside(box, frame, CLEAR) for box in texts), index
        rules = [box for kind, _, box in marks if kind == "line"]
        assert all(apart(box, rule, CLEAR) for box in texts for rule in rules), index
        assert all(apart(one, other, CLEAR) for one, other in pairs(texts)), index
        kinds[(frame[0] > 0, bool(rules))] += 1
    assert len(kinds) == 4  # with and without a frame, with and without a rule


def test_print_of_a_sign_stays_on_it_and_signs_stay_apart(marks):
    for index in range(400):
        marks.clear()
        scene = embedded.DRAW["scene_text"](generator("scene_text", "test", index))
        plates = {id(pen): box for kind, pen, box in marks if kind == "rounded_rectangle"}
        texts = [(pen, box) for kind, pen, box in marks if kind == "text"]
        assert len(texts) == len(scene.items)
        assert all(inside(box, plates[id(pen)], 2) for pen, box in texts), index
        signs = [box for kind, _, box in marks if kind == "paste"]
        assert all(inside(box, (0, 0, SOURCE, SOURCE), CLEAR) for box in signs), index
        assert all(apart(one, other, CLEAR) for one, other in pairs(signs)), index


def test_whether_a_shape_exists_is_told_by_no_prior():
    said, by_colour = Counter(), {}
    for index in range(2000):
        scene = embedded.DRAW["shapes"](generator("shapes", "prior", index))
        boxes = [(i.x - i.width / 2, i.y - i.width / 2, i.x + i.width / 2, i.y + i.width / 2) for i in scene.items]
        assert all(apart(one, other, 0) and inside(one, (0, 0, 1, 1), 0) for one, other in pairs(boxes))
        things = [tuple(item.label.split()) for item in scene.items]
        (question,) = (q for q in scene.questions if q.kind == "existence")
        colour, shape = question.text.removesuffix("?").split()[-2:]
        assert ((colour, shape) in things) == (question.answer == "yes")
        assert colour in [c for c, _ in things]  # each is there, whatever the answer
        assert shape in [s for _, s in things]
        said[question.answer] += 1
        by_colour.setdefault((colour, len(things)), Counter())[question.answer] += 1
    assert abs(said["yes"] / said.total() - 0.5) < 0.04
    assert sum(max(counts.values()) for counts in by_colour.values()) / said.total() < 0.56
