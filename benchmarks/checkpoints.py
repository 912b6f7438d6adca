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
    AyaVisionConfig,
    AyaVisionForConditionalGeneration,
    AyaVisionProcessor,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipImageProcessor,
    CLIPImageProcessor,
    Cohere2VisionConfig,
    Cohere2VisionForConditionalGeneration,
    Cohere2VisionImageProcessor,
    Cohere2VisionProcessor,
    FastVlmConfig,
    FastVlmForConditionalGeneration,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessor,
    Gemma3Processor,
    GotOcr2Config,
    GotOcr2ForConditionalGeneration,
    GotOcr2ImageProcessor,
    GotOcr2Processor,
    Idefics2Config,
    Idefics2ForConditionalGeneration,
    Idefics2ImageProcessor,
    Idefics2Processor,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    Llama4Config,
    Llama4ForConditionalGeneration,
    Llama4ImageProcessor,
    Llama4Processor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    LlavaProcessor,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    MllamaConfig,
    MllamaForConditionalGeneration,
    MllamaImageProcessor,
    MllamaProcessor,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    PixtralImageProcessor,
    PixtralProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
    SiglipImageProcessor,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
    VipLlavaConfig,
    VipLlavaForConditionalGeneration,
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
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
}
"""Sizes of most vision towers."""

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


def qwen_tokenizer() -> tuple[PreTrainedTokenizerFast, dict[str, int]]:
    """Qwen's special tokens, and where a configuration names them."""
    names = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    tokenizer = tokenizer_of(["<|im_start|>", "<|im_end|>", *names.values()], QWEN, "<|im_end|>")
    return tokenizer, {field: tokenizer.convert_tokens_to_ids(name) for field, name in names.items()}


def qwen2_vl(folder: Path) -> Path:
    """Qwen2-VL: any size of image, rotary positions in three dimensions."""
    tokenizer, ids = qwen_tokenizer()
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
        **ids,
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


def llava_next(folder: Path) -> Path:
    """LLaVA-NeXT: an overview and tiles of any aspect ratio, a mark at the end of each line."""
    tokenizer = tokenizer_of(["<image>"], LLAVA)
    grid = [[56, 112], [112, 56], [112, 112]]
    config = LlavaNextConfig(
        vision_config={"model_type": "clip_vision_model", **VISION, "num_hidden_layers": 3, "projection_dim": 32},
        text_config={"model_type": "llama", **TEXT},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=grid,
    )
    processor = LlavaNextProcessor(
        LlavaNextImageProcessor(
            size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}, image_grid_pinpoints=grid
        ),
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA,
    )
    return save(LlavaNextForConditionalGeneration(config), processor, folder)


def vipllava(folder: Path) -> Path:
    """ViP-LLaVA: features of several layers of CLIP side by side."""
    tokenizer = tokenizer_of(["<image>"], LLAVA)
    config = VipLlavaConfig(
        vision_config={"model_type": "clip_vision_model", **VISION, "num_hidden_layers": 3, "projection_dim": 32},
        text_config={"model_type": "llama", **TEXT},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layers=[-2, 1],
        vision_feature_layer=[-2, 1],
    )
    processor = LlavaProcessor(
        square(56),
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA,
    )
    return save(VipLlavaForConditionalGeneration(config), processor, folder)


