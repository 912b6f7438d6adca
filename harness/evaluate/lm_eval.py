"""Our suites as tasks of lm-eval (`SuiteTask`), and our models and engine for its tasks (`HarnessLM`).

`harness.lm_evaluation` is what a YAML and a command line name.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from harness.configuration.points import DTYPES, check_resolution
from harness.evaluate.answers import Engine, grade
from harness.machine import resolve_device
from harness.metrics import METRICS
from harness.models.answering import AnsweringModel, Composed, Images
from harness.models.hub import folder_of_hub, learn, load_hub
from harness.models.preprocess import decode_image
from harness.models.vlm import check_checkpoint, hash_checkpoint, is_ours, load_vlm, move
from harness.schema import HarnessError, Suite
from harness.storage.intake import open_image
from harness.suites.hub import check_place
from harness.suites.questions import examples, fault_of, load
from harness.suites.tasks import EXTERNALLY_GRADED, load_task, suite_of

try:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
    from lm_eval.api.task import ConfigurableTask
except ImportError as error:
    raise HarnessError('lm-eval is not installed: pip install "vlm-harness[lm-eval]"') from error

MARK = "<image>"
PLACES = "VLM_HARNESS_DATA"
"""Where suites' data lies instead of on the hub: `{docvqa: /data/docvqa, pope: /data/pope.tsv}`."""


class Stored(Image.Image):
    """An image that is read and decoded when a model looks into it: lm-eval keeps those of all requests at once, and
    decoded ones of DocVQA would be 60 GB."""

    def __init__(self, images: Mapping[str, tuple[bytes, ...]], keys: str, place: int):
        """Number `place` of what is shown under `keys`."""
        super().__init__()
        self._images, self._keys, self._place = images, keys, place
        self.key = keys.split("+")[place]
        with open_image(self.stored) as header:
            self._size = header.size
        self._mode = "RGB"

    @property
    def stored(self) -> bytes:
        """Its bytes, read when they are asked for."""
        return self._images[self._keys][self._place]

    def load(self) -> Any:
        """Decode it; every method that needs pixels calls this first."""
        if self._im is None:
            self._im = decode_image(self.stored).im
        return self._im.pixel_access(self.readonly)


class SuiteTask(ConfigurableTask):  # type: ignore[misc]
    """A YAML of `sweeps/suite/` as an lm-eval task: same rows, same prompts, same metric with its protocol's name."""

    def __init__(self, config: dict[str, Any]):
        import datasets

        suite = _suite_of(config)
        if why := fault_of(suite):
            raise HarnessError(f"suite {suite.name} cannot be asked: {why}")
        questions = load(suite)
        asked = {question.question_id: question for question in questions.asked}
        rows = [
            {
                "question_id": q.question_id,
                "prompt": q.prompt,
                "answers": list(q.answers),
                "image": q.image,
                "kind": q.kind,
            }
            for q in questions.asked
        ]

        metric = suite.metric or EXTERNALLY_GRADED

        def score(row: dict[str, Any], results: Sequence[str]) -> dict[str, float | None]:
            return {metric: grade(suite, asked[row["question_id"]], results[0]).score}

        def picture(row: dict[str, Any]) -> list[Image.Image]:
            return [Stored(questions.images, row["image"], place) for place in range(row["image"].count("+") + 1)]

        super().__init__(
            config={
                "task": suite.name,
                "custom_dataset": lambda **_: {"test": datasets.Dataset.from_list(rows)},
                "test_split": "test",
                "output_type": "generate_until",
                "doc_to_text": lambda row: MARK + row["prompt"],
                "doc_to_target": lambda row: next(iter(row["answers"]), ""),
                "doc_to_image": picture,
                "process_results": score,
                "generation_kwargs": config["generation_kwargs"],
                "metric_list": [
                    {
                        "metric": metric,
                        "aggregation": "mean" if suite.metric else EXTERNALLY_GRADED,
                        "higher_is_better": True,
                    }
                ],
                "metadata": {
                    "version": suite.version,
                    "source": METRICS[metric].source if suite.metric else "graded externally",
                },
            }
        )


def _suite_of(config: dict[str, Any]) -> Suite:
    """The suite of a task's configuration. lm-eval adds the command line's `--metadata` and `--model_args` to its
    metadata, where a checkpoint's `revision` would be taken for the data's: the YAML says what the suite is."""
    about = config.get("metadata") or {}
    source = Path(str(about.get("config_source", "")))
    own = (load_task(source).get("metadata") if source.suffix == ".yaml" else about) or {}
    given = about.get("data") or {}
    if not isinstance(given, dict):
        raise HarnessError(f"data={given}: suites and folders are expected")
    name = str(config["task"])
    place = given.get(name) or places(os.environ.get(PLACES, "")).get(name)
    task = {key: value for key, value in config.items() if key != "class"} | {"metadata": own}
    return suite_of(task, Path(f"{name}.yaml"), check_place(name, place) if place else "")


def places(said: str) -> dict[str, str]:
    """`{docvqa: /data/docvqa, pope: /data/pope}`, braces and quotes as one likes -> folder by suite."""
    found = {}
    for pair in filter(None, (one.strip() for one in said.strip().removeprefix("{").removesuffix("}").split(","))):
        suite, colon, path = (part.strip().strip("\"'") for part in pair.partition(":"))
        if not (suite and colon and path):
            raise HarnessError(f"{PLACES}={said}: {{SUITE: FOLDER, ...}} is expected")
        found[suite] = path
    return found


