"""A VLM: (vision encoder, connector, LLM), as separate stages that a bench can time and an answerer can call.

A sequence is  <bos> | visual tokens | question | <answer> | answer | <eos>, or what the LLM's template makes of it.
Saved as a folder: `config.json` (the specifications), `model.safetensors`, and for a trained VLM `tokenizer.json`,
`training.json`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Annotated, Any, cast

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedTokenizerFast

from harness.models.connectors import build_connector
from harness.models.encoders import VisionEncoder
from harness.models.fusions import Fused
from harness.models.llms import build_llm, cache_name, prefill, splice
from harness.models.tokenizer import ANSWER, BOS, EOS, PAD, UNKNOWN
from harness.schema import Connector, Encoder, Frozen, Fusion, HarnessError, Llm, Template, first_fault
from harness.storage import apart
from harness.storage.intake import TOKENIZER_BYTES, hash_files, read_json, read_text, tensors_of

CONFIG, WEIGHTS, TOKENIZER, TRAINING = "config.json", "model.safetensors", "tokenizer.json", "training.json"
FORMAT = 1

SHIPPED = Path(__file__).parent / "checkpoints"
"""The reference family: one folder for each (encoder, LLM)."""
SHIPPED_PREFIX = "shipped:"
"""A checkpoint of the reference family goes by this and its folder's name, so that no record holds a machine's path."""


class VlmSpec(Frozen):
    """The content of `config.json`."""

    format: Annotated[int, Field(ge=FORMAT, le=FORMAT)] = FORMAT
    encoder: Encoder
    also: tuple[Encoder, ...] = ()
    connector: Connector
    fusion: Fusion | None = None
    llm: Llm
    training_form: bool
    """Whether the stored encoder still has its training branches; they are fused when it is loaded."""
    template: Template | None = None
    """How a dialogue is written, where the LLM brought its tokenizer; None: the reference family's way."""


