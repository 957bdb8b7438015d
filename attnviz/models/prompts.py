"""A picture and a prompt as a model with words takes them, and the answer that it generates."""

import inspect
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attnviz.errors import UsageError
from attnviz.models.processor_places import PictureTensor
from attnviz.models.transcript import count_words

_PLACEHOLDER = re.compile(r"(image|video|audio|vision|img|pad).*token.*(id|index)|pad_token_id")
_TOKENS_PER_WORD = 8
"""The most tokens that are generated for each word that is wanted."""


@dataclass(frozen=True, eq=False)
class Prompted:
    """A picture and a prompt as the model takes them.

    Attributes:
        prompt: the prompt.
        arguments: the model's arguments by name.
        pictures: where the tensors of the picture among them lie in the picture.
        start: (1, n) the first tokens of the sequence that the answer continues.
    """

    prompt: str
    arguments: Mapping[str, Any]
    pictures: Mapping[str, PictureTensor]
    start: Tensor | None


@dataclass(frozen=True, eq=False)
class PromptRun:
    """The arguments of one run over prompt and answer.

    Attributes:
        arguments: the model's arguments by name.
        pictures: as of `Prompted`.
        ids: the answer's tokens.
        length: number of tokens of the whole sequence.
        prompt, given, cut: as of `Transcript`.
        placeholders: numbers of tokens that stand for the picture.
        prompt_ids: numbers of the text tokens of the prompt in the sequence, and the tokens.
    """

    arguments: Mapping[str, Any]
    pictures: Mapping[str, PictureTensor]
    ids: tuple[int, ...]
    length: int
    prompt: str
    given: bool
    cut: bool
    placeholders: tuple[int, ...]
    prompt_ids: tuple[tuple[int, int], ...]


def placeholders(module: Any, processor: Any) -> set[int]:
    """Tokens that stand for pictures or padding, as a model's config and its processor say."""
    found = set()
    for holder in (module.config, processor):
        for name in dir(holder):
            if _PLACEHOLDER.fullmatch(name):
                value = getattr(holder, name, None)
                found |= {value} if isinstance(value, int) and value >= 0 else set()
    ends = getattr(module.generation_config, "eos_token_id", None)
    return found - ({ends} if ends is None or isinstance(ends, int) else {*ends})


def generate(
    module: Any,
    prompted: Prompted,
    decode: Callable[[Sequence[int]], str],
    words: int,
    mute: set[int],
    *,
    first: bool = False,
) -> tuple[Tensor, int]:
    """The whole sequence (1, n) with a greedy answer, and how many tokens of it are the answer.

    Args:
        module: a model of transformers.
        prompted: picture and prompt.
        decode: from tokens to text.
        words: the most words; the answer ends once one more has begun.
        mute: tokens that are not generated.
        first: whether to generate one token alone.
    """
    begun: list[int] = []

    def enough(sequence: Tensor, _: Any, **__: Any) -> Tensor:
        begun.append(sequence.shape[1] - 1)
        count = count_words(decode(sequence[0, begun[0] :].tolist()))
        return torch.tensor([count > words], device=sequence.device)

    stated = getattr(module.generation_config, "suppress_tokens", None) or ()
    settings: dict[str, Any] = {
        "max_new_tokens": 1 if first else _TOKENS_PER_WORD * words,
        "do_sample": False,
        "num_beams": 1,
        "suppress_tokens": sorted(mute | {*stated}) or None,
        "stopping_criteria": [enough],
    }
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries, on how they call each other
        found = module.generate(**prompted.arguments, **settings)
    count = len(begun)  # it is asked once for each token
    if found.shape[1] > count or prompted.start is None:
        return found, count
    return torch.cat([prompted.start.to(found), found], 1), count


def given(sequence: Tensor, count: int, answer: Sequence[int]) -> tuple[Tensor, int]:
    """A generated sequence with another answer in place of its own, and the answer's length.

    So the tokens before it are those that the model itself continues: with the decoder's start,
    and without an end behind the prompt.

    Raises:
        UsageError: the answer has no tokens.
    """
    if not answer:
        raise UsageError("--answer is empty; give the words to look at")
    before = sequence[:, : sequence.shape[1] - count]
    return torch.cat([before, before.new_tensor([answer])], 1), len(answer)


def run_arguments(
    module: Any, prompted: Prompted, sequence: Tensor, count: int, *, across: bool
) -> dict[str, Any]:
    """The arguments of one run over a whole sequence, whose last `count` tokens are the answer.

    The model itself says how masks, positions and the like grow with it. Logits are made where
    they are needed alone. `across` says that the sequence is that of a decoder beside an encoder.
    """
    if across:
        return {**prompted.arguments, "decoder_input_ids": sequence}
    kept = {name: each for name, each in prompted.arguments.items() if name != "input_ids"}
    assert prompted.start is not None  # a decoder alone has a prompt
    mask = kept.get("attention_mask")
    before = prompted.start.shape[1] if mask is None else mask.shape[1]
    grow = module._update_model_kwargs_for_generation  # noqa: SLF001 — what `generate` calls
    for _ in range(sequence.shape[1] - before):
        kept = grow({}, kept, is_encoder_decoder=False, num_new_tokens=1)
    kept |= {
        name: torch.nn.functional.pad(each, (0, sequence.shape[1] - before))
        for name, each in kept.items()
        if _marks(each) and each.shape == (1, before)  # which of the tokens show the picture
    }
    names = inspect.signature(module.forward).parameters
    wanted = {**kept, "use_cache": False, "logits_to_keep": count + 1, "input_ids": sequence}
    return {name: each for name, each in wanted.items() if name in names}


def _marks(value: Any) -> bool:
    """Whether a value says yes or no of each token."""
    return isinstance(value, Tensor) and not value.is_floating_point() and bool(value.max() <= 1)
