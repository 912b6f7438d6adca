"""Random checkpoints in the hub's own format, of any size: what tests and benchmarks use where a download would be.

Their processors are the published ones, their tokenizers know single bytes and the special tokens of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import (
    CLIPImageProcessor,
    FastVlmConfig,
    FastVlmForConditionalGeneration,
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    LlavaProcessor,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    SiglipImageProcessor,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)

TEXT = {
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 4096,
}
"""Sizes of the language model, for any that is not given others."""

GO_ON = "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
LLAVA = (
    """{% for m in messages %}USER: {% for c in m.content %}{% if c.type == 'image' %}<image>
{% else %}{{ c.text }}{% endif %}{% endfor %} {% endfor %}"""
    + GO_ON
)
LAST = (
    """{% for m in messages %}USER: {% for c in m.content %}{% if c.type == 'text' %}{{ c.text }}{% endif %}{% endfor %}
{% for c in m.content %}{% if c.type == 'image' %}<image>{% endif %}{% endfor %}{% endfor %}"""
    + GO_ON
)
"""A template that puts the question before the image."""
QWEN = "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.content %}{% if c.type == 'image' %}"
QWEN += (
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
)
QWEN += "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
SMOL = "{% for m in messages %}<|im_start|>{{ m.role }}:{% for c in m.content %}{% if c.type == 'image' %}<image>"
SMOL += "{% else %}{{ c.text }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
SMOL += "{% if add_generation_prompt %}Assistant:{% endif %}"


def tokenizer_of(
    special: list[str],
    template: str | None,
    end: str = "</s>",
    corpus: Iterable[str] = (),
    named: dict[str, str] | None = None,
) -> PreTrainedTokenizerFast:
    """Special tokens, single bytes, and the words of `corpus`."""
    names = ["<pad>", "<s>", "</s>", "<unk>", *special]
    tokenizer = Tokenizer(BPE(unk_token="<unk>"))  # noqa: S106 (the tokens are words, not passwords)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    size = len(names) + len(alphabet) + (500 if corpus else 0)
    trainer = BpeTrainer(vocab_size=size, special_tokens=names, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",  # noqa: S106
        eos_token=end,
        pad_token="<pad>",  # noqa: S106
        unk_token="<unk>",  # noqa: S106
        extra_special_tokens=named or special,
    )
    made.chat_template = template
    return made


def save(model: Any, processor: Any, folder: Path) -> Path:
    """Write a folder as the hub has it; the weights are such that answers differ from image to image."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                strong = "language_model" in name or "text_model" in name or "lm_head" in name
                parameter.normal_(0, 0.3 if strong else 1.5 * parameter[0].numel() ** -0.5, generator=generator)
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def square(side: int, **more: Any) -> CLIPImageProcessor:
    """CLIP's image processor for squares."""
    return CLIPImageProcessor(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}, do_center_crop=True, **more
    )


