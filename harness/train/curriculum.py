"""The stages of one VLM of the reference family, from its composed configuration to its folder.

    letters -> pages ┐
            language ┴ align -> joint

Each stage is reached from the finished ones before it (`harness.train.stages`), and everything that decides it names
it. So an encoder's stages are shared by all LLMs, and a later change of the pages leaves the letters alone.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from harness.configuration.compose import Plain
from harness.machine import available_cores, describe
from harness.models.encoders import VisionEncoder, build_encoder
from harness.models.llms import build_llm
from harness.models.tokenizer import build_tokenizer
from harness.models.vlm import Vlm, VlmSpec
from harness.schema import Connector, Encoder, HarnessError, Llm
from harness.suites import embedded
from harness.train import instruct, language, letters, pages
from harness.train.curves import PICTURE, draw_curves
from harness.train.descent import Course, Descended, forget
from harness.train.pool import Pool, open_pool, open_rows
from harness.train.stages import Outcome, Stage, finish, reach

STAGES = ("letters", "pages", "language", "align", "joint")


class Curriculum:
    """One training: its stages, and what each of them needs."""

    def __init__(self, config: Plain):
        """`config`: a composed point of `train.yaml`. Raises `HarnessError` for a recipe that lacks something."""
        self.recipe, self.seed, self.cache = config["recipe"], int(config["seed"]), Path(config["cache"])
        self.device, self.every = device_of(config["device"]), int(config["every"])
        self.encoder, self.llm = Encoder(**config["encoder"]), Llm(**config["llm"])
        self.connector = Connector(**config["connector"])
        self.pair = f"{self.encoder.name}-{self.llm.name}"
        self.name = f"{self.pair}-seed{self.seed}" if self.seed else self.pair
        kind = (
            "transformer" if hasattr(build_encoder(self.encoder, True, "meta").backbone, "blocks") else "convolutional"
        )
        self.letters_recipe = self._recipe(letters.LettersRecipe, "letters", kind)
        self.pages_recipe = self._recipe(pages.PagesRecipe, "pages", kind)
        self.language_recipe = self._recipe(language.LanguageRecipe, "language", kind)
        self.align_recipe = self._recipe(instruct.InstructRecipe, "align", kind)
        self.joint_recipe = self._recipe(instruct.InstructRecipe, "joint", kind)

    def _recipe(self, made: Callable[..., Any], stage: str, kind: str) -> Any:
        """A stage's part of the recipe, with the rate for this kind of encoder and resolutions as numbers."""
        given = dict(self.recipe[stage])
        if isinstance(given.get("lr"), dict):
            if kind not in given["lr"]:
                raise HarnessError(f"recipe.{stage}.lr: a rate for a {kind} encoder is expected")
            given["lr"] = given["lr"][kind]
        if "shares" in given:
            given["shares"] = {int(resolution): float(share) for resolution, share in given["shares"].items()}
        try:
            return made(**given)
        except TypeError as error:
            raise HarnessError(f"recipe.{stage}: {str(error).partition(' ')[2]}") from error

    @property
    def letters(self) -> Stage:
        """The encoder's first stage."""
        return Stage("letters", self.encoder.name, (*letters.decides(self.encoder, self.letters_recipe, self.seed),))

    @property
    def pages(self) -> Stage:
        """The encoder's second stage."""
        return Stage("pages", self.encoder.name, (*pages.decides(self.letters.identity, self.pages_recipe, self.seed),))

    @property
    def language(self) -> Stage:
        """The LLM's first stage."""
        return Stage("language", self.llm.name, (*language.decides(self.llm, self.language_recipe, self.seed),))

    @property
    def align(self) -> Stage:
        """Connector and LLM on the frozen encoder."""
        before = [self.pages.identity, self.language.identity]
        return Stage("align", self.pair, (*instruct.decides(before, self.connector, self.align_recipe, self.seed),))

    @property
    def joint(self) -> Stage:
        """Everything."""
        before = [self.align.identity]
        return Stage("joint", self.pair, (*instruct.decides(before, self.connector, self.joint_recipe, self.seed),))

    def pools(self) -> tuple[Pool, Pool]:
        """The images that encoders and whole VLMs learn from, and those that are held out."""
        recipe, cores = self.pages_recipe, available_cores()
        with FileLock(self.cache / "lock"):  # trainings side by side share what they draw
            return (
                open_pool(recipe.images, "train", (*recipe.shares,), self.cache, cores),
                open_pool(recipe.held_out, "held_out", (*recipe.shares,), self.cache, cores),
            )

    def reach_letters(self) -> Outcome:
        """An encoder that knows its letters."""

        def learn() -> Outcome:
            encoder, course = self._new_encoder(), self._course(self.letters)
            recipe = self.letters_recipe
            done = letters.learn_letters(encoder, recipe, self.cache, available_cores(), self.seed, course)
            return self._finish(self.letters, course, done, recipe.steps * recipe.batch, encoder=encoder)

        return reach(self.letters, self.cache, learn)

    def reach_pages(self) -> Outcome:
        """An encoder that reads items at their places."""

        def learn() -> Outcome:
            encoder, course = self._new_encoder(), self._course(self.pages)
            before.restore(encoder=encoder)
            recipe = self.pages_recipe
            done = pages.learn_pages(encoder, *self.pools(), recipe, self.seed, course)
            return self._finish(self.pages, course, done, recipe.steps * recipe.batch, encoder=encoder)

        before = self.reach_letters()
        return reach(self.pages, self.cache, learn)

    def reach_language(self) -> Outcome:
        """An LLM that looks up what it is told."""

        def learn() -> Outcome:
            tokenizer, course = build_tokenizer(embedded.words()), self._course(self.language)
            recipe = self.language_recipe
            spec = self.llm.model_copy(update={"config": {**self.llm.config, "vocab_size": len(tokenizer)}})
            torch.manual_seed(self.seed)
            llm = build_llm(spec)
            with FileLock(self.cache / "lock"):
                rows = open_rows(recipe.scenes, "train", self.cache, available_cores())
                held_out = open_rows(recipe.held_out, "held_out", self.cache, available_cores())
            done = language.learn_language(llm, tokenizer, rows, held_out, recipe, self.seed, course)
            return self._finish(self.language, course, done, recipe.steps * recipe.batch, llm=llm)

        return reach(self.language, self.cache, learn)

    def reach_align(self) -> Outcome:
        """A connector and an LLM that answer from an encoder's visual tokens."""

        def learn() -> Outcome:
            vlm, course = self._new_vlm(), self._course(self.align)
            encoder.restore(encoder=vlm.encoder)
            llm.restore(llm=vlm.llm)
            recipe, tokens = self.align_recipe, self.pages.folder(self.cache)
            done = instruct.learn_align(vlm, *self.pools(), recipe, tokens, self.seed, course)
            parts = {"connector": vlm.connector, "llm": vlm.llm}
            return self._finish(self.align, course, done, recipe.steps * recipe.batch, **parts)

        encoder, llm = self.reach_pages(), self.reach_language()
        return reach(self.align, self.cache, learn)

    def reach_joint(self) -> Outcome:
        """A whole VLM."""

        def learn() -> Outcome:
            vlm, course = self._new_vlm(), self._course(self.joint)
            encoder.restore(encoder=vlm.encoder)
            before.restore(connector=vlm.connector, llm=vlm.llm)
            recipe = self.joint_recipe
            done = instruct.learn_joint(vlm, *self.pools(), recipe, self.seed, course)
            parts = {"encoder": vlm.encoder, "connector": vlm.connector, "llm": vlm.llm}
            return self._finish(self.joint, course, done, recipe.steps * recipe.batch, **parts)

        encoder, before = self.reach_pages(), self.reach_align()
        return reach(self.joint, self.cache, learn)

    def reach(self, until: str) -> Outcome:
        """A stage, and those that it is built on."""
        self.cache.mkdir(parents=True, exist_ok=True)
        return {
            "letters": self.reach_letters,
            "pages": self.reach_pages,
            "language": self.reach_language,
            "align": self.reach_align,
            "joint": self.reach_joint,
        }[until]()

    def save(self, folder: Path, command: str) -> None:
        """Write the finished VLM with everything that is known of its training."""
        outcome, vlm = self.reach_joint(), self._new_vlm()
        outcome.restore(encoder=vlm.encoder, connector=vlm.connector, llm=vlm.llm)
        before = (self.reach_letters, self.reach_pages, self.reach_language, self.reach_align)
        records = [*(stage().record for stage in before), outcome.record]
        training = {
            "command": command,
            "recipe": self.recipe,
            "seed": self.seed,
            "drawing": embedded.fingerprint_of_drawing(),
            "stages": [{key: value for key, value in record.items() if key != "log"} for record in records],
            "log": [row for record in records for row in record["log"]],
        }
        vlm.save(folder, training)
        draw_curves(training["log"], folder / PICTURE)

    def _new_encoder(self) -> VisionEncoder:
        torch.manual_seed(self.seed)
        return build_encoder(self.encoder, training_form=True)

    def _new_vlm(self) -> Vlm:
        spec = VlmSpec(encoder=self.encoder, connector=self.connector, llm=self.llm, training_form=True)
        torch.manual_seed(self.seed)
        return Vlm(spec, build_tokenizer(embedded.words()))

    def _course(self, stage: Stage) -> Course:
        return Course(stage.folder(self.cache), stage.identity, stage.title, self.device, self.every)

    def _finish(
        self, stage: Stage, course: Course, done: Descended, samples: int, **modules: torch.nn.Module
    ) -> Outcome:
        for module in modules.values():
            module.cpu()
        machine = describe(self.device.type).model_dump(mode="json")
        record = {
            "subject": stage.subject,
            "samples": samples,
            "steps": done.log[-1]["step"],
            "seconds": done.seconds,
            "machine": machine | {"python": platform.python_version()},
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "log": done.log,
        }
        outcome = finish(stage, self.cache, record, **modules)
        draw_curves(done.log, course.folder / PICTURE)
        forget(course)
        return outcome


def device_of(name: str) -> torch.device:
    """A device that is there; raises `HarnessError` for one that is not."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there[name]:
        raise HarnessError(
            f"device={name}: this machine has none; there is {', '.join(d for d, t in there.items() if t)}"
        )
    return torch.device(name)
