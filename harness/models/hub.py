"""Published VLMs: any transformers image-text-to-text model in the hub's own format, asked and timed by our stages.

The model's own processor makes the prompt and the pixels, its own classes compute. What is added is where a pass may be
cut: features of an image are computed once (`mm_encoder_outputs`), the ids up to its last visual token are prefilled
once, and every question goes on from there. Weights are read from safetensors alone, and no code of the hub is run.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import math
import threading
from collections.abc import Hashable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, DynamicCache, PreTrainedModel
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from harness.models.answering import Begun, Prepared, Prompt, Shown
from harness.models.llms import cache_name
from harness.models.preprocess import ASPECT, decode_image
from harness.schema import HarnessError

OF_TOKENS = ("input_ids", "token_type_ids", "mm_token_type_ids")
"""What processors say of each token; everything else is of the image."""
UNKNOWN = ("qformer_input_ids", "cross_attention_mask", "decoder_input_ids")
"""Inputs of models whose features depend on the question or which do not put the image into one sequence."""
FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
"""What is fetched from the hub: no code and no pickles."""
SMALL = 64
"""Elements up to which a tensor of sizes is compared by content."""


class Prompter:
    """A published VLM's processor: text and image -> what the model takes."""

    def __init__(self, processor: Any, config: Any):
        self.processor, self.kind = processor, config.model_type
        token = getattr(processor, "image_token_id", None)
        if token is None:
            token = getattr(config, "image_token_id", getattr(config, "image_token_index", None))
        if token is None:
            raise HarnessError(f"{self.kind}: no token stands for an image; not supported")
        self.image_token = int(token)
        self._own = threading.local()

    def chat(self, text: str, images: int = 1) -> str:
        """The prompt in the model's own template, the images first; a model without one gets images and text."""
        if not (getattr(self.processor, "chat_template", None) or self.processor.tokenizer.chat_template):
            return str(self.processor.image_token) * images + text
        content = [*({"type": "image"} for _ in range(images)), {"type": "text", "text": text}]
        said = self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        return str(said)

    def prompt(self, text: str, images: int = 1) -> tuple[int, ...]:
        """Ids of the whole prompt, with one placeholder for each image."""
        return tuple(self.processor.tokenizer(self.chat(text, images))["input_ids"])

    def prepare(self, shown: Shown, texts: Sequence[str], of_image: Iterable[str]) -> Prepared:
        """Images and prompts about them as the model takes them; of the images what is named. Safe to call from several
        threads: each has a processor of its own."""
        if not hasattr(self._own, "processor"):
            self._own.processor = copy.deepcopy(self.processor)
        processor = self._own.processor
        pictures = [
            decode_image(image, ASPECT) if isinstance(image, bytes) else image.convert("RGB") for image in shown
        ]
        own = processor.image_processor
        processor.image_processor = _Once(own)
        pixels: dict[str, Tensor] = {}
        prompts = []
        try:
            for text in texts:
                given = processor(images=pictures, text=[self.chat(text, len(pictures))], return_tensors="pt")
                if unknown := [name for name in UNKNOWN if name in given]:
                    raise HarnessError(f"{self.kind} takes {unknown[0]}: not supported")
                prompts.append({name: given[name] for name in OF_TOKENS if name in given})
                pixels = pixels or {name: given[name] for name in of_image if name in given}
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise HarnessError(f"its processor cannot take it: {' '.join(str(error).split())[:200]}") from error
        finally:
            processor.image_processor = own
        return Prepared(pixels, tuple(prompts))