def llava(
    folder: Path,
    text: dict[str, Any] | None = None,
    vision: dict[str, Any] | None = None,
    template: str = LLAVA,
    corpus: Iterable[str] = (),
) -> Path:
    """LLaVA-1.5: CLIP ViT, a layer before the last, two linear layers, Llama."""
    tokenizer = tokenizer_of(["<image>"], template, corpus=corpus)
    vision = {
        "model_type": "clip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 56,
        "patch_size": 14,
        "projection_dim": 32,
    } | (vision or {})
    side: Any = vision["image_size"]
    config = LlavaConfig(
        vision_config=vision,
        text_config={"model_type": "llama", **TEXT, **(text or {})},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    processor = LlavaProcessor(
        square(side),
        tokenizer,
        patch_size=vision["patch_size"],
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )
    return save(LlavaForConditionalGeneration(config), processor, folder)


def llava_question_first(folder: Path) -> Path:
    """LLaVA with a template that puts the question before the image."""
    return llava(folder, template=LAST)


def fast_vlm(folder: Path) -> Path:
    """FastVLM: FastViTHD through timm, two linear layers, Qwen2."""
    tokenizer = tokenizer_of(["<image>"], LLAVA)
    config = FastVlmConfig(
        vision_config={
            "model_type": "timm_wrapper",
            "architecture": "fastvit_mci3",
            "do_pooling": True,
            "global_pool": "avg",
            "hidden_size": 64,
            "model_args": {
                "inference_mode": True,
                "layers": [1, 1, 1, 1, 1],
                "embed_dims": [16, 16, 16, 32, 32],
                "mlp_ratios": [1, 1, 1, 1, 1],
            },
        },
        text_config={"model_type": "qwen2", **TEXT},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    processor = LlavaProcessor(
        square(128, image_mean=[0.0] * 3, image_std=[1.0] * 3),
        tokenizer,
        patch_size=64,
        vision_feature_select_strategy="full",
        chat_template=LLAVA,
    )
    return save(FastVlmForConditionalGeneration(config), processor, folder)


def qwen2_vl(folder: Path) -> Path:
    """Qwen2-VL: any size of image, rotary positions in three dimensions."""
    special = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer = tokenizer_of(special, QWEN, "<|im_end|>")
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in special}
    config = Qwen2VLConfig(
        text_config={
            **TEXT,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
        },
        vision_config={
            "depth": 2,
            "embed_dim": 32,
            "hidden_size": 32,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": 14,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    processor = Qwen2VLProcessor(
        Qwen2VLImageProcessor(min_pixels=56 * 56, max_pixels=140 * 140),
        tokenizer,
        Qwen2VLVideoProcessor(),
        chat_template=QWEN,
    )
    return save(Qwen2VLForConditionalGeneration(config), processor, folder)


def smolvlm(folder: Path) -> Path:
    """SmolVLM: tiles and a global view, pixel shuffle, text between the tiles."""
    cells = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
    special = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", "<|im_start|>", *cells]
    tokenizer = tokenizer_of([*special, "<video>"], SMOL, "<end_of_utterance>")
    config = SmolVLMConfig(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 16,
        },
        text_config={"model_type": "llama", **TEXT},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    processor = SmolVLMProcessor(
        SmolVLMImageProcessor(size={"longest_edge": 128}, max_image_size={"longest_edge": 64}),
        tokenizer,
        SmolVLMVideoProcessor(),
        image_seq_len=4,
        chat_template=SMOL,
    )
    return save(SmolVLMForConditionalGeneration(config), processor, folder)


def paligemma(folder: Path) -> Path:
    """PaliGemma: image and question look both ways, so no question's prefill serves another one."""
    tokenizer = tokenizer_of(["<image>"], None)
    processor = PaliGemmaProcessor(
        SiglipImageProcessor(size={"height": 56, "width": 56}, image_seq_length=16), tokenizer
    )
    processor.image_processor.image_seq_length = 16
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = PaliGemmaConfig(
        vision_config={"model_type": "siglip_vision_model", **vision, "image_size": 56, "patch_size": 14},
        text_config={"model_type": "gemma", **TEXT, "head_dim": 16, "vocab_size": len(tokenizer)},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        projection_dim=32,
    )
    return save(PaliGemmaForConditionalGeneration(config), processor, folder)


def llava_onevision(folder: Path) -> Path:
    """LLaVA-OneVision: SigLIP on tiles of any aspect ratio, Qwen2."""
    tokenizer = tokenizer_of(["<image>", "<video>"], LLAVA)
    grid = [[56, 56], [56, 112], [112, 56], [112, 112]]
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlavaOnevisionConfig(
        vision_config={"model_type": "siglip_vision_model", **vision, "image_size": 56, "patch_size": 14}
        | {"vision_use_head": False},
        text_config={"model_type": "qwen2", **TEXT},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=grid,
        vision_feature_layer=-1,
    )
    processor = LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(size={"height": 56, "width": 56}, image_grid_pinpoints=grid),
        tokenizer,
        LlavaOnevisionVideoProcessor(),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=LLAVA,
    )
    return save(LlavaOnevisionForConditionalGeneration(config), processor, folder)


def internvl(folder: Path) -> Path:
    """InternVL: tiles, pixel shuffle, Qwen2."""
    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    template = LLAVA.replace("<image>", "<IMG_CONTEXT>")
    tokenizer = tokenizer_of([*named.values()], template, named=named)
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = InternVLConfig(
        vision_config={"model_type": "internvl_vision", **vision, "image_size": 56, "patch_size": 14},
        text_config={"model_type": "qwen2", **TEXT},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
    )
    processor = InternVLProcessor(
        GotOcr2ImageProcessor(size={"height": 56, "width": 56}, crop_to_patches=True, min_patches=1, max_patches=4),
        tokenizer,
        InternVLVideoProcessor(),
        image_seq_length=4,
        chat_template=template,
    )
    return save(InternVLForConditionalGeneration(config), processor, folder)


KINDS: dict[str, Callable[[Path], Path]] = {
    "fast_vlm": fast_vlm,
    "llava": llava,
    "llava_question_first": llava_question_first,
    "qwen2_vl": qwen2_vl,
    "smolvlm": smolvlm,
    "paligemma": paligemma,
    "llava_onevision": llava_onevision,
    "internvl": internvl,
}
