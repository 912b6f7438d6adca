"""Published VLMs: any transformers image-text-to-text model in the hub's own format, asked and timed by our stages.

The model's own processor makes the prompt and the pixels, its own classes compute. What is added is where a pass may be
cut: features of an image are computed once (`mm_encoder_outputs`), the ids up to its last visual token are prefilled
once, and every question goes on from there. Weights are read from safetensors alone, and no code of the hub is run.

A folder of the hub is foreign: what has to be known of it before anything is measured is found by `inspect`, in a
process of its own (`learn`).
"""

from __future__ import annotations

import base64
import contextlib
import copy
import math
import stat
import threading
from collections.abc import Hashable, Iterable, Iterator, Sequence
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, DynamicCache, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from harness.models.answering import Images, Prefilled, Prepared, Prompt
from harness.models.hollow import Unknowable, hollow
from harness.models.llms import cache_name
from harness.models.preprocess import ASPECT, decode_image
from harness.schema import HarnessError
from harness.storage import apart
from harness.storage.intake import hash_files, read_json

OF_TOKENS = ("input_ids", "token_type_ids", "mm_token_type_ids")
"""What processors say of each token; everything else is of the image."""
UNKNOWN = ("qformer_input_ids", "cross_attention_mask", "decoder_input_ids")
"""Inputs of models whose features depend on the question or which do not put the image into one sequence."""
REFUSED = {
    "mllama": "its text attends to the image in layers of its own, no visual tokens are in the sequence",
    "florence2": "image and question go through an encoder together, so no image can be encoded for itself",
    "instructblip": "the question goes through its Q-Former, so features of an image belong to one question",
    "blip-2": "its class needs the image again for every token, so a prompt cannot be continued",
}
"""Kinds of model that are known, and why they cannot be cut into stages."""
FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
"""What is fetched from the hub: no code and no pickles."""
WEIGHTS = "*.safetensors"
SMALL = 64
"""Elements up to which a tensor of sizes is compared by content."""
SETTINGS = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.json",
    "model.safetensors.index.json",
)
"""Files that are read as JSON, all but a tokenizer's vocabulary."""
LARGE = 2**100
"""What tokenizers write for no limit at all, 10^30, is below."""
FILE_BYTES = 256 * 2**20
"""Largest file beside the weights; the tokenizer of Gemma 3 has 33 MB."""
LAYERS, WIDTH, VOCABULARY, SIDE, PIXELS = 1024, 2**20, 2**24, 2**14, 2**28
"""Most layers, channels, tokens, pixels along one side, pixels of an image."""
MOST = {
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "depth", "depths", "encoder_layers"), LAYERS),
    **dict.fromkeys(("decoder_layers", "resampler_depth", "layers"), LAYERS),
    **dict.fromkeys(("hidden_size", "intermediate_size", "embed_dim", "embed_dims", "out_hidden_size"), WIDTH),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "num_heads", "head_dim", "projection_dim"), WIDTH),
    **dict.fromkeys(("num_channels", "in_channels", "in_chans", "mlp_dim", "ffn_dim", "d_model", "n_embd"), WIDTH),
    **dict.fromkeys(("image_seq_length", "image_seq_len", "mm_tokens_per_image", "num_query_tokens"), WIDTH),
    **dict.fromkeys(("vocab_size", "max_position_embeddings"), VOCABULARY),
    **dict.fromkeys(("image_size", "patch_size", "temporal_patch_size", "height", "width", "tile_size"), SIDE),
    **dict.fromkeys(("spatial_merge_size", "merge_size", "downsample_factor", "max_patches"), SIDE),
    **dict.fromkeys(("shortest_edge", "longest_edge", "min_pixels", "max_pixels"), PIXELS),
}
"""Sizes that decide how much is built, by their names in a configuration: whole numbers from 1 to this."""
PARTS = ("text_config", "vision_config", "qformer_config", "perceiver_config", "quantization_config", "rope_parameters")
"""Objects within a configuration."""
CODE = ("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "use_pretrained_backbone", "cache_dir")
"""Settings that would make timm read other files than those of the folder."""


class Prompter:
    """A published VLM's processor: text and image -> what the model takes."""

    def __init__(self, processor: Any, config: Any):
        self.processor, self.kind = processor, config.model_type
        self.image_token = image_token_of(config, processor)
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
        with told("its chat template and tokenizer cannot take it"):
            return tuple(self.processor.tokenizer(self.chat(text, images))["input_ids"])

    def prepare(self, shown: Images, texts: Sequence[str], of_image: Iterable[str]) -> Prepared:
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
        except HarnessError:
            raise
        except Exception as error:  # a template and a processor are its authors' programs
            raise HarnessError(f"its processor cannot take it: {fault_of(error)}") from error
        finally:
            processor.image_processor = own
        return Prepared(pixels, tuple(prompts))


def fault_of(error: BaseException) -> str:
    """What went wrong in somebody else's code, with the kind of the error where its text alone says little."""
    text = str(error)
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}"


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Whatever goes wrong in code that runs what a foreign folder says becomes a `HarnessError` that begins with
    `what`."""
    try:
        yield
    except (HarnessError, MemoryError, Unknowable):
        raise
    except Exception as error:
        raise HarnessError(f"{what}: {fault_of(error)}") from error


def image_token_of(config: Any, processor: Any) -> int:
    """Id of the token in whose places the features of an image stand: the configuration's. A processor may call another
    one its image token, which begins an image (Gemma 3)."""
    found = (getattr(config, "image_token_id", None), getattr(config, "image_token_index", None))
    for token in (*found, getattr(processor, "image_token_id", None)):
        if isinstance(token, int) and not isinstance(token, bool):
            return token
    raise HarnessError(f"{config.model_type}: no token stands for an image (image_token_id in its configuration)")


class HubVlm:
    """One published VLM with its processor."""

    def __init__(self, model: PreTrainedModel, processor: Any, identity: Any):
        """`identity` names the weights and whatever else decides its answers."""
        self.model, self.processor = model.eval(), processor
        self.identity = [identity, str(model.dtype), model.config._attn_implementation]
        self.device = model.device
        self.core = model.model if hasattr(model, "model") else model.language_model.model  # Llama 4's has none of all
        self._prompter = Prompter(processor, model.config)
        self.image_token, self.prompt = self._prompter.image_token, self._prompter.prompt
        self._takes = set(signature(model.forward).parameters)
        self._cache = cache_name(model.__class__)
        self._pixels = set(signature(model.get_image_features).parameters)
        positions = getattr(self.core, "get_rope_index", None)
        self._places = set(signature(positions).parameters) if positions is not None else set()
        self._of_image = sorted((self._pixels | self._places) - {*OF_TOKENS, "attention_mask"})

    def prepare(self, shown: Images, texts: Sequence[str]) -> Prepared:
        """Images and prompts about them as the model takes them; safe to call from several threads."""
        return self._prompter.prepare(shown, texts, self._of_image)

    def batch_key(self, prepared: Prepared) -> Hashable:
        """Equal for images that may be encoded as one batch: same shapes, same sizes."""
        return tuple(
            (name, tuple(value.shape), tuple(value.flatten().tolist()) if value.numel() <= SMALL else None)
            for name, value in sorted(prepared.image.items())
        )

    def prefix_length(self, prompt: Prompt) -> int:
        """How many ids can be prefilled before the rest is known: up to the last visual token, or all of them where
        what comes later changes what came before."""
        ids = prompt["input_ids"][0]
        places = (ids == self.image_token).nonzero()
        if not len(places):
            raise HarnessError("its processor put no image into the prompt")
        return int(places[-1]) + 1 if self._is_causal else len(ids)

    def encode(self, prepared: Sequence[Prepared]) -> Any:
        """Images that are of one `batch_key` -> the model's own output, for `begin`."""
        given = {
            name: torch.cat([one.image[name] for one in prepared]).to(self.device)
            for name in prepared[0].image
            if name in self._pixels
        }
        given["pixel_values"] = given["pixel_values"].to(self.model.dtype)
        return self.model.get_image_features(**given, return_dict=True)

    def begin(
        self, prepared: Sequence[Prepared], prompts: Sequence[Prompt], encoded: Any, whole: bool = False
    ) -> Prefilled:
        """Prefill the heads (all of one length) of a batch of images that were encoded together; or `whole` prompts."""
        size = prompts[0]["input_ids"].shape[1] if whole else self.prefix_length(prompts[0])
        of_tokens = {
            name: torch.cat([prompt[name][:, :size] for prompt in prompts]).to(self.device) for name in prompts[0]
        }
        given = {name: value for name, value in of_tokens.items() if name in self._takes}
        shift = 0
        if self._places:
            names = self._places & prepared[0].image.keys()
            sizes = {name: torch.cat([one.image[name] for one in prepared]).to(self.device) for name in names}
            told = {name: value for name, value in of_tokens.items() if name in self._places}
            given["position_ids"], shifts = self.core.get_rope_index(**told, **sizes)
            shift = int(shifts.flatten()[0])
        given[self._cache] = DynamicCache(config=self.model.config.get_text_config())
        out = self.model(**given, mm_encoder_outputs={"image": encoded}, use_cache=True, logits_to_keep=1)
        return Prefilled(out.logits[:, -1], out[self._cache], shift)

    def extend(self, ids: Tensor, prefilled: Prefilled, keep: int = 1) -> Tensor:
        """More text ids (B, T) on top of the cache, which grows -> logits of the last positions (B, keep, vocab)."""
        given: dict[str, Any] = {self._cache: prefilled.cache}
        if prefilled.shift:
            start = prefilled.cache.get_seq_length() + prefilled.shift
            positions = torch.arange(start, start + ids.shape[1], device=self.device)
            given["position_ids"] = positions.view(1, 1, -1).expand(3, len(ids), -1)
        out = self.model(input_ids=ids, **given, use_cache=True, logits_to_keep=keep)
        return out.logits  # type: ignore[no-any-return]

    @cached_property
    def eos_ids(self) -> frozenset[int]:
        """Ids that end an answer."""
        found = self.model.generation_config.eos_token_id
        if found is None:
            found = self.processor.tokenizer.eos_token_id
        known = frozenset(token for token in (found if isinstance(found, list) else [found]) if token is not None)
        if not known:
            raise HarnessError(f"{self.model.config.model_type}: no token ends an answer (eos_token_id)")
        return known

    def detokenize(self, ids: Sequence[int]) -> str:
        """Ids of an answer as text."""
        return str(self.processor.tokenizer.decode(ids, skip_special_tokens=True))

    def tokenize(self, text: str) -> list[int]:
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
    own = image_processor.size
    size = dict(own)
    if {"height", "width"} <= size.keys():
        size = {"height": resolution, "width": resolution}
    elif {"shortest_edge", "longest_edge"} <= size.keys() and hasattr(image_processor, "merge_size"):
        size = {"shortest_edge": resolution**2, "longest_edge": resolution**2}  # Qwen counts pixels
    elif {"shortest_edge", "longest_edge"} <= size.keys():
        size = {"shortest_edge": min(size["shortest_edge"], resolution), "longest_edge": resolution}
    elif "shortest_edge" in size:
        size = {"shortest_edge": resolution}
        if (crop := getattr(image_processor, "crop_size", None)) is not None:
            image_processor.crop_size = type(crop)(height=resolution, width=resolution)
    elif "longest_edge" in size:
        size = {"longest_edge": resolution}
    else:
        raise HarnessError(f"{type(image_processor).__name__} has no size to override: leave resolution=null")
    image_processor.size = type(own)(**size)


