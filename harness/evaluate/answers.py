"""The answerer: one trained VLM and a suite -> one answer for each question. The only place that generates text.

An image is preprocessed and encoded once for all its questions, and the head that their prompts share (the template and
the image) is prefilled once: its KV cache is expanded over them. Prompts of one length are decoded together, so nothing
is padded and the batch changes no answer. The next images are decoded while the device computes; only the images and
caches of one batch are in memory. Exact repeats are asked once. Answers go to a journal as they come.

A blind run goes the same way with grey images. All of those that a model's own preprocessing makes alike are one image,
so that each distinct prompt is asked once, and what stands before it is computed once.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from harness.evaluate.baselines import GREY, priors
from harness.evaluate.journal import Journal
from harness.metrics import METRICS
from harness.models.answering import AnsweringModel, Images, Prefilled, Prepared
from harness.schema import Answer, HarnessError, InvalidOutput, Prior, Score, Suite, fingerprint, one_line
from harness.storage.intake import open_image
from harness.suites.questions import Question, load

ENCODE_BATCH = 16
DECODE_BATCH = 64
KV_CACHE_BYTES = 2 * 2**30
"""Bytes that the KV caches of a batch may take, or a tenth of a GPU's memory: a prefix of LLaVA-1.5-7B is 300 MB."""
FIRST = 2
"""Images of the first batches, before it is known what their caches take."""
PROMPTS = 1024
"""Prompts about one image that are made at once; more of them, as of a grey one, encode it again."""
IMAGE_DECODE_THREADS = 2
"""Threads that decode and resize the next images."""
VERSION = 2
"""Raised when the way of asking changes an answer; part of every journal key."""


@dataclass(frozen=True)
class Ask:
    """One thing to answer."""

    image: str
    """Key of its image, or of several."""
    text: str
    """What is asked, outside of any template."""
    ids: tuple[int, ...]
    """The whole prompt, the image as one placeholder."""
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


ImagesByKey = Mapping[str, Images]
"""What is asked about, by key; the keys of several images are joined by `+`."""

Waiting = tuple[Prefilled, str, int, list[int]]
"""A question whose head was prefilled: by what, its key, its row there, and the ids that are left."""


@torch.inference_mode()
def answer_suite(
    model: AnsweringModel,
    suite: Suite,
    tick: Callable[..., None] = lambda *_: None,
    journal: Path | None = None,
    reuse: bool = True,
    encode_batch: int = ENCODE_BATCH,
    decode_batch: int = DECODE_BATCH,
) -> Score:
    """Answer and score every question of `suite`, about its images or about grey ones in their place.

    `tick` is told what is done, and which share of it where that is known, as a sign of life; `reuse=False` encodes and
    prefills every question for itself, which must give the same answers.

    Raises `HarnessError` when a question has no answer: then there is no score, and the others are in the journal.
    """
    begin = time.perf_counter()
    with signs_of_life(partial(tick, f"{suite.name}: reading the questions")):
        questions = load(suite)
        known = priors_of(suite.model_dump_json())
        shown = greyed(model, questions.images) if suite.image == "grey" else {}
    engine = Engine(model, Greys(shown.values()) if shown else questions.images, reuse, encode_batch, decode_batch)
    asks = [
        engine.ask(shown.get(q.image, q.image), q.prompt, suite.max_new_tokens, suite.until) for q in questions.asked
    ]
    found = engine.answer(asks, journal, lambda done, total: tick(f"{suite.name} {done}/{total}", done / total))
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
        answers=tuple(grade(suite, q, text) for q, text in zip(questions.asked, found.texts, strict=True)),
        seconds=time.perf_counter() - begin,
        resumed=found.resumed,
        priors=known,
    )


@cache
def priors_of(suite: str) -> tuple[Prior, ...]:
    """What the questions of a suite (as JSON) score without a look; worked out once in a process."""
    asked = Suite.model_validate_json(suite)
    return priors(asked.metric, load(asked).asked)


