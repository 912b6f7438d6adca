"""The answerer: one trained VLM and a suite -> one answer for each question. The only place that generates text.

An image is preprocessed and encoded once for all its questions, and what their prompts share (the template and the
image) is prefilled once: its KV cache is expanded over them. Prompts of one length are decoded together, so nothing is
padded and the batch changes no answer. The next images are decoded while the device computes; only the images and
caches of one batch are in memory. Exact repeats are asked once. Answers go to a journal as they come.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from transformers import DynamicCache

from harness.journal import Journal
from harness.metrics import METRICS
from harness.models.preprocess import pixel_tensor
from harness.models.vlm import Vlm
from harness.schema import Answer, HarnessError, Score, Suite, fingerprint
from harness.suites.questions import Question, load

ENCODE_BATCH = 16
DECODE_BATCH = 64
DECODERS = 2
"""Threads that decode and resize the next images."""
VERSION = 1
"""Raised when the way of asking changes an answer; part of every journal key."""


@dataclass(frozen=True)
class Ask:
    """One thing to answer, its prompt as token ids."""

    image: str
    """Key of its image."""
    before: tuple[int, ...]
    """Ids before the image."""
    after: tuple[int, ...]
    max_new_tokens: int
    until: tuple[str, ...] = ()
    """An answer ends before the first of these."""


@dataclass(frozen=True)
class Answered:
    """What became of a list of asks, in its order."""

    texts: tuple[str, ...]
    """Empty where there is a fault."""
    faults: tuple[str, ...]
    """Why there is no answer; empty where there is one."""
    resumed: int
    """How many answers the journal of an earlier run had."""


Images = Mapping[str, bytes | Image.Image]
"""Images by their keys: as they are stored, or decoded."""


@torch.inference_mode()
def answer_suite(
    vlm: Vlm,
    suite: Suite,
    resolution: int,
    tick: Callable[[str], None] = lambda _: None,
    weights: str = "",
    journal: Path | None = None,
    reuse: bool = True,
    encode_batch: int = ENCODE_BATCH,
    decode_batch: int = DECODE_BATCH,
) -> Score:
    """Answer and score every question of `suite`.

    `weights` names the VLM's weights in the journal's keys; `tick` is told how far it is, as a sign of life;
    `reuse=False` encodes and prefills every question for itself, which must give the same answers.

    Raises `HarnessError` when a question has no answer: then there is no score, and the others are in the journal.
    """
    begin = time.perf_counter()
    with signs_of_life(partial(tick, f"{suite.name}: reading the questions")):
        questions = load(suite)
    engine = Engine(vlm, resolution, questions.images, weights, reuse, encode_batch, decode_batch)
    asks = [engine.ask(q.image, q.prompt, suite.max_new_tokens, suite.until) for q in questions.asked]
    found = engine.answer(asks, journal, lambda share: tick(f"{suite.name} {share}"))
    if failed := [(question, fault) for question, fault in zip(questions.asked, found.faults, strict=True) if fault]:
        first, fault = failed[0]
        raise HarnessError(
            f"{len(failed)} of {len(asks)} questions have no answer, so there is no score; the first is "
            f"{first.question_id} (image {first.image}): {fault}"
        )
    return Score(
        suite=suite.name,
        metric=suite.metric,
        data=questions.fingerprint,
        revision=questions.revision,
        answers=tuple(judged(suite, q, text) for q, text in zip(questions.asked, found.texts, strict=True)),
        seconds=time.perf_counter() - begin,
        resumed=found.resumed,
    )


def judged(suite: Suite, question: Question, text: str) -> Answer:
    """An answer with its score."""
    score, parsed = METRICS[suite.metric](text, question.answers, **question.facts)
    return Answer(
        question_id=question.question_id,
        image=question.image,
        kind=question.kind,
        text=text,
        parsed=parsed,
        score=score,
    )


@contextmanager
def signs_of_life(tick: Callable[[], None], seconds: float = 10.0) -> Iterator[None]:
    """Call `tick` now and then from a thread of its own, while something that cannot call it goes on."""
    over = threading.Event()

    def sign() -> None:
        while not over.wait(seconds):
            tick()

    thread = threading.Thread(target=sign, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class Engine:
    """Answers what is asked, some images at a time."""

    def __init__(
        self,
        vlm: Vlm,
        resolution: int,
        images: Images,
        weights: str = "",
        reuse: bool = True,
        encode_batch: int = ENCODE_BATCH,
        decode_batch: int = DECODE_BATCH,
    ):
        """The other parameters are those of `answer_suite`."""
        self.vlm, self.resolution, self.images, self.reuse = vlm, resolution, images, reuse
        self.encode_batch, self.decode_batch = encode_batch, decode_batch
        first = next(vlm.parameters())
        self.device, self.dtype = first.device, first.dtype
        attention, spec = vlm.llm.config._attn_implementation, vlm.spec.model_dump(mode="json")
        self._identity = fingerprint([VERSION, weights, spec, str(self.dtype), attention, resolution])

    def ask(self, image: str, prompt: str, max_new_tokens: int, until: tuple[str, ...] = ()) -> Ask:
        """A prompt about an image, tokenized once."""
        before, after = self.vlm.question_ids(prompt)
        return Ask(image, tuple(before), tuple(after), max_new_tokens, until)

    def key(self, ask: Ask) -> str:
        """Names everything that decides an answer; batch size and device do not."""
        return fingerprint([self._identity, ask.image, ask.before, ask.after, ask.max_new_tokens, ask.until])

    def answer(
        self, asks: Sequence[Ask], journal: Path | None = None, tick: Callable[[str], None] = lambda _: None
    ) -> Answered:
        """Answer what the journal has no answer to, exact repeats once; `tick` is told how far it is, as `3/12`."""
        keys = [self.key(ask) for ask in asks]
        failed: dict[str, str] = {}
        with Journal(journal) as book:
            todo = {key: ask for key, ask in zip(keys, asks, strict=True) if key not in book.known}
            total = len(set(keys))
            resumed = done = total - len(todo)
            for answers, faults in self.run(todo):
                book.add(answers)
                failed |= faults
                done += len(answers) + len(faults)
                tick(f"{done}/{total}")
            texts = tuple(book.known.get(key, "") for key in keys)
        return Answered(texts, tuple(failed.get(key, "") for key in keys), resumed)

    def run(self, asked: Mapping[str, Ask]) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
        """Answers and faults by key, after each batch of images."""
        for batch, prefixes, faults in self._prefixes(asked):
            answers: dict[str, str] = {}
            for (_, _, most), pairs in self._alike(asked, batch).items():
                for start in range(0, len(pairs), self.decode_batch):
                    chosen = pairs[start : start + self.decode_batch]
                    after, cache = self._suffix(asked, chosen, prefixes)
                    for (_, key), text in zip(chosen, generate(self.vlm, after, cache, most), strict=True):
                        answers[key] = cut(text, asked[key].until)
            yield answers, faults

    def scores(self, asked: Mapping[str, Ask], said: Mapping[str, list[int]]) -> dict[str, tuple[float, bool]]:
        """By key: the log-likelihood of the ids `said[key]` as an answer, and whether they are the greedy one."""
        found: dict[str, tuple[float, bool]] = {}
        for batch, prefixes, faults in self._prefixes(asked):
            if faults:
                raise HarnessError(next(iter(faults.values())))
            for row, keys in enumerate(batch):
                for key in keys:
                    after, cache = self._suffix(asked, [(row, key)], prefixes, said[key])
                    out = self.vlm.llm(input_ids=after, past_key_values=cache, use_cache=True)
                    logits = out.logits[0, -len(said[key]) - 1 : -1].float().log_softmax(-1)
                    ids = torch.tensor(said[key], device=self.device)
                    likely = logits.gather(1, ids[:, None]).sum().item()
                    found[key] = (likely, bool((logits.argmax(-1) == ids).all()))
        return found

    def _prefixes(
        self, asked: Mapping[str, Ask]
    ) -> Iterator[tuple[list[list[str]], dict[tuple[int, ...], DynamicCache], dict[str, str]]]:
        """For each batch of images: the keys about each, by template the KV caches of what they share, and faults."""
        by_image: dict[str, list[str]] = defaultdict(list)
        for key, ask in asked.items():
            by_image[ask.image if self.reuse else key].append(key)
        groups = list(by_image.values())
        step = self.encode_batch if self.reuse else 1
        batches = [groups[start : start + step] for start in range(0, len(groups), step)]
        with ThreadPoolExecutor(DECODERS) as pool:

            def prepare(number: int) -> list[Future[Tensor]]:
                if number >= len(batches):
                    return []
                return [pool.submit(self._pixels, asked[keys[0]].image) for keys in batches[number]]

            ahead = prepare(0)
            for number, batch in enumerate(batches):
                ready, ahead = ahead, prepare(number + 1)
                rows: list[list[str]] = []
                pixels: list[Tensor] = []
                faults: dict[str, str] = {}
                for keys, future in zip(batch, ready, strict=True):
                    try:
                        pixels.append(future.result())
                        rows.append(keys)
                    except HarnessError as error:
                        faults |= dict.fromkeys(keys, str(error))
                yield rows, self._prefill(asked, rows, pixels) if rows else {}, faults

    def _pixels(self, key: str) -> Tensor:
        return pixel_tensor(self.images[key], self.vlm.spec.encoder, self.resolution)

    def _prefill(
        self, asked: Mapping[str, Ask], rows: Sequence[Sequence[str]], pixels: Sequence[Tensor]
    ) -> dict[tuple[int, ...], DynamicCache]:
        """Encode a batch of images; prefill what stands before each of them, and it."""
        vlm = self.vlm
        visual = vlm.project(vlm.encode(torch.cat([*pixels]).to(self.device, self.dtype)))
        heads = {asked[key].before for keys in rows for key in keys}
        caches = {}
        for head in heads:  # one for all, unless a template puts something of the question before the image
            before = torch.tensor([head], device=self.device).expand(len(rows), -1)
            _, caches[head] = vlm.prefill(vlm.prompt(visual, before, before[:, :0]))
        return caches

    def _alike(
        self, asked: Mapping[str, Ask], rows: Sequence[Sequence[str]]
    ) -> dict[tuple[tuple[int, ...], int, int], list[tuple[int, str]]]:
        """(Row, key) of what can be decoded together: by template, length after the image, and tokens asked for."""
        found = defaultdict(list)
        for row, keys in enumerate(rows):
            for key in keys:
                ask = asked[key]
                found[ask.before, len(ask.after), ask.max_new_tokens].append((row, key))
        return found

    def _suffix(
        self,
        asked: Mapping[str, Ask],
        chosen: Sequence[tuple[int, str]],
        prefixes: Mapping[tuple[int, ...], DynamicCache],
        said: Sequence[int] = (),
    ) -> tuple[Tensor, DynamicCache]:
        """Ids after the image, and the expanded cache of what stands before them."""
        after = torch.tensor([[*asked[key].after, *said] for _, key in chosen], device=self.device)
        rows = torch.tensor([row for row, _ in chosen], device=self.device)
        return after, expand(prefixes[asked[chosen[0][1]].before], rows)


def cut(text: str, until: Sequence[str]) -> str:
    """The text before the first of `until`."""
    for end in until:
        text = text.partition(end)[0] if end else text
    return text


def expand(cache: DynamicCache, rows: Tensor) -> DynamicCache:
    """A new cache whose row i is row `rows[i]` of `cache`."""
    made = DynamicCache()
    for number, layer in enumerate(cache.layers):
        made.update(layer.keys[rows], layer.values[rows], number)
    return made


def generate(vlm: Vlm, after: Tensor, cache: DynamicCache, max_new_tokens: int) -> list[str]:
    """Greedy answers to prompts of one length: ids (B, T) after a prefix whose cache (B rows) grows."""
    logits = vlm.decode(after, cache)
    done = torch.zeros(len(after), dtype=torch.bool, device=after.device)
    produced = []
    for step in range(max_new_tokens):
        token = logits.argmax(-1)
        done |= token == vlm.end
        produced.append(token.masked_fill(done, vlm.end))
        if bool(done.all()) or step + 1 == max_new_tokens:
            break
        logits = vlm.decode(token[:, None], cache)
    ids = torch.stack(produced, 1).tolist()
    return [str(vlm.text().decode([t for t in row if t != vlm.end], skip_special_tokens=True)) for row in ids]