def side_of(image_processor: Any, pixels: Tensor) -> int:
    """Resolution of an image processor in the terms of `set_resolution`: side of the square, or of a tile; longest edge
    of what is cut into tiles; and where only bounds are set, the root of the pixels that it made of an image."""
    size = dict(image_processor.size)
    crop = getattr(image_processor, "crop_size", None)
    if {"height", "width"} <= size.keys():
        return round(math.sqrt(size["height"] * size["width"]))
    if size.keys() == {"shortest_edge"}:
        cropped = dict(crop) if crop is not None and getattr(image_processor, "do_center_crop", True) else {}
        return round(math.sqrt(cropped["height"] * cropped["width"])) if cropped else int(size["shortest_edge"])
    if "longest_edge" in size and getattr(image_processor, "max_image_size", None):
        return int(size["longest_edge"])
    if pixels.dim() > 3:
        return round(math.sqrt(pixels.shape[-2] * pixels.shape[-1]))
    return round(math.sqrt(len(pixels))) * int(image_processor.patch_size)


def fit_prompt(prompt: Prompt, image_token: int, text_tokens: int) -> Prompt:
    """A prompt with so many text tokens in all, its end cut or repeated: the length decides the latency."""
    ids = prompt["input_ids"][0]
    places = (ids == image_token).nonzero()[:, 0]
    size, visual = int(places[-1]) + 1, len(places)
    count = text_tokens - (size - visual)
    chosen = torch.arange(count) % (len(ids) - size)
    return {name: torch.cat([value[:, :size], value[:, size:][:, chosen]], 1) for name, value in prompt.items()}


