"""A model that answers in words: its processor, its prompt, and the run over prompt and answer."""

import inspect
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from attnviz.errors import AttnvizError, ModelError, UsageError
from attnviz.models.failures import describe
from attnviz.models.processor_places import PictureTensor, measure_processor
from attnviz.models.transcript import Transcript, Word, find_words

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


@dataclass(frozen=True, eq=False)
class WordInput:
    """A model that answers in words, with its processor.

    Attributes:
        spec: the spec that the model was loaded by, for errors.
        module: a model of transformers that generates text.
        processor: its processor, with a tokenizer.
    """

    spec: str
    module: Any
    processor: Any

    @property
    def tokenizer(self) -> Any:
        """The tokenizer."""
        return getattr(self.processor, "tokenizer", self.processor)

    @property
    def has_encoder(self) -> bool:
        """Whether a decoder of its own says the words, and attends across to an encoder."""
        return bool(self.module.config.is_encoder_decoder)

    def prompted(self, picture: Image.Image, prompt: str) -> Prompted:
        """A picture and a prompt as the model takes them, measured through the processor.

        Raises:
            ModelError: the processor fails, or shows the model nothing of the picture.
        """
        written = self._written(prompt)
        try:
            made = self._processed(picture, written)
            pictures = measure_processor(
                lambda other: self._processed(other, written), picture.width, picture.height
            )
        except Exception as error:
            raise ModelError(
                f"{self.spec}: its processor refuses the picture with this prompt "
                f"({describe(error)}); try another --prompt, or another picture"
            ) from error
        names = self._names()
        if names is not None:
            made = {name: each for name, each in made.items() if name in names}
        pictures = {name: each for name, each in pictures.items() if name in made}
        if not pictures:
            raise ModelError(
                f"{self.spec}: its processor makes no numbers that change with the picture; give a "
                "--prompt with a place for the picture, or another model"
            )
        start = made.get("input_ids")
        if self._decodes_prompt and prompt:
            found = self.tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
            start = made["decoder_input_ids"] = found["input_ids"]
        return Prompted(prompt, self._moved(made), pictures, None if self.has_encoder
                        and not self._decodes_prompt else start)  # fmt: skip

    @property
    def _decodes_prompt(self) -> bool:
        """Whether the prompt begins the decoder's text, as there is no other place for it."""
        return "input_ids" not in inspect.signature(self.module.forward).parameters

    def _written(self, prompt: str) -> str | None:
        """The prompt as the processor takes it: in the chat template, if there is one."""
        if self._decodes_prompt:
            return None
        if getattr(self.processor, "chat_template", None) is None:
            return prompt
        message = [{"type": "image"}, {"type": "text", "text": prompt}]
        return str(
            self.processor.apply_chat_template(
                [{"role": "user", "content": message}], add_generation_prompt=True, tokenize=False
            )
        )

    def _processed(self, picture: Image.Image, written: str | None) -> dict[str, Any]:
        """What the processor makes of a picture and a text."""
        text = {} if written is None else {"text": [written]}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries, on how they call each other
            made = self.processor(images=[picture], **text, return_tensors="pt")
        return {name: each for name, each in made.items() if name != "labels"}

    def _names(self) -> set[str] | None:
        """The arguments of the model; None if it takes any."""
        parameters = inspect.signature(self.module.forward).parameters
        return set(parameters)

    def _moved(self, made: Mapping[str, Any]) -> dict[str, Any]:
        """Tensors on the model's device, floats in its format."""
        moved = {}
        for name, each in made.items():
            moved[name] = each
            if isinstance(each, Tensor):
                kind = self.module.dtype if each.is_floating_point() else each.dtype
                moved[name] = each.to(self.module.device, kind)
        return moved

    def answered(
        self, prompted: Prompted, answer: str | Sequence[int] | None, words: int
    ) -> PromptRun:
        """Generate an answer, or take the given one, and make the arguments of the run over all.

        Args:
            prompted: picture and prompt.
            answer: an answer to look at, or its tokens; None generates one, greedily.
            words: the most words.

        Raises:
            UsageError: the given answer has no token, or more words than wanted.
            ModelError: the model does not generate.
        """
        if answer is None:
            sequence, count = self._generated(prompted, words)
        else:
            sequence, count = self._given(prompted, answer)
        ids = sequence[0, sequence.shape[1] - count :].tolist()
        _, found = find_words(self.decode, ids, 0)
        if answer is not None and len(found) > words:
            raise UsageError(
                f"--answer has {len(found)} words, and --max-words is {words}; give --max-words "
                f"{len(found)}"
            )
        cut = len(found) > words
        if cut:
            last = found[words - 1].tokens[-1] + 1
            sequence = sequence[:, : sequence.shape[1] - count + last]
            ids = ids[:last]
        if not ids:
            raise ModelError(
                f"{self.spec} answers with nothing; give another --prompt, or an --answer to look "
                "at"
            )
        mute = self._placeholders()
        row = sequence[0].tolist()
        before = len(row) - len(ids)
        special = {*self.tokenizer.all_special_ids}
        return PromptRun(
            arguments=self._whole_run(prompted, sequence),
            pictures=prompted.pictures,
            ids=tuple(ids),
            length=len(row),
            prompt=prompted.prompt,
            given=answer is not None,
            cut=cut,
            placeholders=tuple(n for n in range(before) if row[n] in mute),
            prompt_ids=tuple((n, row[n]) for n in range(before) if row[n] not in special | mute),
        )

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, without special ones."""
        return str(
            self.tokenizer.decode(
                list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )

    def transcript(self, answered: PromptRun, logits: Tensor) -> Transcript:
        """Words and their probabilities, of the logits (1, n, vocabulary) of the run over all.

        Token numbers are those of the sequence that the language model sees, which may have tokens
        of the picture before the text.
        """
        before = logits.shape[1] - answered.length
        first = logits.shape[1] - len(answered.ids)
        chances = logits[0, first - 1 : -1].float().log_softmax(-1)
        ids = torch.tensor(answered.ids, device=chances.device)
        each = chances.gather(1, ids[:, None])[:, 0].tolist()
        text, words = find_words(self.decode, answered.ids, first, each)
        predicted = chances.clone()
        predicted[:, sorted(self._placeholders() & set(range(chances.shape[1])))] = -torch.inf
        agrees = bool((predicted.argmax(-1) == ids).all())
        return Transcript(
            prompt=answered.prompt,
            answer=text,
            prompt_tokens=first,
            tokens=logits.shape[1],
            words=words,
            prompt_words=self._prompt_words(answered, before),
            agrees=None if answered.given else agrees,
            given=answered.given,
            cut=answered.cut,
            placeholders=tuple(n + before for n in answered.placeholders),
            ids=answered.ids,
        )

    def _prompt_words(self, answered: PromptRun, before: int) -> tuple[Word, ...]:
        """The words of the prompt itself, without those of the chat template around it."""
        numbers = [number for number, _ in answered.prompt_ids]
        text, words = find_words(self.decode, [token for _, token in answered.prompt_ids], 0)
        start = text.rfind(answered.prompt)
        if start < 0:
            return ()
        end = start + len(answered.prompt)
        return tuple(
            replace(
                word,
                start=word.start - start,
                end=word.end - start,
                tokens=tuple(numbers[n] + before for n in word.tokens),
            )
            for word in words
            if start <= word.start and word.end <= end
        )

    def _placeholders(self) -> set[int]:
        """Tokens that stand for pictures or padding, as config and processor say."""
        found = set()
        for holder in (self.module.config, self.processor):
            for name in dir(holder):
                if _PLACEHOLDER.fullmatch(name):
                    value = getattr(holder, name, None)
                    found |= {value} if isinstance(value, int) and value >= 0 else set()
        return found - set(_ends(self.module.generation_config))

    def _generated(self, prompted: Prompted, words: int) -> tuple[Tensor, int]:
        """The whole sequence (1, n), and how many tokens of it are the answer."""
        settings: dict[str, Any] = {
            "max_new_tokens": _TOKENS_PER_WORD * words,
            "do_sample": False,
            "num_beams": 1,
            "suppress_tokens": sorted(self._placeholders()) or None,
            "stopping_criteria": [self._enough(words)],
        }
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = self.module.generate(**prompted.arguments, **settings)
        except Exception as error:
            raise ModelError(f"{self.spec}: does not generate ({describe(error)})") from error
        start = prompted.start
        if start is None:  # the decoder's own start
            return found, found.shape[1] - 1
        begins = _common(start[0].tolist(), found[0].tolist())
        if begins >= start.shape[1] - 1:
            return found, found.shape[1] - min(begins, start.shape[1])
        return torch.cat([start.to(found), found], 1), found.shape[1]

    def _enough(self, words: int) -> Any:
        """A condition of `generate`: the words that are wanted are there, and one more began."""
        begun: list[int] = []

        def enough(sequence: Tensor, _: Any, **__: Any) -> Tensor:
            begun.append(sequence.shape[1] - 1)
            answer = sequence[0, begun[0] :].tolist()
            count = len(find_words(self.decode, answer, 0)[1]) if len(answer) > words else 0
            return torch.tensor([count > words], device=sequence.device)

        return enough

    def _given(self, prompted: Prompted, answer: str | Sequence[int]) -> tuple[Tensor, int]:
        """The sequence with a given answer, and how many tokens of it are the answer."""
        made = answer
        if isinstance(answer, str):
            made = self.tokenizer(answer, add_special_tokens=False)["input_ids"]
        ids = torch.tensor([made], device=self.module.device, dtype=torch.long)
        if not ids.numel():
            raise UsageError("--answer is empty; give the words to look at")
        start = prompted.start
        if start is None:
            config = self.module.generation_config
            first = config.decoder_start_token_id
            first = config.bos_token_id if first is None else first
            start = torch.tensor([[first]], device=ids.device)
        return torch.cat([start.to(ids), ids], 1), ids.shape[1]

    def _whole_run(self, prompted: Prompted, sequence: Tensor) -> dict[str, Any]:
        """The arguments of one run over the whole sequence.

        The model itself says how masks, positions and the like grow with it.
        """
        if self.has_encoder or self._decodes_prompt:
            return {**prompted.arguments, "decoder_input_ids": sequence}
        kept = {name: each for name, each in prompted.arguments.items() if name != "input_ids"}
        assert prompted.start is not None  # a decoder has a prompt
        mask = kept.get("attention_mask")
        before = prompted.start.shape[1] if mask is None else mask.shape[1]
        grow = self.module._update_model_kwargs_for_generation  # noqa: SLF001 — what generate calls
        for _ in range(sequence.shape[1] - before):
            kept = grow({}, kept, is_encoder_decoder=False, num_new_tokens=1)
        names = inspect.signature(self.module.forward).parameters
        kept = {name: each for name, each in kept.items() if name in names}
        if "use_cache" in names:
            kept["use_cache"] = False
        return {**kept, "input_ids": sequence}

    def run(self, answered: PromptRun) -> Tensor:
        """Logits (1, n, vocabulary) of the run over prompt and answer.

        Raises:
            ModelError: the model fails, or gives no logits.
        """
        try:
            output = self.module(**answered.arguments)
        except AttnvizError:
            raise
        except Exception as error:
            raise ModelError(f"{self.spec}: does not run ({describe(error)})") from error
        logits = getattr(output, "logits", None)
        if not isinstance(logits, Tensor) or logits.ndim != 3:
            raise ModelError(f"{self.spec}: its output has no logits of words; give another model")
        return logits


def _ends(config: Any) -> list[int]:
    """Tokens that end an answer."""
    ends = getattr(config, "eos_token_id", None)
    return [] if ends is None else [ends] if isinstance(ends, int) else list(ends)


def _common(start: Sequence[int], sequence: Sequence[int]) -> int:
    """How many tokens of a prompt begin a sequence; its first may be replaced."""
    for count, (one, other) in enumerate(zip(start, sequence, strict=False)):
        if one != other and count:
            return count
    return min(len(start), len(sequence))
