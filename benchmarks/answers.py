"""How much faster is the answer engine? `python benchmarks/answers.py [--images N] [--smoke]`

The same questions go to the same checkpoint (LLaVA's architecture, random weights, in the hub's own format) through
lm-eval's `hf-multimodal`, one by one and in batches, and through our engine behind the same lm-eval interface, in turns
in one process. Two sets: GQA's shape (30 questions an image) and DocVQA's (4 an image); answers have a token or a few,
as they do there. Printed are both times and whether the answers are the same; how our time grows with the questions of
an image; and how far the engine is from the floor: one encode an image, one prefill of its prefix, the decode steps.
"""

from __future__ import annotations

import argparse
import io
import logging
import random
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from checkpoints import llava
from lm_eval.api.instance import Instance
from lm_eval.models.hf_vlms import HFMultimodalLM
from PIL import Image

from harness.lm_evaluation import MARK, HarnessLM

VISION = {
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "image_size": 224,
}
TEXT = {
    "vocab_size": 1000,
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}
"""256 visual tokens; one encode and one prefill take about as long as each other, as in LLaVA-1.5."""
SHAPES = {"GQA": (30, 3), "DocVQA": (4, 6)}
"""Questions an image, tokens an answer."""
STEPS = (1, 2, 4, 8, 16, 32)
"""Questions an image where it is shown how time grows with them."""
BATCHES = (1, 8, 32)
"""Batch sizes of `hf-multimodal`; the faster one counts."""
THINGS = ["cat", "dog", "table", "chair", "window", "street", "person", "car", "tree", "sign", "bag", "ball", "cup"]
TAIL = "\nAnswer the question using a single word or phrase."


def questions(count: int, rng: random.Random) -> list[str]:
    """So many different questions."""
    found: dict[str, None] = {}
    while len(found) < count:
        one, other = rng.sample(THINGS, 2)
        side = rng.choice(("left", "right", "top", "front", "back"))
        found[f"Is the {one} to the {side} of the {other} or is it near the {rng.choice(THINGS)}?{TAIL}"] = None
    return list(found)


def photograph(rng: random.Random) -> bytes:
    """A picture of 640 x 480, as JPEG: what decoding costs is part of the job."""
    tile = Image.frombytes("RGB", (32, 24), rng.randbytes(32 * 24 * 3)).resize((640, 480), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    tile.save(file, "JPEG", quality=90)
    return file.getvalue()


def requests(pictures: list[bytes], each: int, tokens: int, context: Callable[[str], str]) -> list[Instance]:
    """The requests that lm-eval would make, questions of one image apart from each other, as datasets have them."""
    rng = random.Random(1)
    made = []
    for number, question in enumerate(q for stored in pictures for q in questions(each, rng)):
        picture = Image.open(io.BytesIO(pictures[number // each])).convert("RGB")
        arguments = {"until": [], "do_sample": False, "max_gen_toks": tokens}
        made.append(Instance("generate_until", {}, (context(question), arguments, {"visual": [picture]}), number))
    rng.shuffle(made)
    return made


@contextmanager
def timed(model: Any, spent: dict[str, float]) -> Iterator[None]:
    """Add up what the model's own calls take."""
    names = ("encode", "begin", "extend")
    own = {name: getattr(model, name) for name in names}

    def wrap(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            try:
                return own[name](*args, **kwargs)
            finally:
                spent[name] += time.perf_counter() - begin

        return call

    for name in names:
        setattr(model, name, wrap(name))
    try:
        yield
    finally:
        for name in names:
            delattr(model, name)


def seconds(work: Callable[..., list[str]], *given: Any, **more: Any) -> tuple[float, list[str]]:
    """How long it took, and what it said."""
    begin = time.perf_counter()
    said = work(*given, **more)
    return time.perf_counter() - begin, said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--images", type=int, default=2, help="images of GQA's shape; DocVQA's has six times (default 2)"
    )
    parser.add_argument("--smoke", action="store_true", help="the same in seconds: does it run, not what is true")
    arguments = parser.parse_args()
    count, shapes, text, vision = arguments.images, SHAPES, TEXT, VISION
    steps: tuple[int, ...] = STEPS
    if arguments.smoke:
        torch.set_num_threads(1)
        count, shapes, steps = 1, {"GQA": (9, 2), "DocVQA": (1, 2)}, (1, 2)
        text, vision = ({**sizes, "num_hidden_layers": 2} for sizes in (TEXT, VISION))
    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    rng = random.Random(0)
    pictures = [photograph(rng) for _ in range(8 * count)]
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        path = str(llava(Path(folder), text, vision, corpus=questions(300, rng)))
        ours = HarnessLM(path, device="cpu")
        theirs = {size: HFMultimodalLM(path, device="cpu", dtype="float32", batch_size=size) for size in BATCHES}

        def chat(question: str) -> str:
            return str(theirs[1].apply_chat_template([{"role": "user", "content": MARK + question}]))

        for shape, (each, tokens) in shapes.items():
            chosen = pictures[: count if each > 8 else 6 * count]
            plain = requests(chosen, each, tokens, lambda question: MARK + question)
            framed = requests(chosen, each, tokens, chat)
            ours.generate_until(plain[:2])
            took: dict[str, list[float]] = defaultdict(list)
            said: dict[str, list[str]] = {}
            for _ in range(2):  # in turns, so that the machine's drift meets all alike
                for size, model in theirs.items():
                    passed, said[f"{size}"] = seconds(model.generate_until, framed, disable_tqdm=True)
                    took[f"{size}"].append(passed)
                passed, said["ours"] = seconds(ours.generate_until, plain)
                took["ours"].append(passed)
            best = min(BATCHES, key=lambda size: min(took[f"{size}"]))
            own = statistics.median(took["ours"])
            for size in BATCHES:
                other = statistics.median(took[f"{size}"])
                same = sum(a == b for a, b in zip(said["ours"], said[f"{size}"], strict=True))
                print(
                    f"{shape}-shaped, {len(chosen)} images x {each} questions: hf-multimodal (batch {size}) "
                    f"{other:.1f} s, ours {own:.2f} s: {other / own:.1f}x{' (its best)' if size == best else ''}; "
                    f"{same} of {len(plain)} answers are the same"
                )
        print("questions an image   seconds   seconds a question   of it encode, prefix, the rest of the model, engine")
        for each in steps:
            spent: dict[str, float] = defaultdict(float)
            plain = requests(pictures[: 2 * count], each, 3, lambda question: MARK + question)
            with timed(ours.model, spent):
                total, _ = seconds(ours.generate_until, plain)
            shares = [spent[name] / total for name in ("encode", "begin", "extend")]
            print(
                f"{each:>18}   {total:7.2f}   {total / len(plain):18.4f}   "
                + ", ".join(f"{share:.0%}" for share in (*shares, 1 - sum(shares)))
                + f": {1 / sum(shares):.2f} of the floor"
            )


if __name__ == "__main__":
    main()