def learn(
    folder: Path,
    resolution: int | None,
    attention: str,
    example: tuple[bytes, str],
    seconds: float = apart.SECONDS,
) -> dict[str, Any]:
    """What `inspect` finds in a folder, found once; `example` is an image and a question about it.

    Raises `HarnessError`, in one line, for whatever could not be measured, or takes longer than `seconds` to look at.
    """
    image, text = example
    given = {"image": base64.b64encode(image).decode(), "text": text}
    asked = {"folder": str(folder), "resolution": resolution, "attention": attention, **given}
    try:
        asked["weights"] = _announced_of(folder)
        key = (str(folder), stamp_of(folder), resolution, attention, example)
        if key not in _learned:
            _learned[key] = apart.call("harness.models.hub:inspect", asked, seconds=seconds)
    except HarnessError as error:
        raise HarnessError(f"vlm {folder}: {str(error).removeprefix(f'{folder}/')}") from error
    return dict(_learned[key])


_learned: dict[Any, dict[str, Any]] = {}


def inspect(
    folder: str, resolution: int | None, attention: str, image: str, text: str, weights: int | None = None
) -> dict[str, Any]:
    """Everything that is known of a published VLM before it is measured; run where it may fail (`learn`).

    `image` (base64) and `text` are an example. Its processor prepares them, and its own classes, hollow, say how many
    features the image has: as many as the processor left places for, or the model is refused. `weights`: how many it
    has, where they are not in the folder yet.
    """
    where = Path(folder)
    parameters = check_folder(where, weights)
    config, processor = _read(where)
    shown = base64.b64decode(image)
    if resolution is None:
        found = _counted(config, processor, attention, shown, text)
    else:
        changed = copy.deepcopy(processor)
        set_resolution(changed.image_processor, resolution)
        try:
            found = _counted(config, changed, attention, shown, text)
        except HarnessError as error:
            own = _counted(config, processor, attention, shown, text)["resolution"]
            raise HarnessError(
                f"resolution={resolution}: {config.model_type} cannot take it, its own size is {own} px (leave "
                f"resolution out for that): {error}"
            ) from error
        found["resolution"] = resolution
    return {"kind": config.model_type, "parameters": parameters, **found}