class Vlm(nn.Module):
    """The three parts as modules, with one method for each stage of `harness.schema`'s vocabulary."""

    def __init__(
        self,
        spec: VlmSpec,
        tokenizer: PreTrainedTokenizerFast | None = None,
        attention: str = "sdpa",
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        resolution: int | None = None,
    ):
        """Build with random weights on `device`. A tokenizer that is given decides the vocabulary's size where the LLM
        leaves it open (0); `resolution` (of the first encoder; None: its own) the number of visual tokens that the
        connector is made for."""
        super().__init__()
        self.spec = spec
        self.tokenizer = tokenizer
        llm = spec.llm
        if tokenizer is not None and not llm.config.get("vocab_size"):
            llm = llm.model_copy(update={"config": {**llm.config, "vocab_size": len(tokenizer)}})
        if not llm.config.get("vocab_size"):
            raise HarnessError(f"llm {llm.name} has no vocabulary of its own: it exists only as a trained checkpoint")
        width = llm.config["hidden_size"]
        sides = [resolution or spec.encoder.native, *(encoder.native for encoder in spec.also)]
        towers = zip((spec.encoder, *spec.also), sides, strict=True)
        inputs = [(encoder.visual_tokens(side), encoder.features) for encoder, side in towers]
        with torch.device(device):
            self.encoder = VisionEncoder(spec.encoder, spec.training_form).to(dtype)
            self.also = nn.ModuleList(VisionEncoder(encoder) for encoder in spec.also).to(dtype)
            self.connector = build_connector(spec.connector, inputs, width).to(dtype)
            self.fused = Fused(spec.fusion, width).to(dtype) if spec.fusion else None
        self.llm = build_llm(llm, attention, device, dtype)  # never in float32 first: it may be most of the memory
        if self.fused is not None:
            self.fused.attach(self.llm)

    def prepare(self, resolution: int) -> None:
        """Fit position embeddings to the resolutions at which the encoders will see an image."""
        self.encoder.prepare(resolution)
        for encoder in self.also:
            cast(VisionEncoder, encoder).prepare(cast(VisionEncoder, encoder).spec.native)

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, R, R) -> visual tokens (B, N, features)."""
        return self.encoder(pixels)  # type: ignore[no-any-return]

    def project(self, *features: Tensor) -> Tensor:
        """Visual tokens (B, N, features) of each encoder -> (B, M, width of the LLM)."""
        return self.connector(*features)  # type: ignore[no-any-return]

    def prompt(self, visual: Tensor, before: Tensor, after: Tensor) -> Tensor:
        """Splice visual tokens (B, N, W) between text ids (B, T0) and (B, T1) -> embeddings (B, T0 + N + T1, W).

        Where text only attends to them, the sequence is text alone: (B, T0 + T1, W).
        """
        if self.fused is not None:
            memory = getattr(self.connector, "memory", None)
            self.fused.memory = visual if memory is None else memory
            self.fused.places = slice(before.shape[1], before.shape[1] + visual.shape[1])
            if not self.fused.spec.in_sequence:
                return self.llm.get_input_embeddings()(torch.cat([before, after], dim=1))  # type: ignore[no-any-return]
        return splice(self.llm, before, visual, after)

    def prefill(self, embeddings: Tensor) -> tuple[Tensor, DynamicCache]:
        """Embeddings (B, L, W) -> logits of the last position (B, vocabulary) and the KV cache."""
        return prefill(self.llm, embeddings)

    def decode(self, ids: Tensor, cache: DynamicCache, keep: int = 1) -> Tensor:
        """More ids (B, T) on top of `cache`, which grows -> logits of the last positions (B, keep, vocabulary)."""
        given = {cache_name(self.llm.__class__): cache}
        out = self.llm(input_ids=ids, **given, use_cache=True, logits_to_keep=keep)
        return out.logits  # type: ignore[no-any-return]

    def question_ids(self, question: str) -> tuple[list[int], list[int]]:
        """Token ids before and after the image for one question."""
        tokenizer, template = self.text(), self.spec.template
        if template is not None:
            texts = (template.bos + template.system + template.user, f"\n{question}{template.reply}")
            before, after = (list(tokenizer.encode(text, add_special_tokens=False)) for text in texts)
            return before, after
        bos, answer = tokenizer.convert_tokens_to_ids([BOS, ANSWER])
        return [bos], [*tokenizer.encode(question, add_special_tokens=False), answer]

    def text(self) -> PreTrainedTokenizerFast:
        """The tokenizer, or an error: a VLM of random weights has none."""
        if self.tokenizer is None:
            raise HarnessError(
                f"{self.spec.encoder.name} + {self.spec.llm.name} has no tokenizer: its weights are random"
            )
        return self.tokenizer

    @property
    def end(self) -> int:
        """Id of the token that ends an answer."""
        return int(self.text().convert_tokens_to_ids(self.spec.template.end if self.spec.template else EOS))

    def save(
        self,
        folder: Path,
        training: dict[str, Any] | None = None,
        dtype: torch.dtype = torch.float16,
        state: dict[str, Tensor] | None = None,
    ) -> None:
        """Write the folder. Matrices are stored in `dtype`, vectors (norms, biases, statistics) in fp32. `state` holds
        the weights where they are not in these modules (they were trained in several processes).

        The weights are written last and by renaming, so a folder with weights is complete.
        """
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).write_text(self.spec.model_dump_json(indent=1) + "\n")
        if self.tokenizer is not None:
            self.tokenizer.backend_tokenizer.save(str(folder / TOKENIZER))
        if training is not None:
            (folder / TRAINING).write_text(json.dumps(training, indent=1) + "\n")
        tied = {"llm.lm_head.weight"} if self.llm.config.tie_word_embeddings else set()
        own = self.state_dict() if state is None else state
        state = stored({name: value for name, value in own.items() if name not in tied}, dtype)
        part = folder / (WEIGHTS + ".part")
        save_file(state, part, metadata={"format": "pt"})
        part.chmod(0o644)  # safetensors writes for the owner alone
        part.replace(folder / WEIGHTS)


def stored(state: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Weights as they are written: matrices in `dtype`, vectors (norms, biases, statistics) in fp32."""
    return {
        name: value.to(dtype if value.dim() > 1 else torch.float32).contiguous() if value.is_floating_point() else value
        for name, value in state.items()
    }


