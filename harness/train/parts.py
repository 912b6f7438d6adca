"""A VLM from the hub's checkpoints of an encoder and an LLM, with a new connector between them.

Folders of the hub are foreign content: configurations are read within bounds, weights are safetensors whose headers
are compared with the modules that this project builds, tokenizers are `tokenizer.json`. No code of a folder is run.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import CONFIG_MAPPING, AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from harness.configuration.compose import ROOT, options
from harness.models.encoders import build_encoder
from harness.models.hub import LARGE, check_index, check_settings, folder_of_hub, hash_hub
from harness.models.vlm import CONFIG, TOKENIZER, WEIGHTS, Vlm, VlmSpec, check_finite, read_tokenizer
from harness.schema import Connector, Encoder, HarnessError, Llm, Template, first_fault
from harness.storage.intake import hash_files, read_json, read_yaml, tensors_of

INDEX = "model.safetensors.index.json"
BOOKKEEPING = (
    *("architectures", "model_type", "dtype", "torch_dtype", "transformers_version", "_name_or_path", "use_cache"),
    *("bos_token_id", "eos_token_id", "pad_token_id"),
)
"""Fields of a configuration that build nothing."""
UNLIKE = ("initializer_range", "max_position_embeddings", "sliding_window", "max_window_layers", "attention_dropout")
"""Fields in which checkpoints of one architecture differ without computing anything else here."""
NAMED = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "tie_word_embeddings"),
)
"""Fields that a specification always has."""
HEADS = ("head", "attn_pool", "fc_norm", "classifier", "head_drop")
"""Parts of a timm model after its last features: not stored here, and not trained."""


def assemble(
    encoder: Encoder, connector: Connector, template: Template, encoder_weights: str, llm_weights: str, seed: int
) -> Vlm:
    """Encoder and LLM with their weights (each a hub id or a folder), the connector's drawn from `seed`.

    Raises `HarnessError`, in one line, for what is missing or does not fit.
    """
    tower, folder = weights_of_encoder(encoder_weights), _folder(llm_weights, "llm_weights")
    llm = llm_of(folder, Path(llm_weights).name)
    if not (folder / TOKENIZER).is_file():
        raise HarnessError(
            f"llm_weights={llm_weights}: there is no {TOKENIZER}; transformers writes one: "
            f"AutoTokenizer.from_pretrained(...).save_pretrained(FOLDER)"
        )
    tokenizer = read_tokenizer(folder / TOKENIZER, template)
    if len(tokenizer) > llm.config["vocab_size"]:
        raise HarnessError(
            f"llm_weights={llm_weights}: {TOKENIZER} has {len(tokenizer)} tokens, the LLM {llm.config['vocab_size']}"
        )
    spec = VlmSpec(
        encoder=encoder,
        connector=connector,
        llm=llm,
        training_form=training_form_of(encoder, tower),
        template=template,
    )
    torch.manual_seed(seed)
    vlm = Vlm(spec, tokenizer)
    _fill(vlm.encoder.backbone, [tower], HEADS)
    _fill(vlm.llm, files_of_llm(folder))
    check_finite(vlm.encoder, tower)
    check_finite(vlm.llm, folder)
    return vlm


def _folder(path: str, option: str) -> Path:
    """A folder, or the hub's snapshot."""
    try:
        return folder_of_hub(path)
    except HarnessError as error:
        raise HarnessError(f"{option}={str(error).removeprefix('vlm ')}") from error


def content_of(path: str) -> str:
    """What names the weights of a hub id, a folder or a file, whatever it is called."""
    return hash_files([Path(path)]) if path.endswith(".safetensors") else hash_hub(folder_of_hub(path))


def llm_of(folder: Path, name: str) -> Llm:
    """The LLM that `config.json` describes: one of `sweeps/llm/` where its sizes are the same, else one of its own."""
    path = folder / CONFIG
    content = read_json(path, whole=LARGE)
    if not isinstance(content, dict):
        raise HarnessError(f"{path}: an object is expected")
    try:
        check_settings(content, CONFIG)
    except HarnessError as error:
        raise HarnessError(f"{folder}/{error}") from error
    kind = content.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING or kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise HarnessError(f"{path}: model_type {kind!r} is not one of transformers' causal language models")
    given = {key: value for key, value in content.items() if key not in BOOKKEEPING and not key.startswith("_")}
    try:
        config = AutoConfig.for_model(kind, **given)
        fields = {key: value for key, value in config.to_diff_dict().items() if key not in BOOKKEEPING}
        fields |= {key: getattr(config, key) for key in NAMED if hasattr(config, key)}
        clean = re.sub(r"[^A-Za-z0-9_.+-]+", "_", name).strip("._+-") or kind
        own = Llm(name=clean, title=name, architecture=kind, config=fields, source=f"{CONFIG} of {name}")
    except ValidationError as error:
        raise HarnessError(f"{path}: {first_fault(error)}") from error
    except Exception as error:  # each configuration class has checks, and errors, of its own
        raise HarnessError(f"{path}: no configuration of {kind}: {error}") from error
    for known in options("llm"):
        listed = Llm(**read_yaml(ROOT / "llm" / f"{known}.yaml"))
        if listed.architecture == kind and _sizes(listed) == _sizes(own):
            return listed
    return own