def _counted(config: Any, processor: Any, attention: str, image: bytes, text: str) -> dict[str, int]:
    """Visual tokens of an image, text tokens up to the last of them, and the resolution that the processor uses."""
    kind = config.model_type
    made = AutoModelForImageTextToText.from_config
    try:
        model: Any = hollow(lambda: made(config, attn_implementation=attention))
        model.set_attn_implementation("eager")
    except Exception as error:
        with told(f"{kind} cannot be built from its configuration"):
            hollow(lambda: made(config, attn_implementation="eager"))
        raise HarnessError(
            f"attention={attention}: {kind} does not take it here; give attention=eager: {error}"
        ) from error
    vlm = HubVlm(model, processor, "")
    prepared = vlm.prepare([image], [text])
    ids = prepared.prompts[0]["input_ids"][0]
    places = (ids == vlm.image_token).nonzero()[:, 0]
    if not len(places):
        raise HarnessError(f"its processor put no image into the prompt (token {vlm.image_token})")
    if int(places[-1]) + 1 == len(ids):
        raise HarnessError("its chat template ends a prompt with the image: nothing follows that could be asked")
    rows, most = model.get_input_embeddings().weight.shape[0], int(ids[ids != vlm.image_token].max())
    if most >= rows:
        raise HarnessError(f"its tokenizer makes token {most}, {kind} knows {rows}")
    with contextlib.suppress(Unknowable), torch.no_grad():  # then the first pass tells
        _check_pass(vlm, prepared, len(places))
    with told("its image processor has no size"):
        side = side_of(processor.image_processor, prepared.image["pixel_values"])
    return {"visual_tokens": len(places), "head": int(places[-1]) + 1 - len(places), "resolution": side}


