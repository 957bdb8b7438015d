"""Small models with words: whole checkpoint folders with tokenizer, chat template and processor.

Weights are random, processors and architectures are those of transformers.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

transformers: Any = pytest.importorskip("transformers")
tokenizers: Any = pytest.importorskip("tokenizers")
WIDTH = 64
SEEN = {"hidden_size": WIDTH, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4}  # fmt: skip
CORPUS = [
    "What is the cat sitting on? Describe the picture. A red mat and a blue mug, side by side."
]
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}IMAGE{% else %}{{ c['text'] }}{% endif %}{% endfor %}<end>"
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


def template(image: str) -> str:
    """A chat template that writes `image` for each picture."""
    return TEMPLATE.replace("IMAGE", image)


def tokenizer(
    extra: Mapping[str, str], more: tuple[str, ...] = (), side: str = "left", around: bool = False
) -> Any:
    """A byte-level tokenizer with special tokens, by the names of its attributes.

    With `around` it writes a beginning and an end around each text.
    """
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<end>", *more, *extra.values()]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=420, special_tokens=list(dict.fromkeys(special)), show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    made.train_from_iterator(CORPUS, trainer)
    if around:
        made.post_processor = tokenizers.processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
        )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        extra_special_tokens=dict(extra), padding_side=side,
    )  # fmt: skip


def spoken(words: Any, **more: Any) -> dict[str, Any]:
    """The numbers of a small language model."""
    return {
        "hidden_size": WIDTH, "intermediate_size": 96, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": len(words) + 64,
        "max_position_embeddings": 4096, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
        **more,
    }  # fmt: skip


def save(folder: Path, kind: Any, config: Any, processor: Any) -> None:
    """Save a model with random weights, which never ends an answer, and its processor."""
    torch.manual_seed(0)
    model = kind(config).eval()
    numbers = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.ndim > 1:
                weights.add_(torch.randn(weights.shape, generator=numbers) * 0.08)
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def llava(folder: Path, side: int = 6, **more: Any) -> None:
    """CLIP's tower and a projector; the middle of the picture, as a square of side × side."""
    words = tokenizer({"image_token": "<image>"})
    pixels = 14 * side
    pictures = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": pixels}, crop_size={"height": pixels, "width": pixels}
    )
    tower = transformers.CLIPVisionConfig(**SEEN, image_size=pixels, patch_size=14)
    config = transformers.LlavaConfig(
        vision_config=tower, text_config=transformers.LlamaConfig(**spoken(words, **more)),
        image_token_id=words.image_token_id, image_token_index=words.image_token_id,
        image_seq_length=side**2,
    )  # fmt: skip
    processor = transformers.LlavaProcessor(
        pictures, words, patch_size=14, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=template("<image>"),
    )  # fmt: skip
    save(folder, transformers.LlavaForConditionalGeneration, config, processor)


def llava_next(folder: Path) -> None:
    """A thumbnail, and tiles whose padding is taken off; a token ends each row."""
    words = tokenizer({"image_token": "<image>"})
    shapes = [[56, 112], [112, 56], [112, 112]]
    pictures = transformers.LlavaNextImageProcessorPil(
        size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56},
        image_grid_pinpoints=shapes,
    )  # fmt: skip
    tower = transformers.CLIPVisionConfig(**SEEN, image_size=56, patch_size=14)
    config = transformers.LlavaNextConfig(
        vision_config=tower, text_config=transformers.LlamaConfig(**spoken(words)),
        image_token_id=words.image_token_id, image_token_index=words.image_token_id,
        image_grid_pinpoints=shapes, image_seq_length=16,
    )  # fmt: skip
    processor = transformers.LlavaNextProcessor(
        pictures, words, patch_size=14, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=template("<image>"),
    )  # fmt: skip
    save(folder, transformers.LlavaNextForConditionalGeneration, config, processor)


