"""Small models of pictures and texts, with tokenizers, in folders."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

transformers: Any = pytest.importorskip("transformers")
TEXTS = ["a tabby cat", "a red boat on a lake", "a"]
LENGTH = 24
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
         "intermediate_size": 48}  # fmt: skip
VISION = {**SMALL, "image_size": 64, "patch_size": 16}
TEXT = {**SMALL, "vocab_size": 80, "max_position_embeddings": LENGTH}
SIGLIP = {"text_config": {**TEXT, "projection_size": 32}, "vision_config": VISION}


def byte_pairs(folder: Path) -> None:
    """A vocabulary of letters for CLIP's tokenizer, with one merge."""
    names = ["<|startoftext|>", "<|endoftext|>", *LETTERS, *(f"{a}</w>" for a in LETTERS)]
    names.append("at</w>")
    (folder / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(names)}))
    (folder / "merges.txt").write_text("#version: 0.2\na t</w>\n")


def sentences(folder: Path) -> None:
    """A SentencePiece model as SigLIP's: the end is the padding, too."""
    sentencepiece: Any = pytest.importorskip("sentencepiece")
    pytest.importorskip("google.protobuf")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*TEXTS, *LETTERS] * 3), model_prefix=str(folder / "spiece"),
        vocab_size=60, unk_id=2, eos_id=1, bos_id=-1, pad_id=-1, hard_vocab_limit=False,
        minloglevel=2,
    )  # fmt: skip
    said = {"tokenizer_class": "SiglipTokenizer", "model_input_names": ["input_ids"],
            "model_max_length": LENGTH, "pad_token": "</s>"}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(said))


def gemma(folder: Path) -> None:
    """Letters for SigLIP 2's tokenizer; with no length of its own, as its checkpoints have none."""
    names = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *LETTERS, *LETTERS.upper()]
    tokenizer = transformers.Siglip2Tokenizer(
        vocab={name: i for i, name in enumerate(names)}, merges=[], padding_side="right"
    )
    tokenizer.save_pretrained(folder)


def words(folder: Path) -> None:
    """A vocabulary for BERT's tokenizer."""
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{a}" for a in LETTERS)]
    (folder / "vocab.txt").write_text("\n".join(names))


def multilingual(folder: Path) -> None:
    """Letters for XLM-R's tokenizer."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    vocab = [(name, -0.1 * i) for i, name in enumerate([*special, "▁", *LETTERS, "<mask>"])]
    transformers.XLMRobertaTokenizer(vocab=vocab).save_pretrained(folder)


# Family: config, its arguments, what writes the tokenizer.
FAMILIES: dict[str, tuple[str, dict[str, Any], Callable[[Path], None]]] = {
    "clip": (
        "CLIPConfig",
        {
            "text_config": {**TEXT, "eos_token_id": 1, "bos_token_id": 0, "pad_token_id": 1},
            "vision_config": VISION, "projection_dim": 20,
        },
        byte_pairs,
    ),
    "siglip": ("SiglipConfig", SIGLIP, sentences),
    "siglip 2, of one shape": ("SiglipConfig", SIGLIP, gemma),
    "siglip 2": (
        "Siglip2Config",
        SIGLIP | {"vision_config": {**SMALL, "num_patches": 16, "patch_size": 16}},
        gemma,
    ),
    "altclip": (
        "AltCLIPConfig",
        {
            "text_config": {**TEXT, "max_position_embeddings": LENGTH + 2, "project_dim": 32},
            "vision_config": VISION, "projection_dim": 20,
        },
        multilingual,
    ),
    "chinese clip": (
        "ChineseCLIPConfig",
        {"text_config": TEXT, "vision_config": VISION, "projection_dim": 20},
        words,
    ),
}  # fmt: skip


def build(family: str, folder: Path) -> Path:
    """A folder with a small model of a family, moved off its initial values, and a tokenizer."""
    name, arguments, write = FAMILIES[family]
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(getattr(transformers, name)(**arguments))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    write(folder)
    return folder