class HubVlm:
    """One published VLM with its processor."""

    def __init__(self, model: PreTrainedModel, processor: Any, identity: Any):
        """`identity` names the weights and whatever else decides its answers."""
        self.model, self.processor = model.eval(), processor
        self.identity = [identity, str(model.dtype), model.config._attn_implementation]
        self.device = model.device
        self._prompter = Prompter(processor, model.config)
        self.image_token, self.prompt = self._prompter.image_token, self._prompter.prompt
        self._takes = set(inspect.signature(model.forward).parameters)
        self._cache = cache_name(model.__class__)
        self._pixels = set(inspect.signature(model.get_image_features).parameters)
        positions = getattr(model.model, "get_rope_index", None)
        self._places = set(inspect.signature(positions).parameters) if positions is not None else set()
        self._of_image = sorted((self._pixels | self._places) - {*OF_TOKENS, "attention_mask"})

    def prepare(self, shown: Shown, texts: Sequence[str]) -> Prepared:
        """Images and prompts about them as the model takes them; safe to call from several threads."""
        return self._prompter.prepare(shown, texts, self._of_image)

    def alike(self, prepared: Prepared) -> Hashable:
        """Equal for images that may be encoded as one batch: same shapes, same sizes."""
        return tuple(
            (name, tuple(value.shape), tuple(value.flatten().tolist()) if value.numel() <= SMALL else None)
            for name, value in sorted(prepared.image.items())
        )

    def head(self, prompt: Prompt) -> int:
        """How many ids can be prefilled before the rest is known: up to the last visual token, or all of them where
        what comes later changes what came before."""
        ids = prompt["input_ids"][0]
        places = (ids == self.image_token).nonzero()
        if not len(places):
            raise HarnessError("its processor put no image into the prompt")
        return int(places[-1]) + 1 if self._is_causal else len(ids)

    def encode(self, prepared: Sequence[Prepared]) -> Any:
        """Images that are `alike` -> the model's own output, for `begin`."""
        given = {
            name: torch.cat([one.image[name] for one in prepared]).to(self.device)
            for name in prepared[0].image
            if name in self._pixels
        }
        given["pixel_values"] = given["pixel_values"].to(self.model.dtype)
        return self.model.get_image_features(**given, return_dict=True)

    def begin(
        self, prepared: Sequence[Prepared], prompts: Sequence[Prompt], encoded: Any, whole: bool = False
    ) -> Begun:
        """Prefill the heads (all of one length) of a batch of images that were encoded together; or `whole` prompts."""
        size = prompts[0]["input_ids"].shape[1] if whole else self.head(prompts[0])
        of_tokens = {
            name: torch.cat([prompt[name][:, :size] for prompt in prompts]).to(self.device) for name in prompts[0]
        }
        given = {name: value for name, value in of_tokens.items() if name in self._takes}
        shift = 0
        if self._places:
            names = self._places & prepared[0].image.keys()
            sizes = {name: torch.cat([one.image[name] for one in prepared]).to(self.device) for name in names}
            told = {name: value for name, value in of_tokens.items() if name in self._places}
            given["position_ids"], shifts = self.model.model.get_rope_index(**told, **sizes)
            shift = int(shifts.flatten()[0])
        given[self._cache] = DynamicCache(config=self.model.config.get_text_config())
        out = self.model(**given, mm_encoder_outputs={"image": encoded}, use_cache=True, logits_to_keep=1)
        return Begun(out.logits[:, -1], out[self._cache], shift)

    def go_on(self, ids: Tensor, begun: Begun, keep: int = 1) -> Tensor:
        """More text ids (B, T) on top of the cache, which grows -> logits of the last positions (B, keep, vocab)."""
        given: dict[str, Any] = {self._cache: begun.cache}
        if begun.shift:
            start = begun.cache.get_seq_length() + begun.shift
            positions = torch.arange(start, start + ids.shape[1], device=self.device)
            given["position_ids"] = positions.view(1, 1, -1).expand(3, len(ids), -1)
        out = self.model(input_ids=ids, **given, use_cache=True, logits_to_keep=keep)
        return out.logits  # type: ignore[no-any-return]

    @cached_property
    def ends(self) -> frozenset[int]:
        """Ids that end an answer."""
        found = self.model.generation_config.eos_token_id
        if found is None:
            found = self.processor.tokenizer.eos_token_id
        known = frozenset(token for token in (found if isinstance(found, list) else [found]) if token is not None)
        if not known:
            raise HarnessError(f"{self.model.config.model_type}: no token ends an answer (eos_token_id)")
        return known

    def say(self, ids: Sequence[int]) -> str:
        """Ids of an answer as text."""
        return str(self.processor.tokenizer.decode(ids, skip_special_tokens=True))

    def ids(self, text: str) -> list[int]:
        """Ids of the text of an answer."""
        return list(self.processor.tokenizer(text, add_special_tokens=False)["input_ids"])

    @cached_property
    def _is_causal(self) -> bool:
        """Whether a token's keys stay the same whatever follows it; PaliGemma, for one, looks both ways in a prompt."""
        usual = [token for token in range(200) if token != self.image_token][-6:]
        rows = torch.tensor([usual[:4] + usual[4:], usual[:4] + usual[:2]], device=self.device)
        given: dict[str, Any] = {"input_ids": rows}
        names = self.processor.tokenizer("a")  # some tokenizers tell token types, and the mask depends on them
        if "token_type_ids" in names and "token_type_ids" in self._takes:
            given["token_type_ids"] = torch.zeros_like(rows)
        cache = DynamicCache(config=self.model.config.get_text_config())
        self.model(**given, **{self._cache: cache}, use_cache=True)
        keys = cache.layers[-1].keys[:, :, :4]
        return bool(torch.allclose(keys[0], keys[1], rtol=0.01, atol=0.01 * float(keys.abs().max())))