def greyed(model: AnsweringModel, images: Mapping[str, Sequence[bytes]]) -> dict[str, str]:
    """For each image the name of the grey one in its place: of its size, or of the first size of which the model's own
    preprocessing makes the same pixels and as many visual tokens."""
    sizes = {key: "+".join(map(_size_of, stored)) for key, stored in images.items()}
    first: dict[str, str] = {}
    found: dict[str, str] = {}
    if len(names := list(dict.fromkeys(sizes.values()))) == 1:
        return sizes
    for name in names:
        found[name] = name
        try:
            prepared = model.prepare(grey_image(name), ["grey"])
        except HarnessError:  # the questions about it will say why
            continue
        digest = hashlib.sha256(repr(model.batch_key(prepared)).encode())
        for tensor in (*prepared.image.values(), *prepared.prompts[0].values()):
            digest.update(repr((tensor.shape, tensor.dtype)).encode())
            digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
        found[name] = first.setdefault(digest.hexdigest(), name)
    return {key: found[size] for key, size in sizes.items()}


def _size_of(stored: bytes) -> str:
    """The name of the grey image of an image's size."""
    with open_image(stored) as image:
        return f"grey-{image.width}x{image.height}"


class Greys(Mapping[str, tuple[bytes, ...]]):
    """Grey images by their names, made when they are asked for."""

    def __init__(self, names: Iterable[str]):
        self._names = dict.fromkeys(names)

    def __getitem__(self, name: str) -> tuple[bytes, ...]:
        return grey_image(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def grey_image(name: str) -> tuple[bytes, ...]:
    """One or several grey images by their names, as PNG: they are decoded and resized like any other."""
    found = []
    for one in name.split("+"):
        width, height = map(int, one.removeprefix("grey-").split("x"))
        Image.new("RGB", (width, height), (GREY, GREY, GREY)).save(out := io.BytesIO(), "PNG", compress_level=1)
        found.append(out.getvalue())
    return tuple(found)


def grade(suite: Suite, question: Question, text: str) -> Answer:
    """An answer with its score, or with what those need who judge it."""
    about = {"question_id": question.question_id, "image": question.image, "kind": question.kind, "text": text}
    if suite.submission:
        return Answer(**about, parsed=None, score=None, facts=dict(question.facts))
    score, parsed, chance = METRICS[suite.metric](text, question.answers, **question.facts)
    return Answer(**about, parsed=parsed, score=score, chance=chance)


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
        model: AnsweringModel,
        images: ImagesByKey,
        reuse: bool = True,
        encode_batch: int = ENCODE_BATCH,
        decode_batch: int = DECODE_BATCH,
    ):
        """The other parameters are those of `answer_suite`."""
        self.model, self.images, self.reuse = model, images, reuse
        self.encode_batch, self.decode_batch = encode_batch, decode_batch
        self._identity = fingerprint([VERSION, model.identity])
        self._cache = KV_CACHE_BYTES
        if model.device.type == "cuda":
            self._cache = max(KV_CACHE_BYTES, torch.cuda.get_device_properties(model.device).total_memory // 10)
        self._row_bytes = 0
        """Bytes of one row of the last KV cache; unknown before the first."""

    def ask(self, image: str, text: str, max_new_tokens: int, until: tuple[str, ...] = ()) -> Ask:
        """A prompt about an image."""
        return Ask(image, text, self.model.prompt(text, image.count("+") + 1), max_new_tokens, until)

    def key(self, ask: Ask) -> str:
        """Names everything that decides an answer; batch size and device do not."""
        return fingerprint([self._identity, ask.image, ask.ids, ask.max_new_tokens, ask.until])

    def answer(
        self, asks: Sequence[Ask], journal: Path | None = None, tick: Callable[[int, int], None] = lambda *_: None
    ) -> Answered:
        """Answer what the journal has no answer to, exact repeats once; `tick` is told how many of all have one."""
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
                tick(done, total)
            texts = tuple(book.known.get(key, "") for key in keys)
        return Answered(texts, tuple(failed.get(key, "") for key in keys), resumed)

    def run(self, asked: Mapping[str, Ask]) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
        """Answers and faults by key, as they come."""
        for waiting, faults in self._prefilled(asked):
            size = self._fitting(self.decode_batch)
            for (start, _, most), group in self._by_length(asked, waiting).items():
                for first in range(0, len(group), size):
                    chosen = group[first : first + size]
                    texts = self._generate(start, chosen, most)
                    yield {k: cut(text, asked[k].until) for (k, _, _), text in zip(chosen, texts, strict=True)}, {}
            if faults:
                yield {}, faults

    def scores(self, asked: Mapping[str, Ask], said: Mapping[str, list[int]]) -> dict[str, tuple[float, bool]]:
        """By key: the log-likelihood of the ids `said[key]` as an answer, and whether they are the greedy one."""
        found: dict[str, tuple[float, bool]] = {}
        for waiting, faults in self._prefilled(asked):
            if faults:
                raise HarnessError(next(iter(faults.values())))
            for start, key, row, rest in waiting:
                count = len(said[key])
                prefilled = start.select(torch.tensor([row], device=self.model.device))
                ids = torch.tensor([[*rest, *said[key]]], device=self.model.device)
                logits = self.model.extend(ids, prefilled, count + 1)[0]
                if not rest:  # the head's own logits are those of the first id
                    logits = torch.cat([prefilled.logits, logits[-count:]])
                likely = logits[-count - 1 : -1].float().log_softmax(-1)
                total = likely.gather(1, ids[0, -count:, None]).sum().item()
                if math.isnan(total):
                    raise InvalidOutput("the logits are not finite: what such a model answers is not a result")
                found[key] = (total, bool((likely.argmax(-1) == ids[0, -count:]).all()))
        return found

    def _prefilled(self, asked: Mapping[str, Ask]) -> Iterator[tuple[list[Waiting], dict[str, str]]]:
        """For each batch of images what is left to do after their heads were prefilled, and faults."""
        by_image: dict[str, list[str]] = defaultdict(list)
        for key, ask in asked.items():
            by_image[ask.image if self.reuse else key].append(key)
        groups = (keys[first : first + PROMPTS] for keys in by_image.values() for first in range(0, len(keys), PROMPTS))
        with ThreadPoolExecutor(IMAGE_DECODE_THREADS) as pool:

            def prepare() -> list[tuple[list[str], Future[Prepared]]]:
                batch = itertools.islice(groups, self._fitting(self.encode_batch if self.reuse else 1))
                return [(keys, pool.submit(self._prepare, [asked[key] for key in keys])) for keys in batch]

            ahead = prepare()
            while ahead:
                ready, ahead = ahead, prepare()
                rows: list[tuple[list[str], Prepared]] = []
                faults: dict[str, str] = {}
                for keys, future in ready:
                    try:
                        rows.append((keys, future.result()))
                    except HarnessError as error:
                        faults |= dict.fromkeys(keys, str(error))
                for together in self._together(rows):
                    left = {key for keys, _ in together for key in keys}
                    try:
                        for waiting in self._prefill(together):
                            left -= {key for _, key, _, _ in waiting}
                            yield waiting, {}
                    except ValueError as error:  # transformers' word for an input that does not fit a model
                        yield [], dict.fromkeys(left, one_line(error, 200))
                if faults:
                    yield [], faults

    def _fitting(self, most: int) -> int:
        """How many rows the caches may have: few until the first has shown what one takes."""
        return max(1, min(most, self._cache // self._row_bytes if self._row_bytes else FIRST))

    def _prepare(self, asks: Sequence[Ask]) -> Prepared:
        return self.model.prepare(self.images[asks[0].image], [ask.text for ask in asks])

    def _together(self, rows: Sequence[tuple[list[str], Prepared]]) -> list[list[tuple[list[str], Prepared]]]:
        """Images that can be encoded as a batch: alike, and each with one head of one length for all its prompts."""
        found: dict[Hashable, list[tuple[list[str], Prepared]]] = defaultdict(list)
        for number, (keys, prepared) in enumerate(rows):
            sizes = [self.model.prefix_length(prompt) for prompt in prepared.prompts]
            heads = {
                tuple(prompt["input_ids"][0, :size].tolist())
                for prompt, size in zip(prepared.prompts, sizes, strict=True)
            }
            alone = number if len(heads) > 1 else -1
            found[alone, sizes[0], self.model.batch_key(prepared)].append((keys, prepared))
        return list(found.values())

    def _prefill(self, rows: Sequence[tuple[list[str], Prepared]]) -> Iterator[list[Waiting]]:
        """Encode a batch of images; prefill what stands before each of them, and it. Where each prompt about an image
        has a head of its own, some prompts at a time."""
        model = self.model
        images = [prepared for _, prepared in rows]
        encoded = model.encode(images)
        prefilled: dict[Any, Prefilled] = {}
        waiting: list[Waiting] = []
        for row, (keys, prepared) in enumerate(rows):
            for key, prompt in zip(keys, prepared.prompts, strict=True):
                size = model.prefix_length(prompt)
                ids = prompt["input_ids"][0].tolist()
                head = tuple(ids[:size]) if len(rows) == 1 else None  # one for all, unless an image is alone with more
                if head not in prefilled:
                    if len(prefilled) >= self._fitting(self.encode_batch):
                        yield waiting
                        prefilled, waiting = {}, []
                    prompts = [prompt] if head else [one.prompts[0] for one in images]
                    prefilled[head] = model.begin(images, prompts, encoded)
                    self._row_bytes = prefilled[head].row_bytes
                waiting.append((prefilled[head], key, row, ids[size:]))
        yield waiting

    def _by_length(
        self, asked: Mapping[str, Ask], waiting: Sequence[Waiting]
    ) -> dict[tuple[Prefilled, int, int], list[tuple[str, int, list[int]]]]:
        """(Key, row, ids) of what can be decoded together: by prefill, ids that are left, and tokens asked for."""
        found = defaultdict(list)
        for start, key, row, rest in waiting:
            found[start, len(rest), asked[key].max_new_tokens].append((key, row, rest))
        return found

    def _generate(self, start: Prefilled, chosen: Sequence[tuple[str, int, list[int]]], most: int) -> list[str]:
        """Greedy answers to prompts of one length that go on from rows of one prefill."""
        model = self.model
        prefilled = start.select(torch.tensor([row for _, row, _ in chosen], device=model.device))
        rest = torch.tensor([ids for _, _, ids in chosen], device=model.device)
        logits = model.extend(rest, prefilled)[:, -1] if rest.numel() else prefilled.logits
        done = torch.zeros(len(chosen), dtype=torch.bool, device=model.device)
        finite = torch.ones((), dtype=torch.bool, device=model.device)
        ends = torch.tensor(sorted(model.eos_ids), device=model.device)
        produced: list[Tensor] = []
        while True:
            best, token = logits.max(-1)
            finite &= torch.isfinite(best).all()  # a NaN among them is the largest
            done |= torch.isin(token, ends)
            produced.append(token.masked_fill(done, int(ends[0])))
            if len(produced) >= most or bool(done.all()):
                break
            logits = model.extend(token[:, None], prefilled)[:, -1]
        if not finite:
            raise InvalidOutput("the logits are not finite: what such a model answers is not a result")
        said = torch.stack(produced, 1).tolist()
        return [model.detokenize([token for token in ids if token not in model.eos_ids]) for ids in said]


def cut(text: str, until: Sequence[str]) -> str:
    """The text before the first of `until`."""
    for end in until:
        text = text.partition(end)[0] if end else text
    return text