def load_model(
    path: str, resolution: int | None, attention: str, device: str, dtype: str, revision: str | None = None
) -> AnsweringModel:
    """A VLM that can be asked: a folder of this project, or a published VLM's folder or hub id."""
    folder = Path(path)
    if is_ours(folder):
        check_checkpoint(folder)
        vlm = load_vlm(folder, attention)
        side = check_resolution(vlm.spec.encoder, int(resolution or vlm.spec.encoder.native))
        vlm = move(vlm, device, getattr(torch, dtype))
        vlm.encoder.prepare(side)
        return Composed(vlm, side, hash_checkpoint(folder))
    side_or_own = None if resolution is None else int(resolution)
    hub = folder_of_hub(path, revision)
    learn(hub, side_or_own, attention, examples()[0])  # refused before its programs run in this process
    return load_hub(hub, side_or_own, attention, device, getattr(torch, dtype))


class _Lazy(Sequence[bytes]):
    """Stored images, read one by one."""

    def __init__(self, images: Sequence[Stored]):
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, place: Any) -> Any:
        return self._images[place].stored


@register_model("vlm-harness")
class HarnessLM(LM):  # type: ignore[misc]
    """A VLM of this project as an lm-eval model: an image is encoded and prefilled once for all its requests."""

    MULTIMODAL = True

    def __init__(
        self,
        checkpoint: str = "",
        resolution: int | None = None,
        revision: str | None = None,
        device: str | None = "auto",
        dtype: str = "float32",
        attention: str = "sdpa",
        journal: str = "",
        batch_size: Any = None,
        max_batch_size: Any = None,
        **unknown: Any,
    ):
        """`checkpoint`: a folder that `Vlm.save` wrote, or a published VLM's folder or hub id (with its `revision`);
        `journal`: a file that keeps answers as they come. The batch sizes are lm-eval's: here they change no answer and
        are not needed."""
        super().__init__()
        if unknown:
            known = "checkpoint, resolution, revision, device, dtype, attention, journal"
            raise HarnessError(f"model_args: there is no {next(iter(unknown))}; there are: {known}")
        if not checkpoint:
            raise HarnessError("model_args: checkpoint=FOLDER is expected")
        if resolution is not None and (isinstance(resolution, bool) or not isinstance(resolution, int)):
            raise HarnessError(f"model_args: resolution={resolution}: a whole number is expected")
        if dtype not in DTYPES:
            raise HarnessError(f"dtype={dtype}: one of {', '.join(DTYPES)} is expected")
        place = resolve_device(str(device or "auto"))
        self.model = load_model(str(checkpoint), resolution, str(attention), place, dtype, revision)
        self.journal = Path(str(journal)) if journal else None

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> HarnessLM:
        """From `--model_args`, which win over lm-eval's own options of the same name."""
        return cls(**{key: value for key, value in (additional_config or {}).items() if value is not None} | arg_dict)

    @torch.inference_mode()
    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Greedy answers, in the order of the requests."""
        images: dict[str, Images] = {}
        engine = Engine(self.model, images)
        asks = []
        for request in requests:
            text, arguments, *rest = request.args
            key, images[key] = self._pictures(rest[0] if rest else {})
            if arguments.get("do_sample") or arguments.get("temperature"):
                raise HarnessError("sampling is not supported: answers are greedy, so that they can be repeated")
            until = arguments.get("until") or ()
            until = (until,) if isinstance(until, str) else tuple(until)
            asks.append(engine.ask(key, text.replace(MARK, ""), int(arguments.get("max_gen_toks", 256)), until))
        found = engine.answer(asks, self.journal)
        if fault := next(filter(None, found.faults), ""):
            raise HarnessError(fault)
        return [*found.texts]

    @torch.inference_mode()
    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation after its prompt and image, and whether it is the greedy one."""
        images: dict[str, Images] = {}
        engine = Engine(self.model, images)
        asks, said = {}, {}
        for number, request in enumerate(requests):
            text, continuation, *rest = request.args
            key, images[key] = self._pictures(rest[0] if rest else {})
            asks[str(number)] = engine.ask(key, text.replace(MARK, ""), 0)
            ids = self.model.tokenize(continuation)
            if not ids:
                raise HarnessError(f"request {number}: the continuation {continuation!r} has no tokens")
            said[str(number)] = ids
        found = engine.scores(asks, said)
        return [found[str(number)] for number in range(len(requests))]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Not for a VLM: there is no image in a rolling text."""
        raise NotImplementedError("rolling log-likelihood has no image; use a text model")

    def _pictures(self, media: dict[str, Any]) -> tuple[str, Images]:
        """A request's images and their keys: the hashes of their stored bytes, or of their pixels."""
        visuals = media.get("visual") or []
        if not visuals:
            raise HarnessError("a request has no image; use a text model")
        if all(isinstance(visual, Stored) for visual in visuals):
            return "+".join(visual.key for visual in visuals), _Lazy(visuals)
        if strange := next((visual for visual in visuals if not isinstance(visual, Image.Image)), None):
            raise HarnessError(f"a request's image is {strange!r}: doc_to_image has to give images")
        pictures = [visual.convert("RGB") for visual in visuals]
        digests = [hashlib.sha256(repr(one.size).encode() + one.tobytes()).hexdigest()[:16] for one in pictures]
        return "+".join(digests), pictures