def idefics3(folder: Path) -> None:
    """SmolVLM's: tiles and a thumbnail, four patches to a token."""
    names = tuple(f"<row_{a}_col_{b}>" for a in range(1, 7) for b in range(1, 7))
    words = tokenizer(
        {"image_token": "<image>", "fake_image_token": "<fake_token_around_image>",
         "global_image_token": "<global-img>", "end_of_utterance_token": "<end_of_utterance>"},
        names,
    )  # fmt: skip
    pictures = transformers.Idefics3ImageProcessorPil(
        size={"longest_edge": 128}, max_image_size={"longest_edge": 64}
    )
    config = transformers.Idefics3Config(
        vision_config={**SEEN, "image_size": 64, "patch_size": 8},
        text_config=transformers.LlamaConfig(**spoken(words)),
        image_token_id=words.image_token_id, scale_factor=2, pad_token_id=0,
    )  # fmt: skip
    processor = transformers.Idefics3Processor(
        pictures, words, image_seq_len=16, chat_template=template("<image>")
    )
    save(folder, transformers.Idefics3ForConditionalGeneration, config, processor)


def gemma3(folder: Path) -> None:
    """Pooled patches, attention both ways over the picture, a sliding window, grouped heads."""
    words = tokenizer({"boi_token": "<boi>", "eoi_token": "<eoi>", "image_token": "<img_soft>"})
    pictures = transformers.Gemma3ImageProcessorPil(
        size={"height": 64, "width": 64}, do_pan_and_scan=False
    )
    text = transformers.Gemma3TextConfig(
        **spoken(words, head_dim=16, sliding_window=32),
        layer_types=["sliding_attention", "full_attention", "full_attention"],
    )
    config = transformers.Gemma3Config(
        vision_config=transformers.SiglipVisionConfig(**SEEN, image_size=64, patch_size=8),
        text_config=text, mm_tokens_per_image=16, image_token_id=words.image_token_id,
        image_token_index=words.image_token_id,
        boi_token_index=words.convert_tokens_to_ids("<boi>"),
        eoi_token_index=words.convert_tokens_to_ids("<eoi>"),
    )  # fmt: skip
    processor = transformers.Gemma3Processor(
        pictures, words, chat_template=template("<boi>"), image_seq_length=16
    )
    save(folder, transformers.Gemma3ForConditionalGeneration, config, processor)


def paligemma(folder: Path) -> None:
    """A prefix of the picture; attention both ways over prefix and prompt."""
    words = tokenizer({"image_token": "<image>"})
    pictures = transformers.SiglipImageProcessorPil(size={"height": 64, "width": 64})
    pictures.image_seq_length = 16
    text = transformers.GemmaConfig(
        **{**spoken(words, head_dim=16), "vocab_size": len(words) + 1400}
    )
    config = transformers.PaliGemmaConfig(
        vision_config=transformers.SiglipVisionConfig(**SEEN, image_size=64, patch_size=16),
        text_config=text, image_token_id=words.image_token_id,
        image_token_index=words.image_token_id, projection_dim=WIDTH, hidden_size=WIDTH,
    )  # fmt: skip
    processor = transformers.PaliGemmaProcessor(pictures, words)
    save(folder, transformers.PaliGemmaForConditionalGeneration, config, processor)


def mllama(folder: Path) -> None:
    """Llama 3.2 Vision: some layers attend across to tiles."""
    words = tokenizer({"image_token": "<|image|>", "python": "<|python_tag|>"})
    shapes = [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]]
    tower = {
        "hidden_size": WIDTH, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_global_layers": 1, "attention_heads": 4, "image_size": 56, "patch_size": 14,
        "intermediate_layers_indices": [0, 1], "vision_output_dim": 3 * WIDTH, "max_num_tiles": 4,
        "supported_aspect_ratios": shapes,
    }  # fmt: skip
    text = {**spoken(words), "num_hidden_layers": 4, "cross_attention_layers": [1, 3]}
    config = transformers.MllamaConfig(
        vision_config=tower, text_config=text, image_token_id=words.image_token_id,
        image_token_index=words.image_token_id,
    )  # fmt: skip
    pictures = transformers.MllamaImageProcessorPil(
        size={"height": 56, "width": 56}, max_image_tiles=4
    )
    processor = transformers.MllamaProcessor(pictures, words, chat_template=template("<|image|>"))
    save(folder, transformers.MllamaForConditionalGeneration, config, processor)