def _check_pass(vlm: HubVlm, prepared: Prepared, places: int) -> None:
    """Refuse a model that cannot take what its processor makes, all the way to the token after the first."""
    kind = vlm.model.config.model_type
    with told(f"{kind} cannot take the pixels of its processor"):
        encoded = vlm.encode([prepared])
        made = encoded.last_hidden_state if encoded.pooler_output is None else encoded.pooler_output
        features = sum(one.shape[:-1].numel() for one in ([made] if isinstance(made, Tensor) else made))
    if features != places:
        raise HarnessError(f"{kind} makes {features} features of an image, its processor leaves {places} places")
    with told(f"{kind} cannot go on from an image that is encoded"):
        prefilled = vlm.begin([prepared], prepared.prompts, encoded, whole=True)
        vlm.extend(torch.zeros(1, 1, dtype=torch.long), prefilled)


def check_folder(folder: Path, weights: int | None = None) -> int:
    """How many weights a folder in the hub's format holds, after everything in it was found to be within bounds; or
    `weights`, where they are not there yet.

    Raises `HarnessError` for files that are not regular or too large, for JSON that is none, sizes that cannot be, and
    weights that are not whole safetensors.
    """
    for file in files_of(folder):
        found = status_of(file)
        if file.suffix != ".safetensors" and found.st_size > FILE_BYTES:
            raise HarnessError(f"{file.name}: {found.st_size} bytes; at most {FILE_BYTES} are read")
    stored = {name: read_json(folder / name, whole=LARGE) for name in SETTINGS if (folder / name).exists()}
    if "config.json" not in stored:
        raise HarnessError("there is no config.json; a folder in the hub's format is expected")
    for name, content in stored.items():
        if not isinstance(content, dict):
            raise HarnessError(f"{name}: an object is expected, found a {type(content).__name__}")
        check_settings(content, name)
    kind = stored["config.json"].get("model_type")
    if isinstance(kind, str) and kind in REFUSED:
        raise HarnessError(f"{kind} is not supported: {REFUSED[kind]}")
    if not isinstance(kind, str) or kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise HarnessError(f"config.json: model_type {kind!r} is not one of transformers' image-text-to-text models")
    if weights is not None:
        return weights
    index = stored.get("model.safetensors.index.json")
    if index is not None and not (folder / "model.safetensors").exists():
        check_index(index, folder)
    return parameters_of_hub(folder)


def check_settings(content: Any, where: str) -> None:
    """Refuse sizes of which something absurd would be built, and whatever names another file or program."""
    left = [(where, content)]
    while left:
        path, value = left.pop()
        if isinstance(value, list):
            left += [(path, item) for item in value]
        if not isinstance(value, dict):
            continue
        for key, item in value.items():
            here = f"{path}: {key}"
            if key in PARTS and item is not None and not isinstance(item, dict):
                raise HarnessError(f"{here}: an object is expected, found {item!r}")
            if key in CODE and item:
                raise HarnessError(f"{here}={item!r} is not read from a foreign folder")
            if (key.endswith("implementation") and "/" in str(item)) or (key == "architecture" and ":" in str(item)):
                raise HarnessError(f"{here}={item!r} would be fetched; code of the hub is not run")
            if key in MOST:
                _check_size(item, MOST[key], here)
            left.append((here, item))


