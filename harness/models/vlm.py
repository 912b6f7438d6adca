"""A VLM: (vision encoder, connector, LLM), as separate stages that a bench can time and an answerer can call.

A sequence is  <bos> | visual tokens | question | <answer> | answer | <eos>.  Saved as a folder: `config.json` (the
three specifications), `model.safetensors`, and for a trained VLM `tokenizer.json`, `training.json`.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedTokenizerFast

from harness.models.connectors import build_connector
from harness.models.encoders import VisionEncoder
from harness.models.fusions import Fused
from harness.models.llms import build_llm, cache_name, prefill, splice
from harness.models.tokenizer import ANSWER, BOS, EOS
from harness.schema import Connector, Encoder, Fusion, HarnessError, Llm, Noun, first_fault

CONFIG, WEIGHTS, TOKENIZER, TRAINING = "config.json", "model.safetensors", "tokenizer.json", "training.json"
FORMAT = 1

SHIPPED = Path(__file__).parent / "checkpoints"
"""The reference family: one folder for each (encoder, LLM)."""
SHIPPED_PREFIX = "shipped:"
"""A checkpoint of the reference family goes by this and its folder's name, so that no record holds a machine's path."""


class VlmSpec(Noun):
    """The content of `config.json`."""

    format: int = FORMAT
    encoder: Encoder
    also: tuple[Encoder, ...] = ()
    connector: Connector
    fusion: Fusion | None = None
    llm: Llm
    training_form: bool
    """Whether the stored encoder still has its training branches; they are fused when it is loaded."""


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
        """Build with random weights on `device`. A tokenizer that is given decides the vocabulary's size; `resolution`
        (of the first encoder; None: its own) the number of visual tokens that the connector is made for."""
        super().__init__()
        self.spec = spec
        self.tokenizer = tokenizer
        llm = spec.llm
        if tokenizer is not None:
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
        tokenizer = self.text()
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
        return int(self.text().convert_tokens_to_ids(EOS))

    def save(self, folder: Path, training: dict[str, Any] | None = None) -> None:
        """Write the folder. Matrices are stored in fp16, vectors (norms, biases, statistics) in fp32.

        The weights are written last and by renaming, so a folder with weights is complete.
        """
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).write_text(self.spec.model_dump_json(indent=1) + "\n")
        if self.tokenizer is not None:
            self.tokenizer.backend_tokenizer.save(str(folder / TOKENIZER))
        if training is not None:
            (folder / TRAINING).write_text(json.dumps(training, indent=1) + "\n")
        tied = {"llm.lm_head.weight"} if self.llm.config.tie_word_embeddings else set()
        state = {
            name: (value.half() if value.dim() > 1 else value.float()).contiguous()
            if value.is_floating_point()
            else value
            for name, value in self.state_dict().items()
            if name not in tied
        }
        part = folder / (WEIGHTS + ".part")
        save_file(state, part, metadata={"format": "pt"})
        part.chmod(0o644)  # safetensors writes for the owner alone
        part.replace(folder / WEIGHTS)


def folder_of(checkpoint: str) -> Path:
    """Where a point's checkpoint lies."""
    if checkpoint.startswith(SHIPPED_PREFIX):
        return SHIPPED / checkpoint.removeprefix(SHIPPED_PREFIX)
    return Path(checkpoint)


def is_ours(folder: Path) -> bool:
    """Whether a folder holds a composed VLM, and not one in the hub's format: both have a `config.json`."""
    try:
        content = json.loads((folder / CONFIG).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and "training_form" in content


def read_spec(folder: Path) -> VlmSpec:
    """`config.json` of a VLM folder."""
    try:
        return VlmSpec.model_validate_json((folder / CONFIG).read_text())
    except ValidationError as error:
        raise HarnessError(f"{folder / CONFIG}: {first_fault(error)}") from error


def load_vlm(folder: Path, attention: str = "sdpa", training: bool = False) -> Vlm:
    """Read a folder that `Vlm.save` wrote; in inference form unless it is loaded for `training`."""
    if not (folder / WEIGHTS).is_file() or not (folder / CONFIG).is_file():
        raise HarnessError(f"no checkpoint in {folder}: {CONFIG} and {WEIGHTS} are expected there")
    spec = read_spec(folder)
    tokenizer = read_tokenizer(folder / TOKENIZER) if (folder / TOKENIZER).is_file() else None
    vlm = Vlm(spec, tokenizer, attention)
    try:
        state = {name: value.float() for name, value in load_file(folder / WEIGHTS).items()}
        missing, unexpected = vlm.load_state_dict(state, strict=False)
    except (SafetensorError, RuntimeError) as error:
        raise HarnessError(f"{folder / WEIGHTS} does not fit {CONFIG}: {str(error).splitlines()[0]}") from error
    missing = [name for name in missing if name != "llm.lm_head.weight" or not vlm.llm.config.tie_word_embeddings]
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise HarnessError(
            f"{folder / WEIGHTS} does not fit {CONFIG}: tensor {(missing + unexpected)[0]} has no counterpart"
        )
    if not training:
        vlm.encoder.fuse()
    return vlm.eval()


def move(vlm: Vlm, device: str, dtype: torch.dtype) -> Vlm:
    """The VLM on a device and in a dtype; the LLM's rotary frequencies stay in float32, as transformers keeps them."""
    vlm.encoder.to(dtype)
    vlm.connector.to(dtype)
    for parameter in vlm.llm.parameters():
        parameter.data = parameter.data.to(dtype)
    return vlm.to(device).eval()


def hash_checkpoint(folder: Path) -> str:
    """The first 16 hex digits of the SHA-256 of everything that decides what a saved VLM answers."""
    digest = hashlib.sha256()
    for name in (CONFIG, WEIGHTS, TOKENIZER):
        if (folder / name).is_file():
            digest.update(name.encode() + (folder / name).read_bytes())
    return digest.hexdigest()[:16]


def read_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    """A `tokenizer.json` of the reference family."""
    return PreTrainedTokenizerFast(
        tokenizer_file=str(path), bos_token=BOS, eos_token=EOS, sep_token=ANSWER, pad_token="<pad>", unk_token="<unk>"
    )


def vocabulary_of(folder: Path) -> int:
    """Size of the vocabulary of a saved VLM, from the header of its weights."""
    with safe_open(folder / WEIGHTS, "pt") as file:
        return int(file.get_slice("llm.model.embed_tokens.weight").get_shape()[0])