def _captioner(folder: Path, pictures: Any, tower: Any, kind: Any) -> None:
    words = tokenizer({}, side="right")
    decoder = transformers.TrOCRConfig(
        vocab_size=len(words) + 64, d_model=WIDTH, decoder_layers=3, decoder_attention_heads=4,
        decoder_ffn_dim=96, max_position_embeddings=64, cross_attention_hidden_size=WIDTH,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(tower, decoder)
    config.decoder_start_token_id, config.pad_token_id = 1, 0
    save(folder, transformers.VisionEncoderDecoderModel, config, kind(pictures, words))


def trocr(folder: Path) -> None:
    """A ViT and a decoder that attends across; it takes no prompt."""
    tower = transformers.ViTConfig(**SEEN, image_size=64, patch_size=16)
    pictures = transformers.ViTImageProcessorPil(size={"height": 64, "width": 64})
    _captioner(folder, pictures, tower, transformers.TrOCRProcessor)


def donut(folder: Path) -> None:
    """A Swin and a decoder that attends across; the picture is padded."""
    tower = transformers.DonutSwinConfig(
        image_size=[64, 96], patch_size=4, embed_dim=16, depths=[1, 1, 1], num_heads=[2, 2, 4],
        window_size=4,
    )  # fmt: skip
    pictures = transformers.DonutImageProcessorPil(size={"height": 64, "width": 96})
    _captioner(folder, pictures, tower, transformers.DonutProcessor)


def git(folder: Path) -> None:
    """Tokens of the picture stand before the text, which has no place for it."""
    words = tokenizer({}, side="right")
    tower = {**SEEN, "image_size": 64, "patch_size": 16}
    config = transformers.GitConfig(
        vision_config=tower, **SEEN, vocab_size=len(words) + 64, max_position_embeddings=128,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    pictures = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}
    )
    processor = transformers.GitProcessor(pictures, words)
    save(folder, transformers.GitForCausalLM, config, processor)


def blip(folder: Path) -> None:
    """A decoder that begins with the prompt and attends across."""
    words = tokenizer({}, side="right", around=True)
    text = {
        **SEEN, "vocab_size": len(words) + 64, "encoder_hidden_size": WIDTH, "bos_token_id": 1,
        "eos_token_id": 2, "pad_token_id": 0, "sep_token_id": 2, "max_position_embeddings": 128,
    }  # fmt: skip
    tower = {**SEEN, "image_size": 64, "patch_size": 16}
    config = transformers.BlipConfig(text_config=text, vision_config=tower, projection_dim=WIDTH)
    pictures = transformers.BlipImageProcessorPil(size={"height": 64, "width": 64})
    processor = transformers.BlipProcessor(pictures, words)
    save(folder, transformers.BlipForConditionalGeneration, config, processor)


def pix2struct(folder: Path) -> None:
    """Flat patches with their row and column, as many as fit."""
    words = tokenizer({}, side="right")
    seen = {
        "hidden_size": WIDTH, "patch_embed_hidden_size": 768, "d_ff": 96, "d_kv": 16,
        "num_hidden_layers": 2, "num_attention_heads": 4, "seq_len": 128,
    }  # fmt: skip
    text = {
        "vocab_size": len(words) + 64, "hidden_size": WIDTH, "d_kv": 16, "d_ff": 96,
        "num_layers": 3, "num_heads": 4, "decoder_start_token_id": 0, "pad_token_id": 0,
        "eos_token_id": 2,
    }  # fmt: skip
    config = transformers.Pix2StructConfig(text_config=text, vision_config=seen)
    pictures = transformers.Pix2StructImageProcessorPil()
    processor = transformers.Pix2StructProcessor(pictures, words)
    save(folder, transformers.Pix2StructForConditionalGeneration, config, processor)


def florence2(folder: Path) -> None:
    """The encoder of text reads the picture, and the decoder attends across to both."""
    words = tokenizer({"image_token": "<image>"}, side="right", around=True)
    text = {
        "vocab_size": len(words) + 64, "d_model": WIDTH, "encoder_layers": 2, "decoder_layers": 3,
        "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 96,
        "decoder_ffn_dim": 96, "max_position_embeddings": 256, "pad_token_id": 0,
        "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2,
        "forced_eos_token_id": None,
    }  # fmt: skip
    tower = {
        "embed_dim": [16, 16, 32, 32], "depths": [1, 1, 1, 1], "num_heads": [2, 2, 4, 4],
        "num_groups": [2, 2, 4, 4], "window_size": 4, "projection_dim": WIDTH,
        "max_position_embeddings": 20,
    }  # fmt: skip
    config = transformers.Florence2Config(
        text_config=transformers.BartConfig(**text), vision_config=tower,
        image_token_id=words.image_token_id,
    )  # fmt: skip
    pictures = transformers.CLIPImageProcessorPil(
        size={"height": 128, "width": 128}, do_center_crop=False
    )
    pictures.image_seq_length = 17
    processor = transformers.Florence2Processor(pictures, words)
    save(folder, transformers.Florence2ForConditionalGeneration, config, processor)