def aya_vision(folder: Path) -> Path:
    """Aya Vision: tiles, pixel shuffle; the token in the prompt is another one than that of the sequence."""
    special = ["<image>", "<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "TILE", "TILE_GLOBAL"]
    tokenizer = tokenizer_of(special, LLAVA)
    config = AyaVisionConfig(
        vision_config={"model_type": "siglip_vision_model", **VISION, "vision_use_head": False},
        text_config={"model_type": "cohere2", **TEXT, "sliding_window": 4096, "bos_token_id": 1, "eos_token_id": 2}
        | {"pad_token_id": 0},
        image_token_index=tokenizer.convert_tokens_to_ids("<|IMG_PATCH|>"),
        vision_feature_layer=-1,
        adapter_layer_norm_eps=1e-6,
    )
    processor = AyaVisionProcessor(
        GotOcr2ImageProcessor(size={"height": 56, "width": 56}, crop_to_patches=True, min_patches=1, max_patches=4),
        tokenizer,
        patch_size=14,
        img_size=56,
        downsample_factor=2,
        chat_template=LLAVA,
    )
    return save(AyaVisionForConditionalGeneration(config), processor, folder)


def cohere2_vision(folder: Path) -> Path:
    """Command A Vision: tiles, pixel shuffle, Cohere2."""
    named = {
        "image_token": "<|IMG_PATCH|>",
        "boi_token": "<|START_OF_IMG|>",
        "eoi_token": "<|END_OF_IMG|>",
        "img_line_break_token": "<|IMG_LINE_BREAK|>",
    }
    template = LLAVA.replace("<image>", "<|IMG_PATCH|>")
    tokenizer = tokenizer_of([*named.values()], template, named=named)
    config = Cohere2VisionConfig(
        vision_config={"model_type": "siglip_vision_model", **VISION, "vision_use_head": False},
        text_config={"model_type": "cohere2", **TEXT, "sliding_window": 4096, "bos_token_id": 1, "eos_token_id": 2}
        | {"pad_token_id": 0},
        image_token_id=tokenizer.convert_tokens_to_ids("<|IMG_PATCH|>"),
        alignment_intermediate_size=64,
    )
    images = Cohere2VisionImageProcessor(
        size={"height": 56, "width": 56}, crop_to_patches=True, min_patches=1, max_patches=4, patch_size=2
    )
    processor = Cohere2VisionProcessor(images, tokenizer, chat_template=template)
    return save(Cohere2VisionForConditionalGeneration(config), processor, folder)


def gemma3(folder: Path) -> Path:
    """Gemma 3: visual tokens see each other, layers with a sliding window; the processor's image token begins an image
    and is not the one that stands for its features."""
    named = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    template = LLAVA.replace("<image>", "<start_of_image>")
    tokenizer = tokenizer_of([*named.values()], template, named=named)
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in named.items()}
    config = Gemma3Config(
        vision_config={"model_type": "siglip_vision_model", **VISION, "vision_use_head": False},
        text_config={"model_type": "gemma3_text", **TEXT, "head_dim": 16, "sliding_window": 64}
        | {"layer_types": ["sliding_attention", "full_attention"], "query_pre_attn_scalar": 16}
        | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
        image_token_index=ids["image_token"],
        boi_token_index=ids["boi_token"],
        eoi_token_index=ids["eoi_token"],
        mm_tokens_per_image=4,
        tie_word_embeddings=False,
    )
    processor = Gemma3Processor(
        Gemma3ImageProcessor(size={"height": 56, "width": 56}),
        tokenizer,
        image_seq_length=4,
        chat_template=template,
    )
    return save(Gemma3ForConditionalGeneration(config), processor, folder)


def idefics2(folder: Path) -> Path:
    """Idefics2: images of any size and aspect ratio within bounds, a perceiver of four latents."""
    tokenizer = tokenizer_of(["<image>", "<fake_token_around_image>", "<end_of_utterance>"], SMOL, "<end_of_utterance>")
    config = Idefics2Config(
        vision_config={**VISION, "image_size": 112},
        perceiver_config={
            "hidden_size": 32,
            "resampler_n_latents": 4,
            "resampler_depth": 1,
            "resampler_n_heads": 2,
            "resampler_head_dim": 16,
            "num_key_value_heads": 1,
        },
        text_config={"model_type": "mistral", **TEXT, "sliding_window": None},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    images = Idefics2ImageProcessor(size={"shortest_edge": 56, "longest_edge": 112}, do_image_splitting=False)
    processor = Idefics2Processor(images, tokenizer, image_seq_len=4, chat_template=SMOL)
    return save(Idefics2ForConditionalGeneration(config), processor, folder)


def idefics3(folder: Path) -> Path:
    """Idefics3: as SmolVLM, with Llama 3."""
    cells = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
    special = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", "<|im_start|>", *cells]
    tokenizer = tokenizer_of(special, SMOL, "<end_of_utterance>")
    config = Idefics3Config(
        vision_config={**VISION, "image_size": 64, "patch_size": 16},
        text_config={"model_type": "llama", **TEXT, "pad_token_id": 0},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    images = Idefics3ImageProcessor(size={"longest_edge": 128}, max_image_size={"longest_edge": 64})
    processor = Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=SMOL)
    return save(Idefics3ForConditionalGeneration(config), processor, folder)


def mistral3(folder: Path) -> Path:
    """Mistral 3: Pixtral with rotary positions, images of any size up to a longest edge, marks at the ends of lines."""
    special = ["[IMG]", "[IMG_BREAK]", "[IMG_END]"]
    template = LLAVA.replace("<image>", "[IMG]")
    tokenizer = tokenizer_of(special, template)
    config = Mistral3Config(
        vision_config={"model_type": "pixtral", **VISION, "image_size": 112},
        text_config={"model_type": "mistral", **TEXT, "head_dim": 16, "sliding_window": None},
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        spatial_merge_size=2,
    )
    processor = PixtralProcessor(
        PixtralImageProcessor(size={"longest_edge": 112}, patch_size=14),
        tokenizer,
        patch_size=14,
        spatial_merge_size=2,
        chat_template=template,
    )
    return save(Mistral3ForConditionalGeneration(config), processor, folder)


def qwen2_5_vl(folder: Path) -> Path:
    """Qwen2.5-VL: as Qwen2-VL, with windows in the vision tower."""
    tokenizer, ids = qwen_tokenizer()
    config = Qwen2_5_VLConfig(
        text_config={
            **TEXT,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "patch_size": 14,
            "window_size": 56,
            "fullatt_block_indexes": [1],
            "out_hidden_size": 32,
        },
        **ids,
    )
    processor = Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(min_pixels=56 * 56, max_pixels=140 * 140),
        tokenizer,
        Qwen2VLVideoProcessor(),
        chat_template=QWEN,
    )
    return save(Qwen2_5_VLForConditionalGeneration(config), processor, folder)