def _check_size(value: Any, most: int, where: str) -> None:
    """Refuse what is neither missing nor a whole number from 1 to `most`, or several."""
    for size in value if isinstance(value, list) else [value]:
        whole = isinstance(size, int) and not isinstance(size, bool)
        if size is not None and not isinstance(size, dict) and not (whole and 1 <= size <= most):
            raise HarnessError(f"{where}={size!r}: a whole number from 1 to {most} is expected")


def check_index(index: dict[str, Any], folder: Path) -> None:
    """Refuse an index of shards that names what is not in the folder."""
    shards = index.get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise HarnessError("model.safetensors.index.json: weight_map is missing")
    here = {file.name for file in folder.glob("*.safetensors")}
    for shard in shards.values():
        if not isinstance(shard, str) or shard not in here:
            raise HarnessError(f"model.safetensors.index.json names {shard!r}, which is not in the folder")


def parameters_of_hub(folder: Path) -> int:
    """How many weights the safetensors of a folder hold, from their headers."""
    total = 0
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        other = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for file in folder.glob(pattern))
        instead = f"; {other[0]} is a pickle, which may hold code and is not read" if other else ""
        raise HarnessError(f"there are no safetensors, which the weights have to be{instead}")
    for file in files:
        status_of(file)
        try:
            with safe_open(file, "pt") as tensors:
                shapes = [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118
        except (SafetensorError, OSError, ValueError, OverflowError) as error:
            raise HarnessError(f"{file.name}: not a whole safetensors file: {error}") from error
        total += sum(map(math.prod, shapes))
    return total


def weights_of_hub(folder: Path) -> int:
    """`parameters_of_hub` where a fault must not reach the caller's process; counted once. Of a snapshot that was
    fetched without weights, what the hub says."""
    try:
        if (announced := _announced_of(folder)) is not None:
            return announced
        key = (str(folder), stamp_of(folder))
        if key not in _weights:
            _weights[key] = apart.call("harness.models.hub:count_weights", {"folder": str(folder)})
    except HarnessError as error:
        raise HarnessError(f"vlm {folder}: {str(error).removeprefix(f'{folder}/')}") from error
    return _weights[key]


_weights: dict[Any, int] = {}


def count_weights(folder: str) -> int:
    """`parameters_of_hub` as a call from another process."""
    return parameters_of_hub(Path(folder))


def files_of(folder: Path) -> list[Path]:
    """The files of a folder that decide what a VLM answers."""
    try:
        return sorted(file for pattern in FILES for file in folder.glob(pattern))
    except OSError as error:
        raise HarnessError(f"{folder}: not readable: {error}") from error


def status_of(file: Path) -> Any:
    """A regular file's status; a pipe would be waited for, for ever."""
    try:
        found = file.stat()
    except OSError as error:
        raise HarnessError(f"{file}: not readable: {error}") from error
    if not stat.S_ISREG(found.st_mode):
        raise HarnessError(f"{file}: not a regular file")
    return found


def stamp_of(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and times of a folder's files: changes where what was learned of it may have."""
    found = [(file.name, status_of(file)) for file in files_of(folder)]
    return tuple((name, status.st_size, status.st_mtime_ns) for name, status in found)


def folder_of_hub(path: str, revision: str | None = None, weights: bool = True) -> Path:
    """Where a published VLM lies: the folder itself, or the hub's snapshot, fetched if it is not there yet.

    Without `weights` a snapshot is fetched without them; how many they are, the hub tells from their headers.
    """
    try:
        local = Path(path).expanduser()
        if path and local.is_dir():
            return local
    except (OSError, RuntimeError, ValueError) as error:  # too long, a home that nobody has, a NUL
        raise HarnessError(f"vlm {path}: not a path: {error}") from error
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        wanted = [pattern for pattern in FILES if weights or pattern != WEIGHTS]
        folder = Path(snapshot_download(path, revision=revision, allow_patterns=wanted))
        if not weights and _lacks_weights(folder) and str(folder) not in _announced:
            _announced[str(folder)] = _announce(path, revision)
        return folder
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise HarnessError(f"vlm {path}: neither a folder nor to be had from the hub: {error}") from error


_announced: dict[str, int] = {}
"""How many weights belong to a snapshot that was fetched without them."""


def _announced_of(folder: Path) -> int | None:
    """How many weights a snapshot will have that does not have all of them yet; None for any other folder."""
    return _announced.get(str(folder)) if str(folder) in _announced and _lacks_weights(folder) else None


def _lacks_weights(folder: Path) -> bool:
    """Whether weights are missing in a folder, or some of their shards, as after a download that was broken off."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").exists() or not index.exists():
        return not any(folder.glob(WEIGHTS))
    try:
        check_index(read_json(index), folder)
    except HarnessError:
        return True
    return False


def _announce(path: str, revision: str | None) -> int:
    """How many weights a repository of the hub has."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import NotASafetensorsRepoError, SafetensorsParsingError

    try:
        return sum(HfApi().get_safetensors_metadata(path, revision=revision).parameter_count.values())
    except (NotASafetensorsRepoError, SafetensorsParsingError) as error:
        raise HarnessError(f"vlm {path}: there are no safetensors, which the weights have to be: {error}") from error


def hash_hub(folder: Path) -> str:
    """What decides the answers of a published VLM: the hub's commit, or the files of a folder."""
    if folder.parent.name == "snapshots":
        return folder.name[:16]
    return hash_files(files_of(folder))


def _read(folder: Path) -> tuple[Any, Any]:
    """Configuration and processor of a folder, of a kind that can be cut into stages."""
    set_verbosity_error()  # a published configuration may give cause for warnings that nobody here can mend
    with told("its configuration cannot be read"):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        kind = config.model_type
        model = AutoModelForImageTextToText._model_mapping[type(config)]
        encoder_decoder = config.is_encoder_decoder or config.get_text_config().is_encoder_decoder
    if encoder_decoder:
        raise HarnessError(f"{kind} is not supported: its prompt goes through an encoder, together with the image")
    if not hasattr(model, "get_image_features") or "mm_encoder_outputs" not in signature(model.forward).parameters:
        raise HarnessError(f"{kind} is not supported: transformers has no way to give it an image that is encoded")
    with told("its processor cannot be read"):
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if getattr(processor, "image_processor", None) is None:
        raise HarnessError(f"{kind} has no image processor (preprocessor_config.json)")
    if getattr(processor, "tokenizer", None) is None:
        raise HarnessError(f"{kind} has no tokenizer (tokenizer.json)")
    return config, processor


def load_hub(
    folder: Path,
    resolution: int | None = None,
    attention: str = "sdpa",
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    weights: str = "",
) -> HubVlm:
    """A published VLM from its folder, its own resolution overridden if one is given; `weights` names them.

    Raises `HarnessError` for a folder that cannot be read, or lacks weights that its configuration asks for.
    """
    disable_progress_bar()  # the sweep has its own
    try:
        check_folder(folder)
        config, processor = _read(folder)
        if resolution is not None:
            set_resolution(processor.image_processor, resolution)
        with told("its weights cannot be loaded"):
            model, found = AutoModelForImageTextToText.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                attn_implementation=attention,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
            if missing := sorted(found["missing_keys"]):
                raise HarnessError(f"its safetensors lack {len(missing)} of its weights, e.g. {missing[0]}")
            return HubVlm(model.to(device), processor, [weights or hash_hub(folder), resolution])
    except HarnessError as error:
        raise HarnessError(f"vlm {folder}: {str(error).removeprefix(f'{folder}/')}") from error