class _Once:
    """An image processor that is asked for one image and remembers its answer."""

    def __init__(self, own: Any):
        self._own, self._answer = own, None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._answer is None:
            self._answer = self._own(*args, **kwargs)
        return copy.copy(self._answer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)


def set_resolution(image_processor: Any, resolution: int) -> None:
    """Override an image processor's size: the side of the square, or the root of the pixels that it may use.

    Raises `HarnessError` where it has no size that is known here.
    """
    size = dict(image_processor.size)
    if {"height", "width"} <= size.keys():
        image_processor.size = {"height": resolution, "width": resolution}
    elif {"shortest_edge", "longest_edge"} <= size.keys() and hasattr(image_processor, "merge_size"):
        image_processor.size = {"shortest_edge": resolution**2, "longest_edge": resolution**2}  # Qwen counts pixels
    elif "shortest_edge" in size:
        image_processor.size = {**size, "shortest_edge": resolution}
        if getattr(image_processor, "crop_size", None):
            image_processor.crop_size = {"height": resolution, "width": resolution}
    elif "longest_edge" in size:
        image_processor.size = {"longest_edge": resolution}
    else:
        raise HarnessError(f"{type(image_processor).__name__} has no size to override: leave resolution=null")


def fit_prompt(prompt: Prompt, image_token: int, text_tokens: int) -> Prompt:
    """A prompt with so many text tokens in all, its end cut or repeated: the length decides the latency."""
    ids = prompt["input_ids"][0]
    places = (ids == image_token).nonzero()[:, 0]
    size, visual = int(places[-1]) + 1, len(places)
    count = text_tokens - (size - visual)
    chosen = torch.arange(count) % (len(ids) - size)
    return {name: torch.cat([value[:, :size], value[:, size:][:, chosen]], 1) for name, value in prompt.items()}


def count_tokens(folder: Path, resolution: int, image: bytes, text: str, least: int) -> tuple[int, int]:
    """Visual tokens of an image and text tokens of a prompt: `least`, or what the template needs and one more."""
    config, processor = _read(folder)
    if resolution is not None:
        set_resolution(processor.image_processor, resolution)
    asked = Prompter(processor, config)
    ids = asked.prepare([image], [text], ()).prompts[0]["input_ids"][0]
    places = (ids == asked.image_token).nonzero()[:, 0]
    if not len(places):
        raise HarnessError(f"vlm {folder}: its processor put no image into the prompt")
    before = int(places[-1]) + 1 - len(places)
    return len(places), max(least, before + 1)


def parameters_of_hub(folder: Path) -> int:
    """How many weights the safetensors of a folder hold, from their headers."""
    total = 0
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            total += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return total


def folder_of_hub(path: str, revision: str | None = None) -> Path:
    """Where a published VLM lies: the folder itself, or the hub's snapshot, fetched if it is not there yet."""
    local = Path(path).expanduser()
    if local.is_dir():
        return local
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(path, revision=revision, allow_patterns=list(FILES)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise HarnessError(
            f"vlm {path}: neither a folder nor to be had from the hub: {' '.join(str(error).split())[:200]}"
        ) from error


def hash_hub(folder: Path) -> str:
    """What decides the answers of a published VLM: the hub's commit, or the files of a folder."""
    if folder.parent.name == "snapshots":
        return folder.name[:16]
    digest = hashlib.sha256()
    for file in sorted(file for pattern in FILES for file in folder.glob(pattern)):
        digest.update(file.name.encode())
        with file.open("rb") as handle:
            while block := handle.read(2**24):
                digest.update(block)
    return digest.hexdigest()[:16]


def _read(folder: Path) -> tuple[Any, Any]:
    """Configuration and processor of a folder."""
    set_verbosity_error()  # a published configuration may give cause for warnings that nobody here can mend
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
        raise HarnessError(f"vlm {folder}: {' '.join(str(error).split())[:300]}") from error
    if not hasattr(processor, "image_processor"):
        raise HarnessError(f"vlm {folder}: {config.model_type} has no image processor; it is no VLM")
    return config, processor


def load_hub(
    folder: Path,
    resolution: int | None = None,
    attention: str = "sdpa",
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    weights: str = "",
) -> HubVlm:
    """A published VLM from its folder, its own resolution overridden if one is given; `weights` names them."""
    disable_progress_bar()  # the sweep has its own
    config, processor = _read(folder)
    if resolution is not None:
        set_resolution(processor.image_processor, resolution)
    try:
        model = AutoModelForImageTextToText.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            attn_implementation=attention,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, ImportError, KeyError, RuntimeError) as error:
        raise HarnessError(f"vlm {folder}: {' '.join(str(error).split())[:300]}") from error
    return HubVlm(model.to(device), processor, [weights or hash_hub(folder), resolution])
