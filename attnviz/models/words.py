"""A model that answers in words: its processor, its prompt, and the run over prompt and answer."""

import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from attnviz.errors import AttnvizError, ModelError, UsageError
from attnviz.models.failures import describe
from attnviz.models.processor_places import PictureTensor, measure_processor
from attnviz.models.prompts import Prompted, PromptRun, generate, given, placeholders, run_arguments
from attnviz.models.transcript import Transcript, Word, find_words


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
    _sizes: dict[tuple[int, int], Mapping[str, PictureTensor]] = field(
        default_factory=dict, repr=False
    )

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
            pictures = self._measured(written, picture.size)
        except Exception as error:
            raise ModelError(
                f"{self.spec}: its processor refuses the picture with this prompt "
                f"({describe(error)}); try another --prompt, or another picture"
            ) from error
        names = inspect.signature(self.module.forward).parameters
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

    def _measured(self, written: str | None, size: tuple[int, int]) -> Mapping[str, PictureTensor]:
        """Where the processor's tensors lie in a picture of this size; measured once."""
        if size not in self._sizes:
            self._sizes[size] = measure_processor(
                lambda other: self._processed(other, written), *size
            )
        return self._sizes[size]

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
        sequence, count = self._generated(prompted, words, first=answer is not None)
        if isinstance(answer, str):
            tokens = self.tokenizer(answer, add_special_tokens=False)["input_ids"]
            sequence, count = given(sequence, count, tokens)
        elif answer is not None:
            sequence, count = given(sequence, count, answer)
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
        mute, across = self._mute, self.has_encoder or self._decodes_prompt
        row = sequence[0].tolist()
        before = len(row) - len(ids)
        special = {*self.tokenizer.all_special_ids}
        return PromptRun(
            arguments=run_arguments(self.module, prompted, sequence, len(ids), across=across),
            pictures=prompted.pictures,
            ids=tuple(ids),
            length=len(row),
            prompt=prompted.prompt,
            given=answer is not None,
            cut=cut,
            placeholders=tuple(n for n in range(before) if row[n] in mute),
            prompt_ids=tuple((n, row[n]) for n in range(before) if row[n] not in special | mute),
        )

    def _generated(self, prompted: Prompted, words: int, *, first: bool) -> tuple[Tensor, int]:
        """The whole sequence (1, n), and how many tokens of it are the answer."""
        try:
            return generate(self.module, prompted, self.decode, words, self._mute, first=first)
        except Exception as error:
            raise ModelError(f"{self.spec}: does not generate ({describe(error)})") from error

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, without special ones."""
        return str(
            self.tokenizer.decode(
                list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )

    def transcript(self, answered: PromptRun, logits: Tensor, tokens: int) -> Transcript:
        """Words and their probabilities, of the last logits (1, n, vocabulary) of the run over all.

        `tokens` is the length of the sequence that the language model sees, which may have tokens
        of the picture before the text.
        """
        before, first = tokens - answered.length, tokens - len(answered.ids)
        chances = logits[0, -len(answered.ids) - 1 : -1].float().log_softmax(-1)
        ids = torch.tensor(answered.ids, device=chances.device)
        each = chances.gather(1, ids[:, None])[:, 0].tolist()
        text, words = find_words(self.decode, answered.ids, first, each)
        predicted = chances.clone()
        predicted[:, sorted(self._mute & set(range(chances.shape[1])))] = -torch.inf
        agrees = bool((predicted.argmax(-1) == ids).all())
        return Transcript(
            prompt=answered.prompt,
            answer=text,
            prompt_tokens=first,
            tokens=tokens,
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

    @cached_property
    def _mute(self) -> set[int]:
        """Tokens that stand for pictures or padding."""
        return placeholders(self.module, self.processor)

    def run(self, answered: PromptRun) -> Tensor:
        """Logits (1, n, vocabulary) of the run over prompt and answer, of all tokens or the last.

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