def pixtral(folder: Path) -> None:
    """A picture of any shape; a token ends each row."""
    words = tokenizer(
        {"image_token": "[IMG]", "image_break_token": "[IMG_BREAK]", "image_end_token": "[IMG_END]"}
    )
    tower = transformers.PixtralVisionConfig(**SEEN, head_dim=16, image_size=96, patch_size=16)
    config = transformers.LlavaConfig(
        vision_config=tower, text_config=transformers.MistralConfig(**spoken(words, head_dim=16)),
        image_token_id=words.image_token_id, image_token_index=words.image_token_id,
        vision_feature_layer=-1, vision_feature_select_strategy="full",
    )  # fmt: skip
    pictures = transformers.PixtralImageProcessorPil(
        size={"longest_edge": 96}, patch_size={"height": 16, "width": 16}
    )
    processor = transformers.PixtralProcessor(
        pictures, words, patch_size=16, chat_template=template("[IMG]")
    )
    save(folder, transformers.LlavaForConditionalGeneration, config, processor)


def qwen2_5_vl(folder: Path) -> None:
    """Flat patches in blocks of four, windows, rotary positions in three parts."""
    words, ids, shown = _qwen()
    pictures = transformers.Qwen2VLImageProcessorPil(
        patch_size=14, merge_size=2, min_pixels=28 * 28 * 20, max_pixels=28 * 28 * 60
    )
    tower = {
        "depth": 3, "hidden_size": WIDTH, "out_hidden_size": WIDTH, "intermediate_size": 96,
        "num_heads": 4, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2,
        "window_size": 56, "fullatt_block_indexes": [2], "in_channels": 3,
    }  # fmt: skip
    config = transformers.Qwen2_5_VLConfig(
        text_config=spoken(words, rope_parameters=ROTARY), vision_config=tower, **ids
    )
    clips = transformers.Qwen2VLVideoProcessor(patch_size=14, merge_size=2)
    processor = transformers.Qwen2_5_VLProcessor(pictures, words, clips, chat_template=shown)
    save(folder, transformers.Qwen2_5_VLForConditionalGeneration, config, processor)


def qwen3_vl(folder: Path) -> None:
    """As Qwen2.5-VL, whose tower feeds several layers of the language model."""
    words, ids, shown = _qwen()
    pictures = transformers.Qwen2VLImageProcessorPil(
        patch_size=16, merge_size=2, min_pixels=32 * 32 * 20, max_pixels=32 * 32 * 60,
        image_mean=[0.5] * 3, image_std=[0.5] * 3,
    )  # fmt: skip
    tower = {
        "depth": 3, "hidden_size": WIDTH, "out_hidden_size": WIDTH, "intermediate_size": 96,
        "num_heads": 4, "patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2,
        "deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64, "in_channels": 3,
    }  # fmt: skip
    config = transformers.Qwen3VLConfig(
        text_config=spoken(words, rope_parameters=ROTARY, head_dim=16), vision_config=tower, **ids
    )
    clips = transformers.Qwen3VLVideoProcessor(patch_size=16, merge_size=2)
    processor = transformers.Qwen3VLProcessor(pictures, words, clips, chat_template=shown)
    save(folder, transformers.Qwen3VLForConditionalGeneration, config, processor)


def internvl(folder: Path) -> None:
    """Tiles, four patches to a token."""
    words = tokenizer(
        {"start_image_token": "<img>", "end_image_token": "</img>",
         "context_image_token": "<IMG_CONTEXT>", "video_token": "<video>"}
    )  # fmt: skip
    pictures = transformers.GotOcr2ImageProcessorPil(
        size={"height": 56, "width": 56}, crop_to_patches=True, min_patches=1, max_patches=6
    )
    tower = {**SEEN, "image_size": [56, 56], "patch_size": [14, 14],
             "use_absolute_position_embeddings": True}  # fmt: skip
    context = words.convert_tokens_to_ids("<IMG_CONTEXT>")
    config = transformers.InternVLConfig(
        vision_config=tower, text_config=transformers.Qwen2Config(**spoken(words)),
        image_token_id=context, image_seq_length=4, downsample_ratio=0.5,
    )  # fmt: skip
    clips = transformers.InternVLVideoProcessor(size={"height": 56, "width": 56})
    processor = transformers.InternVLProcessor(
        pictures, words, clips, image_seq_length=4, chat_template=template("<IMG_CONTEXT>")
    )
    save(folder, transformers.InternVLForConditionalGeneration, config, processor)


