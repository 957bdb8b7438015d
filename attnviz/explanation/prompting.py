"""What a model that answers in words is asked.

This file has no heavy imports, so that a usage error shows at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from attnviz.errors import UsageError
from attnviz.geometry import queries
from attnviz.geometry.queries import OF_TEXT

MAX_WORDS = 32
"""The most words of an answer, unless more are wanted."""


@dataclass(frozen=True)
class Prompting:
    """What a model that answers in words is asked; fields take the values of these options.

    Attributes:
        prompt: the question; empty for a model that takes none.
        answer: an answer to look at; None lets the model generate one.
        max_words: the most words of the answer.
    """

    prompt: str = ""
    answer: str | None = None
    max_words: int = MAX_WORDS

    def __post_init__(self) -> None:
        if self.max_words < 1:
            raise UsageError(f"--max-words {self.max_words}: give 1 or more")


def parse_prompting(
    prompt: str | None, answer: str | None, max_words: int | None, asked: Sequence[str]
) -> Prompting | None:
    """What is asked by these options and queries; None if nothing is.

    A query that names words asks without a prompt, as of a model that reads text in pictures.

    Raises:
        UsageError: an option is given that needs a prompt, or `max_words` is 0.
    """
    of_text = any(queries.parse(query).kind in OF_TEXT for query in asked)
    if prompt is None and answer is None and not of_text:
        if max_words is not None:
            raise UsageError(f"--max-words {max_words} is of an answer; add --prompt TEXT")
        return None
    return Prompting(prompt or "", answer, MAX_WORDS if max_words is None else max_words)