def qwen3_vl(folder: Path) -> Path:
    """Qwen3-VL: features of several layers of the tower are added within the LLM."""
    tokenizer, ids = qwen_tokenizer()
    config = Qwen3VLConfig(
        text_config={
            **TEXT,
            "head_dim": 16,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}
            | {"mrope_interleaved": True},
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "patch_size": 16,
            "out_hidden_size": 32,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0],
        },
        **ids,
    )
    processor = Qwen3VLProcessor(
        Qwen2VLImageProcessor(min_pixels=64 * 64, max_pixels=160 * 160, patch_size=16),
        tokenizer,
        Qwen3VLVideoProcessor(),
        chat_template=QWEN,
    )
    return save(Qwen3VLForConditionalGeneration(config), processor, folder)


def llama4(folder: Path) -> Path:
    """Llama 4: tiles and a global view, experts, attention in chunks."""
    special = ["<|image|>", "<|image_start|>", "<|image_end|>", "<|patch|>", "<|tile_x_separator|>"]
    template = LLAVA.replace("<image>", "<|image|>")
    tokenizer = tokenizer_of([*special, "<|tile_y_separator|>"], template)
    config = Llama4Config(
        vision_config={**VISION, "vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32}
        | {"intermediate_size": 128},
        text_config={**TEXT, "head_dim": 16, "intermediate_size_mlp": 64, "num_local_experts": 2}
        | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
        image_token_index=tokenizer.convert_tokens_to_ids("<|patch|>"),
        boi_token_index=tokenizer.convert_tokens_to_ids("<|image_start|>"),
        eoi_token_index=tokenizer.convert_tokens_to_ids("<|image_end|>"),
    )
    processor = Llama4Processor(
        Llama4ImageProcessor(size={"height": 56, "width": 56}, max_patches=4), tokenizer, chat_template=template
    )
    return save(Llama4ForConditionalGeneration(config), processor, folder)


def got_ocr2(folder: Path) -> Path:
    """GOT-OCR 2.0: SAM's tower with relative positions, Qwen2."""
    special = ["<|im_start|>", "<|im_end|>", "<img>", "</img>", "<imgpad>"]
    tokenizer = tokenizer_of(special, None, "<|im_end|>")
    config = GotOcr2Config(
        vision_config={
            "hidden_size": 32,
            "output_channels": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 256,
            "patch_size": 4,
            "window_size": 8,
            "global_attn_indexes": [],
            "mlp_dim": 64,
        },
        text_config={"model_type": "qwen2", **TEXT},
        image_token_index=tokenizer.convert_tokens_to_ids("<imgpad>"),
        image_seq_length=256,
    )
    processor = GotOcr2Processor(GotOcr2ImageProcessor(size={"height": 256, "width": 256}), tokenizer)
    return save(GotOcr2ForConditionalGeneration(config), processor, folder)


def mllama(folder: Path) -> Path:
    """Llama 3.2 Vision: its text attends to the image, no visual token is in the sequence."""
    template = LLAVA.replace("<image>", "<|image|>")
    tokenizer = tokenizer_of(["<|image|>", "<|python_tag|>"], template)
    config = MllamaConfig(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_global_layers": 1,
            "attention_heads": 2,
            "vision_output_dim": 64,
            "image_size": 56,
            "intermediate_layers_indices": [0],
            "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
            "max_num_tiles": 2,
        },
        text_config={**TEXT, "cross_attention_layers": [1], "pad_token_id": 0},
        image_token_index=tokenizer.convert_tokens_to_ids("<|image|>"),
    )
    images = MllamaImageProcessor(size={"height": 56, "width": 56}, max_image_tiles=2)
    processor = MllamaProcessor(images, tokenizer, chat_template=template)
    return save(MllamaForConditionalGeneration(config), processor, folder)


