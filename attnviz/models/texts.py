"""Runs the text tower and tokenizer of CLIP, SigLIP and similar models."""

import importlib.util
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from attnviz.errors import MissingExtraError, ModelError, UsageError
from attnviz.models.aliases import Alias
from attnviz.models.failures import explain, tried
from attnviz.models.model_request import no_text_tower
from attnviz.models.vision import unit
from attnviz.models.weights import few

SIGLIP = ("siglip", "siglip2")
TOWERS = ("clip", "altclip", "chinese_clip", *SIGLIP)
"""Model types of transformers with a tower for pictures and one for texts."""
FAMILIES = ("CLIPVisionConfig", "SiglipVisionConfig")
"""Configs of the image encoders of such models, by the names in `aliases`."""
# Without one of these files AutoTokenizer silently makes a vocabulary of two tokens.
VOCABULARIES = (
    "tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model",
    "sentencepiece.bpe.model",
)  # fmt: skip
SHOWN = 40
"""Number of letters of a text that an error quotes."""


class Texts:
    """A function from texts to their embeddings; its text tower runs apart from the image encoder.

    Embeddings are cached, so that the text tower does not run while attention is recorded.
    """

    def __init__(self, spec: str, model: Any, tokenizer: Any) -> None:
        self._spec = spec
        self._model = model
        self._tokenizer = tokenizer
        self._embedded_texts: dict[str, Tensor] = {}

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """N texts → (n, features) float32, of length 1, without a graph.

        Raises:
            UsageError: a text is longer than the model reads.
            ModelError: the tokenizer belongs to another model.
        """
        for text in texts:
            if text not in self._embedded_texts:
                self._embedded_texts[text] = self._embedded(text)
        return torch.cat([self._embedded_texts[text] for text in texts])

    def _embedded(self, text: str) -> Tensor:
        """(1, features)."""
        inputs = {name: ids.to(self._model.device) for name, ids in self._tokens(text).items()}
        with torch.no_grad():
            return unit(self._model.get_text_features(**inputs))

    def _tokens(self, text: str) -> dict[str, Tensor]:
        """The arguments of the text tower, in the form that it was trained with.

        SigLIP was trained on lower case, padded to the full length, with no mask over the padding
        (2303.15343; lower case also 2502.14786, §2.1, though the tokenizers saved with SigLIP 2 are
        plain Gemma's).
        """
        config, length = self._model.config.text_config, self._length()
        padded = self._model.config.model_type in SIGLIP
        found = self._tokenizer(
            text.lower() if padded else text,
            padding="max_length" if padded else False,
            max_length=length if padded else None,
            truncation=False,
            return_tensors="pt",
        )
        names = ("input_ids",) if padded else ("input_ids", "attention_mask")
        ids: Tensor = found["input_ids"]
        if ids.shape[1] > length:
            short = text if len(text) <= SHOWN else text[:SHOWN] + "…"
            raise UsageError(
                f"--text {short!r} is {ids.shape[1]} tokens, and {self._spec} reads {length}; give "
                "a shorter text"
            )
        if int(ids.max()) >= config.vocab_size:
            raise ModelError(
                f"{self._spec}: its tokenizer has tokens that its text tower has not; save both "
                "of one checkpoint"
            )
        return {name: found[name] for name in names if name in found}

    def _length(self) -> int:
        """The maximal number of tokens of a text."""
        config = self._model.config.text_config
        length = int(config.max_position_embeddings)
        if config.model_type == "altclip_text_model":  # RoBERTa's start after padding's
            length -= int(config.pad_token_id) + 1
        return min(length, int(self._tokenizer.model_max_length))


def check_towers(spec: str, config: Any) -> None:
    """Refuse a checkpoint without a text tower before it is downloaded.

    Raises:
        ModelError: its model type has no text tower.
    """
    if config.model_type not in TOWERS:
        raise no_text_tower(spec, f"its model type is {config.model_type!r}")


def check_family(spec: str, alias: Alias) -> None:
    """Refuse a short name of a model without a text tower before anything is downloaded.

    Raises:
        ModelError: its family has no text tower.
    """
    if alias.config not in FAMILIES:
        raise no_text_tower(spec, f"{alias.family} knows pictures alone")


def check_complete(spec: str, missing: Collection[str]) -> None:
    """Refuse a checkpoint that lacks weights of either tower, which would be drawn at random.

    Raises:
        ModelError: some weights are missing.
    """
    if missing:
        why = f"its checkpoint lacks {len(missing)} weights of the two towers: {few(list(missing))}"
        raise no_text_tower(spec, why)


def find_tokenizer(library: Any, spec: str, name: str, revision: str | None) -> Any:
    """The tokenizer that a checkpoint was saved with.

    Raises:
        ModelError: there is no tokenizer, or it cannot be read.
        MissingExtraError: a library that reads it is not installed.
    """
    if not tried(spec, name, lambda: _has_vocabulary(name, revision)):
        raise ModelError(
            f"{spec}: no tokenizer lies beside its weights, which --text needs; save the model's "
            "own there with save_pretrained"
        )
    try:
        return library.AutoTokenizer.from_pretrained(
            name, revision=revision, trust_remote_code=False
        )
    except Exception as error:  # transformers gives another reason if a library is missing
        if not _reads_sentencepiece():
            raise MissingExtraError(f"{spec}: its tokenizer", "hf") from error
        raise ModelError(explain(spec, name, error)) from error


def _reads_sentencepiece() -> bool:
    """Whether the libraries that read SigLIP's and XLM-R's vocabularies are installed."""
    try:
        return all(map(importlib.util.find_spec, ("sentencepiece", "google.protobuf")))
    except ModuleNotFoundError:  # no package `google` at all
        return False


def _has_vocabulary(name: str, revision: str | None) -> bool:
    from transformers.utils.hub import cached_file  # noqa: PLC0415 — an optional library

    return any(
        cached_file(name, file, revision=revision, _raise_exceptions_for_missing_entries=False)
        for file in VOCABULARIES
    )