def _queried() -> dict[str, Any]:
    """The numbers of a small Q-Former."""
    return {**SEEN, "num_hidden_layers": 4, "encoder_hidden_size": WIDTH,
            "cross_attention_frequency": 2}  # fmt: skip


def blip2(folder: Path) -> None:
    """Eight learned queries read the picture, in every second layer of the Q-Former."""
    words = tokenizer({}, ("<image>",))
    image = words.convert_tokens_to_ids("<image>")
    text = transformers.OPTConfig(
        vocab_size=len(words) + 64, hidden_size=WIDTH, ffn_dim=96, num_hidden_layers=3,
        num_attention_heads=4, max_position_embeddings=256, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, word_embed_proj_dim=WIDTH,
    )  # fmt: skip
    config = transformers.Blip2Config(
        vision_config={**SEEN, "image_size": 64, "patch_size": 16}, text_config=text,
        qformer_config={**_queried(), "vocab_size": 64}, num_query_tokens=8,
        image_token_id=image, image_token_index=image,
    )  # fmt: skip
    pictures = transformers.BlipImageProcessorPil(size={"height": 64, "width": 64})
    processor = transformers.Blip2Processor(pictures, words, num_query_tokens=8)
    save(folder, transformers.Blip2ForConditionalGeneration, config, processor)


def instructblip(folder: Path) -> None:
    """As BLIP-2, whose queries also attend to the prompt."""
    words = tokenizer({}, ("<image>",))
    image = words.convert_tokens_to_ids("<image>")
    config = transformers.InstructBlipConfig(
        vision_config={**SEEN, "image_size": 64, "patch_size": 16},
        qformer_config={**_queried(), "vocab_size": len(words) + 64}, num_query_tokens=8,
        text_config=transformers.LlamaConfig(**spoken(words)),
        image_token_id=image, image_token_index=image,
    )  # fmt: skip
    pictures = transformers.BlipImageProcessorPil(size={"height": 64, "width": 64})
    processor = transformers.InstructBlipProcessor(pictures, words, words, num_query_tokens=8)
    save(folder, transformers.InstructBlipForConditionalGeneration, config, processor)


def idefics2(folder: Path) -> None:
    """Eight learned queries read each of five tiles, in a resampler whose keys they are, too."""
    words = tokenizer(
        {"image_token": "<image>", "image_boundary_token": "<fake_token_around_image>",
         "end_of_utterance_token": "<end_of_utterance>"}
    )  # fmt: skip
    pictures = transformers.Idefics2ImageProcessorPil(
        size={"longest_edge": 96, "shortest_edge": 48}, do_image_splitting=True
    )
    config = transformers.Idefics2Config(
        vision_config={**SEEN, "image_size": 96, "patch_size": 16},
        perceiver_config={
            "resampler_n_latents": 8, "resampler_depth": 2, "resampler_n_heads": 4,
            "num_key_value_heads": 2, "resampler_head_dim": 16, "hidden_size": WIDTH,
        },
        text_config=transformers.MistralConfig(**spoken(words)),
        image_token_id=words.image_token_id, pad_token_id=0,
    )  # fmt: skip
    processor = transformers.Idefics2Processor(
        pictures, words, image_seq_len=8, chat_template=template("<image>")
    )
    save(folder, transformers.Idefics2ForConditionalGeneration, config, processor)