def _sizes(llm: Llm) -> dict[str, Any]:
    """Everything that decides what an LLM computes."""
    found = AutoConfig.for_model(llm.architecture, **llm.config).to_dict()
    return {key: value for key, value in found.items() if key not in (*BOOKKEEPING, *UNLIKE)}


def files_of_llm(folder: Path) -> list[Path]:
    """The safetensors of an LLM: one, or those that its index names."""
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    if not (folder / INDEX).exists():
        raise HarnessError(f"{folder}: neither {WEIGHTS} nor {INDEX} is there; pickles (.bin) are not read")
    index = read_json(folder / INDEX)
    check_index(index if isinstance(index, dict) else {}, folder)
    return [folder / name for name in sorted(set(index["weight_map"].values()))]


def weights_of_encoder(path: str) -> Path:
    """The safetensors file of an encoder."""
    if path.endswith(".safetensors"):
        return Path(path)
    folder = _folder(path, "encoder_weights")
    if not (folder / WEIGHTS).exists():
        raise HarnessError(f"encoder_weights={path}: there is no {WEIGHTS}; pickles (.bin) are not read")
    return folder / WEIGHTS


def training_form_of(encoder: Encoder, path: Path) -> bool:
    """Whether weights are those of an encoder with its training branches; raises `HarnessError` if they are neither
    these nor those of its inference form."""
    found, faults = tensors_of(path), []
    for form in (True, False):
        backbone = build_encoder(encoder, form, "meta").backbone
        wanted = {name: tuple(value.shape) for name, value in backbone.state_dict().items()}
        missing = sorted(_trained(wanted) - found.keys())
        foreign = sorted(name for name in found.keys() - wanted.keys() if name.partition(".")[0] not in HEADS)
        both = sorted(_trained(wanted) & found.keys())
        unlike = [f"{name} is {found[name]}, expected {wanted[name]}" for name in both if found[name] != wanted[name]]
        if not (missing or foreign or unlike):
            return form
        said = [f"{name} is missing" for name in missing] + [f"{name} is none of its" for name in foreign] + unlike
        faults.append((len(said), said[0]))
    raise HarnessError(f"{path}: these are not the weights of encoder {encoder.name}: {min(faults)[1]}")


def _trained(names: Any) -> set[str]:
    """Tensors that weights have to hold: neither counters nor what comes after the last features."""
    return {name for name in names if not name.endswith("num_batches_tracked") and name.partition(".")[0] not in HEADS}


def _fill(module: nn.Module, files: list[Path], heads: tuple[str, ...] = ()) -> None:
    """Copy safetensors into a module, file by file; raises `HarnessError` where names or shapes differ."""
    own = module.state_dict()
    config = getattr(module, "config", None)
    left = {name for name in own if not name.endswith("num_batches_tracked") and name.partition(".")[0] not in heads}
    if getattr(config, "tie_word_embeddings", False):
        left -= {"lm_head.weight"}
    for file in files:
        shapes = tensors_of(file)
        for name, shape in shapes.items():
            if name not in own and name.partition(".")[0] not in heads and not name.endswith("rotary_emb.inv_freq"):
                raise HarnessError(f"{file}: {name} is no weight of this architecture")
            if name in own and name.partition(".")[0] not in heads and shape != tuple(own[name].shape):
                raise HarnessError(f"{file}: {name} is {shape}, expected {tuple(own[name].shape)}")
        try:
            stored = load_file(file)
        except (SafetensorError, OSError, ValueError) as error:
            raise HarnessError(f"{file}: not readable as safetensors: {error}") from error
        for name in shapes.keys() & own.keys():
            if name.partition(".")[0] not in heads:
                own[name].copy_(stored[name])
        left -= shapes.keys()
    if left:
        raise HarnessError(f"{files[0].parent}: its weights lack {min(left)}")
