"""What the reference family learns from, on a handful of scenes: targets, questions, what is told without an image."""

import random

import numpy as np
import pytest
import torch

from harness.models.tokenizer import build_tokenizer
from harness.models.vlm import load_vlm
from harness.suites import embedded
from harness.suites.scenes import generator
from harness.train import language
from harness.train import print as dense
from harness.train.dialogues import IGNORED, Dialogues, answer, shared_prefix_mask
from harness.train.letters import Reader
from harness.train.pages import Page
from harness.train.pool import Row, labels, open_pool, open_rows

COUNTS = {"doc_read": 6, "scene_text": 6, "shapes": 4}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def pool(cache):
    return open_pool(COUNTS, "train", (64, 128), cache, 1)


def test_pool_holds_every_train_scene_with_its_items_and_questions(pool):
    assert len(pool) == 16
    assert pool.images[128].shape == (16, 128, 128, 3)
    expected = sorted(
        tuple((q.text, q.answer, q.kind) for q in embedded.DRAW[suite](generator(suite, "train", k)).questions)
        for suite, count in COUNTS.items()
        for k in range(count)
    )
    assert sorted(tuple(map(tuple, row.questions)) for row in pool.rows) == expected
    targets = pool.targets
    there = targets.place[..., 0] >= 0
    assert ((targets.label >= 0) ^ (targets.digits[..., 0] >= 0))[there].all()  # a word or a number, never both
    assert (targets.label[~there] == -1).all()
    assert targets.label.max() < len(labels())


def test_pool_is_drawn_once(pool, cache):
    again = open_pool(COUNTS, "train", (64, 128), cache, 1)
    np.testing.assert_array_equal(again.images[64], pool.images[64])
    assert len(list(cache.glob("pool-*"))) == 1


def test_a_shifted_page_shifts_its_places(pool):
    page = Page.draw(pool, np.random.default_rng(0), 8, 128, torch.device("cpu"))
    assert page.pixels.shape == (8, 128, 128, 3)
    assert page.place.shape == (8, 12, 2)
    straight = Page.of(pool, np.arange(16), 128, torch.device("cpu"))
    moved = Page.of(pool, np.arange(16), 128, torch.device("cpu"), (3, -2))
    assert torch.equal(moved.pixels[:, 10:90, 20:90], straight.pixels[:, 12:92, 17:87])
    known = straight.place[..., 0] >= 0
    gone = (moved.place - straight.place)[known] * 128
    torch.testing.assert_close(gone, torch.tensor([3.0, -2.0]).expand_as(gone), atol=1e-4, rtol=0)
    assert (moved.place[~known] == -1).all()


def test_print_pictures_name_their_characters(cache):
    pixels, marks = dense.draw(0)
    assert pixels.shape == (dense.SIDE, dense.SIDE, 3)
    assert len(marks) > 5
    assert all(sign in dense.CHARACTERS and 0 < x < 1 and 0 < y < 1 for sign, x, y in marks)
    pool = dense.open_print_pool(3, "train", cache, 1)
    np.testing.assert_array_equal(pool.images[0], pixels)
    assert (pool.character[0] >= 0).sum() == len(marks)


def test_reader_looks_at_the_token_that_holds_the_place():
    reader = Reader(4, 2)
    tokens = torch.randn(1, 9, 4, requires_grad=True)
    reader(tokens, torch.tensor([[[0.9, 0.4]]])).sum().backward()  # third column, second row of 3 x 3
    assert tokens.grad.abs().sum(-1).nonzero().tolist() == [[0, 5]]


def test_shared_prefix_mask_hides_questions_from_one_another():
    mask = shared_prefix_mask(2, 2, 2)[0, 0].int().tolist()
    assert mask == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 0, 0, 1, 1],
    ]


def test_questions_in_one_sequence_have_the_loss_that_they_have_alone(pool, vlm_folder):
    vlm = load_vlm(vlm_folder)
    dialogues = Dialogues(vlm.tokenizer)
    ids, target = dialogues.draw([pool.rows[k] for k in (1, 5)], np.random.default_rng(0), 3)
    visual = torch.randn(2, 4, vlm.llm.config.hidden_size)
    with torch.no_grad():
        together, _ = answer(vlm.llm, dialogues.begin, visual, ids, target)
        total, tokens = 0.0, 0
        for b in range(2):
            for q in range(3):
                one = ids[b : b + 1, q : q + 1], target[b : b + 1, q : q + 1]
                alone, _ = answer(vlm.llm, dialogues.begin, visual[b : b + 1], *one)
                count = int((target[b, q] != IGNORED).sum())
                total, tokens = total + float(alone) * count, tokens + count
    assert float(together) == pytest.approx(total / tokens, rel=1e-5)


