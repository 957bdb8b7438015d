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
        baseline_prompt: another prompt, such as "describe the picture": each map is divided by
            that of the same word there (relative attention, 2502.17422).
    """

    prompt: str = ""
    answer: str | None = None
    max_words: int = MAX_WORDS
    baseline_prompt: str | None = None

    def __post_init__(self) -> None:
        if self.max_words < 1:
            raise UsageError(f"--max-words {self.max_words}: give 1 or more")


def parse_prompting(
    prompt: str | None,
    answer: str | None,
    max_words: int | None,
    baseline_prompt: str | None,
    asked: Sequence[str],
) -> Prompting | None:
    """What is asked by these options and queries; None if nothing is.

    A query that names words, and a number of words, ask without a prompt, as of a model that reads
    text in pictures.

    Raises:
        UsageError: `baseline_prompt` is given without a prompt, or `max_words` is 0.
    """
    if baseline_prompt is not None and prompt is None:
        raise UsageError("--baseline-prompt is what --prompt is compared with; add --prompt TEXT")
    of_text = any(queries.parse(query).kind in OF_TEXT for query in asked)
    if prompt is None and answer is None and max_words is None and not of_text:
        return None
    most = MAX_WORDS if max_words is None else max_words
    return Prompting(prompt or "", answer, most, baseline_prompt)