def kosmos2(folder: Path) -> None:
    """64 learned queries read the picture in one call, without a residual."""
    places = tuple(f"<place{number}>" for number in range(64))
    names = ("</doc>", "<image>", "</image>", "</chunk>", "</line>", "<grounding>")
    words = tokenizer({}, ("<unk>", *places, *names))
    words.unk_token = "<unk>"
    text = {
        "vocab_size": len(words) + 64, "max_position_embeddings": 256, "embed_dim": WIDTH,
        "layers": 3, "ffn_dim": 96, "attention_heads": 4, "pad_token_id": 0, "bos_token_id": 1,
        "eos_token_id": 2,
    }  # fmt: skip
    config = transformers.Kosmos2Config(
        text_config=text, vision_config={**SEEN, "image_size": 64, "patch_size": 16},
        latent_query_num=64,
    )  # fmt: skip
    pictures = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}
    )
    processor = transformers.Kosmos2Processor(pictures, words, 4)
    save(folder, transformers.Kosmos2ForConditionalGeneration, config, processor)


def aria(folder: Path) -> None:
    """As many learned queries as the picture has tokens for."""
    words = tokenizer({"image_token": "<image>"})
    text = transformers.AriaTextConfig(
        **spoken(words), moe_num_experts=2, moe_topk=1, moe_num_shared_experts=1
    )
    tower = transformers.Idefics3VisionConfig(**SEEN, image_size=980, patch_size=140)
    config = transformers.AriaConfig(
        vision_config=tower, text_config=text, vision_feature_layer=-1,
        projector_patch_to_query_dict={49: 8}, image_token_index=words.image_token_id,
        image_token_id=words.image_token_id,
    )  # fmt: skip
    pictures = transformers.AriaImageProcessorPil(
        max_image_size=980, min_image_size=336, split_image=False
    )
    processor = transformers.AriaProcessor(
        pictures, words, chat_template=template("<image>"), size_conversion={490: 8, 980: 8}
    )
    save(folder, transformers.AriaForConditionalGeneration, config, processor)


def deepseek_vl_hybrid(folder: Path) -> None:
    """Two encoders, each with its own tensor of the picture; their features lie side by side."""
    words = tokenizer({"image_token": "<image>"})
    high = transformers.SamVisionConfig(
        hidden_size=32, output_channels=32, num_hidden_layers=2, num_attention_heads=4,
        image_size=128, patch_size=16, mlp_dim=48, global_attn_indexes=[1], window_size=4,
    )  # fmt: skip
    config = transformers.DeepseekVLHybridConfig(
        vision_config=transformers.SiglipVisionConfig(**SEEN, image_size=64, patch_size=16),
        high_res_vision_config=high, text_config=transformers.LlamaConfig(**spoken(words)),
        image_token_id=words.image_token_id,
    )  # fmt: skip
    pictures = transformers.DeepseekVLHybridImageProcessorPil(
        size={"height": 64, "width": 64}, high_res_size={"height": 128, "width": 128}
    )
    processor = transformers.DeepseekVLHybridProcessor(
        pictures, words, chat_template=template("<image>"), num_image_tokens=16
    )
    save(folder, transformers.DeepseekVLHybridForConditionalGeneration, config, processor)


ROTARY = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}


def _qwen() -> tuple[Any, dict[str, int], str]:
    """Tokenizer, the numbers of its special tokens, and the chat template."""
    words = tokenizer(
        {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>",
         "vision_bos_token": "<|vision_start|>", "vision_eos_token": "<|vision_end|>"}
    )  # fmt: skip
    ids = {
        "image_token_id": words.image_token_id,
        "video_token_id": words.video_token_id,
        "vision_start_token_id": words.convert_tokens_to_ids("<|vision_start|>"),
        "vision_end_token_id": words.convert_tokens_to_ids("<|vision_end|>"),
    }
    return words, ids, template("<|vision_start|><|image_pad|><|vision_end|>")


PLAIN: dict[str, Callable[[Path], None]] = {
    made.__name__: made
    for made in (
        *(llava, llava_next, idefics3, gemma3, paligemma, mllama, trocr, donut),
        *(git, blip, pix2struct, florence2, deepseek_vl_hybrid),
    )
}
"""Families whose processors need no torchvision."""
WITH_TORCHVISION: dict[str, Callable[[Path], None]] = {
    made.__name__: made for made in (qwen2_5_vl, qwen3_vl, internvl, pixtral)
}
"""Families whose processors need torchvision."""


LEARNED: dict[str, Callable[[Path], None]] = {
    made.__name__: made for made in (blip2, instructblip, idefics2, kosmos2)
}
"""Families whose words see learned queries, which read the picture."""