QFORMER = {
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "encoder_hidden_size": 32,
}
OPT = {
    "model_type": "opt",
    "vocab_size": 400,
    "hidden_size": 32,
    "word_embed_proj_dim": 32,
    "ffn_dim": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def blip2(folder: Path) -> Path:
    """BLIP-2: a Q-Former between the tower and OPT."""
    tokenizer = tokenizer_of(["<image>"], None)
    config = Blip2Config(
        vision_config=VISION,
        qformer_config=QFORMER,
        text_config=OPT,
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    processor = Blip2Processor(BlipImageProcessor(size={"height": 56, "width": 56}), tokenizer, num_query_tokens=4)
    return save(Blip2ForConditionalGeneration(config), processor, folder)


def instructblip(folder: Path) -> Path:
    """InstructBLIP: the question goes through the Q-Former, together with the image."""
    tokenizer = tokenizer_of(["<image>"], None)
    config = InstructBlipConfig(
        vision_config=VISION,
        qformer_config=QFORMER,
        text_config=OPT,
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    images = BlipImageProcessor(size={"height": 56, "width": 56})
    processor = InstructBlipProcessor(images, tokenizer, tokenizer_of([], None), num_query_tokens=4)
    return save(InstructBlipForConditionalGeneration(config), processor, folder)


def florence2(folder: Path) -> Path:
    """Florence-2: DaViT, and BART's encoder over image and task together."""
    tokenizer = tokenizer_of(["<image>"], None, named={"image_token": "<image>"})
    config = Florence2Config(
        vision_config={
            "depths": [1, 1, 1, 1],
            "embed_dim": [8, 8, 16, 16],
            "num_heads": [1, 1, 1, 1],
            "num_groups": [1, 1, 1, 1],
            "window_size": 4,
            "projection_dim": 32,
        },
        text_config={
            "model_type": "bart",
            "vocab_size": 400,
            "d_model": 32,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "max_position_embeddings": 256,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    images = CLIPImageProcessor(
        size={"height": 128, "width": 128}, crop_size={"height": 128, "width": 128}, do_center_crop=False
    )
    images.image_seq_length = 16
    processor = Florence2Processor(images, tokenizer)
    return save(Florence2ForConditionalGeneration(config), processor, folder)


KINDS: dict[str, Callable[[Path], Path]] = {
    "fast_vlm": fast_vlm,
    "llava": llava,
    "llava_question_first": llava_question_first,
    "qwen2_vl": qwen2_vl,
    "smolvlm": smolvlm,
    "paligemma": paligemma,
    "llava_onevision": llava_onevision,
    "internvl": internvl,
    "llava_next": llava_next,
    "vipllava": vipllava,
    "aya_vision": aya_vision,
    "cohere2_vision": cohere2_vision,
    "gemma3": gemma3,
    "idefics2": idefics2,
    "idefics3": idefics3,
    "mistral3": mistral3,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "got_ocr2": got_ocr2,
}
"""Published VLMs that answer as their own `generate` does."""

REFUSED: dict[str, Callable[[Path], Path]] = {
    "llama4": llama4,
    "mllama": mllama,
    "blip2": blip2,
    "instructblip": instructblip,
    "florence2": florence2,
}
"""Published VLMs that cannot be cut into our stages; `harness.models.hub` says why."""
