"""Describes prompt and answer for the page, and takes the rows of their words."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnviz.errors import UsageError
from attnviz.explanation.observation import Observation
from attnviz.explanation.words_asked import in_text, word_queries
from attnviz.geometry.grid import Layout
from attnviz.geometry.queries import Query
from attnviz.models.transcript import Word
from attnviz.page.page_tokens import PageTokens, edges_of

MOST = 8 << 20
"""The largest size in bytes of the rows of the words of a prompt; more would take too much of the
file."""


@dataclass(frozen=True)
class PageWord:
    """A word that the page looks from.

    Attributes:
        name: the query that looks from it: `word:cat`, `prompt:cat`.
        of: the text that it stands in: `answer` or `prompt`.
        word: as it is written.
        start, end: its characters in this text.
        logprob: natural logarithm of its probability; None for a word of the prompt.
        rows: the tokens whose rows are averaged.
    """

    name: str
    of: str
    word: str
    start: int
    end: int
    logprob: float | None
    rows: tuple[int, ...]


def words_of(
    observation: Observation, heads: Mapping[int, Sequence[int]], asked: Query
) -> tuple[list[PageWord], str | None]:
    """The words of a page, those of the answer first, and why those of the prompt are missing.

    There are none if the model does not answer in words.

    Args:
        observation: what the page shows.
        heads: the heads of the page, by layer.
        asked: the first query; if it is a word of the prompt, all of them are there.

    Raises:
        UsageError: the answer has no words.
    """
    text = observation.text
    if text is None:
        return [], None
    if not text.words:
        raise UsageError(
            f"a page looks from words, and the answer {text.answer!r} has none; give another "
            "--prompt, or an --answer"
        )
    number = min(heads)
    call, keys = observation.layers[number].call, observation.layers[number].keys
    queries = [*word_queries(text.words), *word_queries(text.prompt_words, "prompt_word")]
    found = [
        _page_word(word, in_text(observation, query, number))
        for word, query in zip([*text.words, *text.prompt_words], queries, strict=True)
    ]
    answer, prompt = found[: len(text.words)], found[len(text.words) :]
    prompt = [word for word in prompt if max(word.rows) < call.shape[2]]
    size = len(prompt) * sum(map(len, heads.values())) * int(keys.on_picture.sum())
    if size > MOST and asked.kind != "prompt_word":
        return answer, f"the rows of its {len(prompt)} words would be too large"
    return [*answer, *prompt], None


def _page_word(word: Word, query: Query) -> PageWord:
    of = "prompt" if query.kind == "prompt_word" else "answer"
    return PageWord(str(query), of, word.word, word.start, word.end, word.logprob, query.tokens)


def text_data(
    observation: Observation, words: Sequence[PageWord], why: str | None
) -> dict[str, Any] | None:
    """The page's data about prompt and answer; `why` no word of the prompt is there."""
    text = observation.text
    if text is None:
        return None
    listed = [{name: value for name, value in asdict(w).items() if name != "rows"} for w in words]
    return {
        "prompt": text.prompt,
        "answer": text.answer,
        "agrees": text.agrees,
        "given": text.given,
        "cut": text.cut,
        "words": listed,
        "why": why,
    }


def word_rows(
    observation: Observation, number: int, heads: Sequence[int], words: Sequence[PageWord]
) -> tuple[PageTokens, PageTokens, NDArray[np.float32]]:
    """The words as queries, the keys that they look at, and the rows, (1, heads, words, keys).

    Keys that lie on the picture are as they are. Of all others, which may be thousands of tokens
    of text, the sums are kept.
    """
    layer = observation.layers[number]
    needed = sorted({token for word in words for token in word.rows})
    rows = layer.call.rows(needed)[0, list(heads)].float().cpu().numpy()  # (heads, needed, keys)
    place = {token: n for n, token in enumerate(needed)}
    means = [rows[:, [place[token] for token in word.rows]].mean(1) for word in words]
    sums = _beside(observation, layer.keys)
    order = np.flatnonzero(layer.keys.on_picture[0])
    order = order[np.argsort(layer.keys.cells[0, order], kind="stable")]
    of_words = np.stack(means, 1)[None]  # (1, heads, words, keys)
    parts = [of_words[..., tokens].sum(-1, keepdims=True) for tokens in sums.values()]
    found = np.concatenate([*parts, of_words[..., order]], -1).astype(np.float32)
    nowhere = Layout(1, 1, np.full((1, len(words)), -1, dtype=np.int64))
    names = tuple(word.name for word in words)
    everything = np.ones((1, len(words)), dtype=np.bool_)
    queries = PageTokens("queries", nowhere, names, everything, None, ([], []))
    return queries, _keys(observation, layer.keys, order, tuple(sums)), found


def _beside(observation: Observation, keys: Layout) -> dict[str, NDArray[np.intp]]:
    """The keys that do not lie on the picture, in groups with names."""
    assert observation.text is not None
    beside = np.flatnonzero(~keys.on_picture[0])
    if keys.cells.shape[1] != observation.text.tokens:
        return {"other tokens": beside} if len(beside) else {}
    groups = {"first token": beside[beside == 0], "text": beside[beside > 0]}
    return {name: tokens for name, tokens in groups.items() if len(tokens)}


def _keys(
    observation: Observation, layout: Layout, order: NDArray[np.intp], sums: tuple[str, ...]
) -> PageTokens:
    """The keys of the page: the sums, then the tokens on the picture in their order."""
    cells = np.concatenate([np.full(len(sums), -1), layout.cells[0, order]])[None]
    cover = layout.cover
    if cover is not None:
        numbers = np.full(layout.cells.shape[1], -1)
        numbers[order] = np.arange(len(order)) + len(sums)
        cover = replace(cover, tokens=numbers[cover.tokens])
    kept = replace(layout, cells=cells.astype(np.int64), cover=cover)
    return PageTokens(
        role="keys",
        layout=kept,
        prefix=sums,
        part=np.ones(cells.shape, dtype=np.bool_),
        drawn=observation.drawn_on(kept)[0],
        edges=edges_of(observation, kept),
    )


def mean_of_answer(rows: NDArray[np.float32], words: Sequence[PageWord]) -> NDArray[np.float32]:
    """The mean of the rows of the answer's words, (1, heads, keys)."""
    of_answer = [word.of == "answer" for word in words]
    mean: NDArray[np.float32] = rows[:, :, of_answer].mean(2)
    return mean