def folder_of(checkpoint: str) -> Path:
    """Where a point's checkpoint lies."""
    if checkpoint.startswith(SHIPPED_PREFIX):
        return SHIPPED / checkpoint.removeprefix(SHIPPED_PREFIX)
    return Path(checkpoint)


def is_ours(folder: Path) -> bool:
    """Whether a folder holds a composed VLM, and not one in the hub's format: both have a `config.json`."""
    try:
        content = read_json(folder / CONFIG)
    except HarnessError:
        return False
    return isinstance(content, dict) and "training_form" in content


def read_spec(folder: Path, own: Encoder | None = None) -> VlmSpec:
    """`config.json` of a VLM folder.

    A file never names code to import: an encoder with a `target` is accepted only if it is that of `own`, which the
    user's own configuration gives.
    """
    path = folder / CONFIG
    try:
        spec = VlmSpec.model_validate(read_json(path))
    except ValidationError as error:
        raise HarnessError(f"{path}: {first_fault(error)}") from error
    for encoder in (spec.encoder, *spec.also):
        if encoder.target and (own is None or encoder.target != own.target):
            raise HarnessError(
                f"{path}: encoder.target={encoder.target} names code, which a checkpoint may not; "
                f"where it is yours, give the encoder by a YAML of your own: encoder=NAME"
            )
    return spec


def check_checkpoint(folder: Path, own: Encoder | None = None) -> VlmSpec:
    """The specification of a VLM folder whose files fit each other: looked at in a process of its own, since models
    and tokenizers are built from what is stored. The reference family is not looked at: it came with this code.

    Raises `HarnessError` for what is missing, foreign, damaged or does not fit.
    """
    spec = read_spec(folder, own)
    if folder.parent != SHIPPED:
        _fits(str(folder), own.model_dump_json() if own is not None else "", hash_checkpoint(folder))
    return spec


@cache
def _fits(folder: str, own: str, _content: str) -> None:
    """Ask once for each content."""
    try:
        apart.call("harness.models.vlm:inspect", {"folder": folder, "own": own})
    except HarnessError as error:
        raise HarnessError(error if folder in str(error) else f"{folder}: {error}") from error


def inspect(folder: str, own: str) -> None:
    """Whether the weights and the tokenizer of a folder are those of its `config.json`; nothing is allocated."""
    path = Path(folder)
    vlm = _build(path, Encoder.model_validate_json(own) if own else None, "sdpa", "meta")
    if vlm.spec.encoder.target:  # whatever it does beside its state is the user's own
        return
    wanted = {name: tuple(value.shape) for name, value in vlm.state_dict().items()}
    found = tensors_of(path / WEIGHTS)
    for name in sorted(_expected(vlm, wanted.keys() - found.keys()) | (found.keys() - wanted.keys())):
        raise HarnessError(f"{path / WEIGHTS} does not fit {CONFIG}: tensor {name} has no counterpart")
    for name, shape in found.items():
        if shape != wanted[name]:
            raise HarnessError(f"{path / WEIGHTS} does not fit {CONFIG}: {name} is {shape}, expected {wanted[name]}")


def _build(folder: Path, own: Encoder | None, attention: str, device: str) -> Vlm:
    """The modules that a folder describes, with random weights."""
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise HarnessError(f"no checkpoint in {folder}: {CONFIG} and {WEIGHTS} are expected there")
    spec = read_spec(folder, own)
    tokenizer = read_tokenizer(folder / TOKENIZER, spec.template) if (folder / TOKENIZER).is_file() else None
    try:
        return Vlm(spec, tokenizer, attention, device)
    except (TypeError, ValueError, RuntimeError, AssertionError, LookupError, ArithmeticError) as error:
        raise HarnessError(f"{folder / CONFIG}: its parts cannot be built: {error}") from error


def _expected(vlm: Vlm, missing: Iterable[str]) -> set[str]:
    """Of the tensors that a file does not have, those that it should have."""
    tied = {"llm.lm_head.weight"} if vlm.llm.config.tie_word_embeddings else set()
    return {name for name in missing if name not in tied and not name.endswith("num_batches_tracked")}


