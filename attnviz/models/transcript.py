"""A prompt and its answer as tokens and words."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_WORD = re.compile(r"\w+(?:[\u2019'\-.]\w+)*")
SHOWN = 12
"""The most words that an error lists."""


@dataclass(frozen=True)
class Word:
    """A word of a text, and the tokens that make it up.

    Attributes:
        word: as it is written.
        start, end: its characters in the text.
        tokens: numbers of its tokens in the sequence that the language model sees.
        logprob: natural logarithm of the probability that the model gives to its tokens; None for
            a word of the prompt.
    """

    word: str
    start: int
    end: int
    tokens: tuple[int, ...]
    logprob: float | None = None


@dataclass(frozen=True)
class Transcript:
    """What a model was asked, and what it answered.

    Attributes:
        prompt, answer: the texts.
        prompt_tokens: number of tokens before the answer, those of the picture included.
        tokens: number of all tokens.
        words: the words of the answer.
        prompt_words: the words of the prompt.
        agrees: whether the recorded run predicts every generated token; None for a given answer.
        given: whether the answer was given and not generated.
        cut: whether the answer goes on behind the last word that was wanted.
        placeholders: numbers of the tokens that are no text but stand for the picture.
        ids: the answer's tokens, as numbers of the vocabulary.
    """

    prompt: str
    answer: str
    prompt_tokens: int
    tokens: int
    words: tuple[Word, ...]
    prompt_words: tuple[Word, ...] = ()
    agrees: bool | None = None
    given: bool = False
    cut: bool = False
    placeholders: tuple[int, ...] = ()
    ids: tuple[int, ...] = ()

    def find(self, name: str, nth: int = 1, *, prompt: bool = False) -> int | None:
        """The number of the nth word that is written so, in capitals or not; None if it is none."""
        words = self.prompt_words if prompt else self.words
        wanted = name.casefold()
        same = [i for i, each in enumerate(words) if each.word.casefold() == wanted]
        return same[nth - 1] if 0 < nth <= len(same) else None


def count_words(text: str) -> int:
    """The number of words of a text.

    >>> count_words("A cat's mat, 2 m wide.")
    6
    """
    return len(_WORD.findall(text))


def find_words(
    decode: Callable[[Sequence[int]], str],
    ids: Sequence[int],
    first: int,
    logprobs: Sequence[float] | None = None,
) -> tuple[str, tuple[Word, ...]]:
    """The text of tokens, and its words.

    A word has all tokens that write one of its letters. So the text of the first n tokens is
    compared with that of one more: the vocabulary is not looked at.

    >>> text, words = find_words(lambda ids: "".join("a r ed mat".split(" ")[i] for i in ids),
    ...                          [0], 7)
    >>> text, words[0].tokens
    ('a', (7,))

    Args:
        decode: from numbers of the vocabulary to text.
        ids: the tokens.
        first: number of the first of them in the sequence that the model sees.
        logprobs: the log-probability of each token.
    """
    text = decode(ids)
    ends = [_agreeing(text, decode(ids[:count])) for count in range(1, len(ids))]
    ends = [*ends, len(text)] if ids else []
    words = []
    for match in _WORD.finditer(text):
        numbers = [
            number
            for number, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True))
            if start < match.end() and end > match.start()
        ]
        total = None if logprobs is None else sum(logprobs[number] for number in numbers)
        tokens = tuple(first + number for number in numbers)
        words.append(Word(match[0], match.start(), match.end(), tokens, total))
    return text, tuple(words)


def _agreeing(text: str, start: str) -> int:
    """Number of first characters of a text that its beginning has, too.

    A beginning may end within a letter of several bytes, which is decoded when it is whole.
    """
    count = 0
    for one, other in zip(text, start, strict=False):
        if one != other:
            break
        count += 1
    return count


def named(words: Sequence[Word]) -> str:
    """The words for an error: the first of them."""
    names = list(dict.fromkeys(word.word for word in words))
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