def test_targets_are_the_answer_and_the_end(pool, vlm_folder):
    vlm = load_vlm(vlm_folder)
    dialogues = Dialogues(vlm.tokenizer)
    assert [dialogues.begin] == vlm.question_ids("")[0]
    for row in pool.rows:
        for question, said, _ in row.questions:
            ids, target = dialogues.tokens(question, said)
            answered = [token for token in target if token != IGNORED]
            assert answered[-1] == vlm.end
            assert vlm.tokenizer.decode(answered[:-1]) == said
            asked = vlm.question_ids(question)[1]
            assert ids == [*asked, *answered[:-1]]
            assert len(target) == len(ids)


def test_every_question_of_a_scene_is_drawn_before_one_comes_again(pool, vlm_folder):
    dialogues = Dialogues(load_vlm(vlm_folder).tokenizer)
    for row in pool.rows:
        ids, target = dialogues.draw([row], np.random.default_rng(1), 6)
        assert ids.shape == target.shape
        assert len({tuple(each) for each in ids[0].tolist()}) == min(6, len(row.questions))


def things(row):
    """What stands on a scene, without its words: which of its items and contexts are the same."""
    words = [word for _, _, label, context in row.items for word in (label, *context)]
    return [(x, y) for x, y, _, _ in row.items], [words.index(word) for word in words]


def test_a_scene_told_anew_has_other_words_and_true_answers(cache):
    rows = open_rows({"doc_read": 20, "scene_text": 20, "shapes": 20}, "train", cache, 1)
    rng, changed = random.Random(0), 0
    for row in rows:
        new = language.told_anew(row, rng)
        assert things(new)[0] == things(row)[0]
        assert [kind for _, _, kind in new.questions] == [kind for _, _, kind in row.questions]
        changed += new.items != row.items
        found = {label: context for _, _, label, context in new.items}
        for question, said, kind in new.questions:
            asked = question.removesuffix("?").split()
            if kind in ("word field", "number field"):
                assert [said, [asked[-1]]] in [[label, context] for _, _, label, context in new.items]
            elif kind == "by colour":
                assert found[said] == [asked[-2]]
            elif kind == "existence":
                assert (said == "yes") == (" ".join(asked[-2:]) in found)
    assert changed > 55


def test_a_teller_says_what_stands_in_a_cell_and_nothing_elsewhere():
    tokenizer = build_tokenizer(embedded.words())
    items = [(0.1, 0.1, "tax", []), (0.6, 0.1, "48", ["tax"])]
    telling = language.Telling.of([Row("doc_read", items, []), Row("doc_read", items[:1], [])], tokenizer)
    tax, *number = tokenizer.encode("tax 48", add_special_tokens=False)
    assert telling.ids[0, :2].tolist() == [[tax, *[-1] * 6], [-1, -1, *number, -1, tax, -1]]
    torch.manual_seed(0)
    teller = language.Teller(8, 0.1).eval()
    told = teller(torch.nn.Embedding(len(tokenizer), 8), telling, 4)
    assert told.shape == (2, 16, 8)
    assert (told != teller.ground).any(-1).nonzero().tolist() == [[0, 0], [0, 2], [1, 0]]
    assert torch.equal(told[0, 0], told[1, 0])
    listed = teller(torch.nn.Embedding(len(tokenizer), 8), telling, language.LIST)
    assert (listed != teller.ground).any(-1).nonzero().tolist() == [[0, 0], [0, 1], [1, 0]]


def test_what_is_told_can_be_learned(cache, vlm_folder):
    """A handful of scenes by heart, in some seconds."""
    vlm = load_vlm(vlm_folder)
    rows = open_rows({"doc_read": 4}, "train", cache, 1)
    torch.manual_seed(0)
    told, dialogues = language.Told(vlm.llm), Dialogues(vlm.tokenizer)
    optimiser = torch.optim.AdamW(told.parameters(), 0.01)
    losses = []
    for step in range(60):
        ids, target = dialogues.draw(rows, np.random.default_rng(step), 4)
        loss, _ = told(dialogues.begin, language.Telling.of(rows, vlm.tokenizer), ids, target, 6)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    shares = language.right_by_kind(told.eval(), vlm.tokenizer, rows, 6, torch.device("cpu"))
    assert set(shares) <= {"held_out_word_field", "held_out_number_field", "held_out_table"}
    assert all(0 <= share <= 1 for share in shares.values())