def load_vlm(folder: Path, attention: str = "sdpa", training: bool = False, own: Encoder | None = None) -> Vlm:
    """Read a folder that `Vlm.save` wrote; in inference form unless it is loaded for `training`.

    `own` is the encoder that the user's own configuration gives (see `read_spec`). Whoever is not in a process that may
    hang or die asks `check_checkpoint` first.
    """
    vlm = _build(folder, own, attention, "cpu")
    try:
        state = {name: value.float() for name, value in load_file(folder / WEIGHTS).items()}
        missing, unexpected = vlm.load_state_dict(state, strict=False)
    except (SafetensorError, RuntimeError, OSError, ValueError) as error:
        raise HarnessError(f"{folder / WEIGHTS} does not fit {CONFIG}: {error}") from error
    if strange := sorted(_expected(vlm, missing) | {*unexpected}):
        raise HarnessError(f"{folder / WEIGHTS} does not fit {CONFIG}: tensor {strange[0]} has no counterpart")
    check_finite(vlm, folder / WEIGHTS)
    if not training:
        vlm.encoder.fuse()
    return vlm.eval()


def check_finite(model: nn.Module, where: object) -> None:
    """Refuse weights that hold a NaN or an infinity: what such a model answers is not a result."""
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise HarnessError(f"{where}: the weights are not finite: {name} holds a NaN or an infinity")


def move(vlm: Vlm, device: str, dtype: torch.dtype) -> Vlm:
    """The VLM on a device and in a dtype; the LLM's rotary frequencies stay in float32, as transformers keeps them."""
    vlm.encoder.to(dtype)
    vlm.connector.to(dtype)
    for parameter in vlm.llm.parameters():
        parameter.data = parameter.data.to(dtype)
    return vlm.to(device).eval()


def hash_checkpoint(folder: Path) -> str:
    """The first 16 hex digits of the SHA-256 of everything that decides what a saved VLM answers."""
    return hash_files(folder / name for name in (CONFIG, WEIGHTS, TOKENIZER) if (folder / name).is_file())


SPECIAL = re.compile(r"<\|[^|<>]+\|>|</?s>")
"""How templates write tokens that are no text."""


def read_tokenizer(path: Path, template: Template | None = None) -> PreTrainedTokenizerFast:
    """A `tokenizer.json` of the reference family, or one of an LLM that knows every special token of `template`."""
    if template is not None:
        return _read_llms(path, template)
    read_json(path)  # bounded, before it is parsed again
    names = {"bos_token": BOS, "eos_token": EOS, "sep_token": ANSWER, "pad_token": PAD, "unk_token": UNKNOWN}
    try:
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(path), **names)
    except Exception as error:  # the tokenizers library raises bare ones
        raise HarnessError(f"{path}: not a tokenizer: {error}") from error
    known = tokenizer.get_vocab()
    if missing := [name for name in names.values() if name not in known]:
        raise HarnessError(f"{path}: not a tokenizer of this project: it has no {missing[0]}")
    return tokenizer


def _read_llms(path: Path, template: Template) -> PreTrainedTokenizerFast:
    """The tokenizer that an LLM brought: a million values and more, so that its own library alone looks at them."""
    stored = read_text(path, TOKENIZER_BYTES)
    try:
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(stored))
    except Exception as error:  # the tokenizers library raises bare ones
        raise HarnessError(f"{path}: not a tokenizer: {error}") from error
    text = template.bos + template.system + template.user + template.reply + template.after
    known = tokenizer.get_vocab()
    for token in (template.end, *SPECIAL.findall(text)):
        if token not in known:
            raise HarnessError(f"{path}: it has no token {token} of template {template.name}; give another template=")
    tokenizer.eos_token = template.end
    return tokenizer


def vocabulary_of(folder: Path) -> int:
    """Size of the vocabulary of a saved VLM, from the header of its weights."""
    shape = tensors_of(folder / WEIGHTS).get("llm.model.embed_tokens.weight", ())
    if len(shape) != 2:
        raise HarnessError(f"{folder / WEIGHTS}: no embedding of tokens (llm.model.embed_tokens.weight)")
    return shape[0]
