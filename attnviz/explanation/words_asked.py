"""Finds the words and tokens that queries name in a prompt and its answer."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from attnviz.errors import UsageError
from attnviz.explanation.explanation import Explanation, SeenRow
from attnviz.explanation.observation import Observation
from attnviz.explanation.view_layouts import View
from attnviz.geometry.queries import OF_TEXT, Kind, Query
from attnviz.models.targets import Target
from attnviz.models.transcript import Transcript, Word, named

_ON_PICTURE = ("mean", "point", "box", "mask")


def each_word(observation: Observation, queries: Sequence[Query]) -> list[Query]:
    """The queries, with one for each word of the answer in place of `words`.

    With a prompt, `auto` is `words`.

    Raises:
        UsageError: the answer has no words, or there is no text.
    """
    text = observation.text
    found: list[Query] = []
    for query in queries:
        if query.kind != "words" and (query.kind != "auto" or text is None):
            found.append(query)
            continue
        text = _text(observation, query)
        if not text.words:
            raise UsageError(
                f"--query words: the answer {text.answer!r} has no words; give token:N, with N "
                f"from {text.prompt_tokens} to {text.tokens - 1}, or another --prompt"
            )
        found += word_queries(text.words)
    return found


def word_queries(words: Sequence[Word], kind: Kind = "word") -> list[Query]:
    """A query for each word of an answer, or of a prompt: which of its name it is, from 1."""
    counts: Counter[str] = Counter()
    found = []
    for word in words:
        counts[word.word.casefold()] += 1
        found.append(Query(kind, (float(counts[word.word.casefold()]),), name=word.word))
    return found


def in_text(observation: Observation, query: Query, layer: int) -> Query:
    """A query with the tokens that it names in the text; places on the picture do not change.

    A word of the answer looks from the positions that predict its tokens: one before each. A word
    of the prompt, or a token, looks from its own positions.

    Raises:
        UsageError: there is no text, or no such word or token in it.
    """
    text = _text(observation, query)
    if query.kind in _ON_PICTURE:
        queries = observation.layers[layer].queries
        if queries.on_picture.any() and not queries.learned:
            return query
        raise UsageError(
            f"--query {query}: in layer {layer} only words look at the picture; give words"
        )
    if query.kind == "token":
        number = int(query.numbers[0])
        if number >= text.tokens:
            raise UsageError(
                f"--query {query}: there are {text.tokens} tokens; give token:0 to "
                f"token:{text.tokens - 1}"
            )
        return replace(query, tokens=(number,))
    if query.kind not in OF_TEXT:
        raise UsageError(f"--query {query}: a prompt is asked by words; give words or word:NAME")
    of_prompt = query.kind == "prompt_word"
    words = text.prompt_words if of_prompt else text.words
    index = text.find(query.name or "", int(query.numbers[0]), prompt=of_prompt)
    if index is None:
        side = "prompt" if of_prompt else "answer"
        has = f"its words are {named(words)}" if words else "it has no words"
        raise UsageError(f"--query {query}: not in the {side}; {has}")
    rows = tuple(token - (not of_prompt) for token in words[index].tokens)
    return replace(query, name=words[index].word, index=index, tokens=rows)


def word_targets(queries: Sequence[Query], given: Sequence[Target]) -> list[Target]:
    """The target of each query: the word that it is.

    Raises:
        UsageError: another target is given, or a query is no word of the answer.
    """
    if given:
        raise UsageError(
            f"--target {given[0]}: with a prompt the score is that of the word asked; leave it out"
        )
    for query in queries:
        if query.kind != "word":
            raise UsageError(
                f"--query {query}: methods that take a gradient look from words of the answer; "
                "give words or word:NAME"
            )
    return [Target("word", query=query) for query in queries]


def seen_rows(observation: Observation, number: int, query: Query) -> list[SeenRow]:
    """Where the row of a word goes, of each head of a layer; empty without a prompt."""
    text, layer = observation.text, observation.layers[number]
    if text is None or not query.tokens:
        return []
    rows = layer.call.rows(list(query.tokens))[0].float().mean(1).cpu().numpy()  # (heads, keys)
    on_picture = layer.keys.on_picture[0]
    words = ~on_picture
    words[0] = False
    has_text = len(words) == text.tokens
    if has_text:
        words[list(text.placeholders)] = False
    massive = observation.massive.get(number)
    sinks = None if massive is None else on_picture & massive.tokens
    found = []
    for row in rows:
        image, of_text, of_sinks = (
            math.nan if part is None else float(row[part].sum(dtype=np.float64))
            for part in (on_picture, words if has_text else None, sinks)
        )
        views = {n: _on_cells(row, view) for n, view in observation.views_of_layers[number].items()}
        found.append(SeenRow(image, of_text, of_sinks, views))
    return found


def _on_cells(row: NDArray[np.float32], view: View) -> NDArray[np.float32]:
    """A row's weights on the cells of a view, (rows, columns)."""
    found = view.layout.summed(np.where(view.tokens, row, 0))
    return found.astype(np.float32).reshape(view.layout.rows, view.layout.columns)


def mean_row(rows: Sequence[SeenRow]) -> SeenRow | None:
    """The mean of where several rows go; None for none. A row is 0 on a view that it cannot see."""
    if not rows:
        return None
    image, text, sinks = np.mean([(row.image, row.text, row.image_sinks) for row in rows], 0)
    seen = sorted({number for row in rows for number in row.views})
    views = {
        n: np.sum([row.views[n] for row in rows if n in row.views], 0) / len(rows) for n in seen
    }
    return SeenRow(float(image), float(text), float(sinks), views)


def relative(found: Explanation, baseline: Explanation) -> Explanation:
    """Maps divided by those of the same words after another prompt; 0 where those are 0.

    Zhang et al. 2025, 2502.17422: relative attention.
    """
    answers = []
    for one, other in zip(found.answers, baseline.answers, strict=True):
        apart = np.where(other.values > 0, other.values, 1)
        values = np.where(other.values > 0, one.values / apart, 0).astype(np.float32)
        answers.append(replace(one, values=values))
    return replace(found, answers=tuple(answers))


def _text(observation: Observation, query: Query) -> Transcript:
    if observation.text is None:
        raise UsageError(
            f"--query {query}: {observation.model.spec} was asked nothing; add --prompt TEXT, of a "
            "model that answers in words (show, stats, batch and video take it)"
        )
    return observation.text
