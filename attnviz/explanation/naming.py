"""Names the maps of an explanation, in files and in words."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from attnviz import methods
from attnviz.explanation.explanation import Answer, Explanation
from attnviz.geometry.queries import OF_TEXT, Query
from attnviz.models import targets

STAR = "★"
_PARTS = {"clusters": "cluster", "factors": "factor"}


def stem(explanation: Explanation, answer: Answer) -> str:
    """The name of an answer's file, without its ending.

    It is `layer11-head03`, `layer11-component01`, or `layer11` if the method merges heads. The mean
    of localized heads is `localized`. For a method that merges layers it is the method's name,
    unless maps end with several layers. If there are several queries, targets or texts, their
    numbers follow: `layer11-head03-query0`, or of a detector the object query's:
    `layer11-head03-object7`.
    """
    if answer.head is not None:
        name = f"layer{answer.layer:02d}-head{answer.head:02d}"
    elif answer.component is not None:
        name = f"layer{answer.layer:02d}-component{answer.component:02d}"
    elif explanation.localized:
        name = "localized"
    elif merges_layers(explanation) and len(explanation.layers) == 1:
        name = explanation.method
    else:
        name = f"layer{answer.layer:02d}"
    return "-".join([name, *_numbers(explanation, answer.question)])


def title(explanation: Explanation, answer: Answer) -> str:
    """The title over a map on the sheet; a star marks the most localized heads."""
    if answer.head is not None:
        star = f"{STAR} " if marked(explanation, answer) else ""
        name = f"{star}layer {answer.layer}  head {answer.head}"
    elif explanation.localized and _of_words(explanation):
        return answer.query.name or str(answer.query)
    elif answer.component is not None:
        share = "" if answer.share is None else f"  {answer.share:.1%}"
        kind = _PARTS.get(explanation.method, "component")
        name = f"layer {answer.layer}  {kind} {answer.component}{share}"
    elif explanation.localized:
        count = len(explanation.questions[answer.question].localized)
        name = f"mean of {count} localized heads"
    elif merges_layers(explanation):
        first = explanation.settings["start_layer"]
        name = f"layers {first} to {answer.layer}" if answer.layer > first else f"layer {first}"
    else:
        name = f"layer {answer.layer}"
    question = explanation.questions[answer.question]
    parts = []
    if answer.query.found is not None:
        name = f"{place_of(answer.query)}  {name}"
    elif len({one.query for one in explanation.questions}) > 1:
        parts.append(f"from {answer.query}")
    if question.target is not None and len(set(_targets(explanation))) > 1:
        parts.append(in_words(question.target.target))
    return "  ".join([name, *parts])


def marked(explanation: Explanation, answer: Answer) -> bool:
    """Whether a star marks a map: its head is among the most localized, and others are drawn."""
    if explanation.method != methods.DEFAULT or explanation.localized:
        return False
    return (answer.layer, answer.head) in explanation.observation.suggested


def question_in_words(explanation: Explanation) -> str:
    """The method, its queries and, for gradients, its targets, in words."""
    answers = explanation.answers
    starts = dict.fromkeys(place_of(answer.query) for answer in answers)
    scored = ", ".join(in_words(target) for target in dict.fromkeys(_targets(explanation)))
    text = explanation.observation.text
    if text is not None and _of_words(explanation):
        return f"{explanation.method}: {' — '.join(filter(None, (text.prompt, text.answer)))}"
    parts = f"{explanation.method} from {', '.join(starts)}"
    parts += f" for {scored}" if scored else ""
    return parts if explanation.smoothing is None else f"{parts}, {explanation.smoothing}"


def place_of(query: Query) -> str:
    """A resolved query in words; an object by its label, score and number.

    >>> place_of(Query("point", (120, 80))), place_of(Query("all"))
    ('120,80', 'all tokens')
    """
    if query.found is not None:
        return f"{query.found} ({query.found.index})"
    return "all tokens" if query.kind == "all" else str(query)


def in_words(target: targets.Target) -> str:
    """A resolved target in words.

    >>> in_words(targets.Target("class", index=281, label="tabby, tabby cat"))
    'tabby, tabby cat (281)'
    """
    if target.against:
        return f"{in_words(replace(target, against=()))} against {others_in_words(target)}"
    if target.kind == "object" and target.query is not None:
        return place_of(target.query)
    if target.kind == "region":
        named = (
            f"{target.label or 'class'} ({target.index})" if target.index is not None else "depth"
        )
        return named if target.query is None else f"{named} at {target.query}"
    if target.kind == "class" and target.label is not None:
        return f"{target.label} ({target.index})"
    return f"class {target}" if target.kind == "class" else str(target)


def others_in_words(target: targets.Target) -> str:
    """The targets that a resolved one is compared with, in words; empty without any."""
    return " and ".join("rest" if o.kind == "rest" else in_words(o) for o in target.against)


def merges_layers(explanation: Explanation) -> bool:
    """Whether a map merges several layers."""
    return methods.METHODS[explanation.method].merges == "layers"


def _targets(explanation: Explanation) -> Iterator[targets.Target]:
    """The targets, but for objects that the queries name."""
    found = ((q.query, q.target.target) for q in explanation.questions if q.target is not None)
    return (target for query, target in found if target.kind != "object" or target.query != query)


def _numbers(explanation: Explanation, number: int) -> list[str]:
    """The numbers of a question's query and target, if there are several."""
    found = []
    question = explanation.questions[number]
    queries = list(dict.fromkeys(one.query for one in explanation.questions))
    if len(queries) > 1:
        object_ = question.query.found
        number = queries.index(question.query)
        found.append(f"query{number}" if object_ is None else f"object{object_.index}")
    scored = list(dict.fromkeys(_targets(explanation)))
    if question.target is not None and len(scored) > 1:
        kind = "text" if question.target.target.kind == "text" else "target"
        found.append(f"{kind}{scored.index(question.target.target)}")
    return found


def in_sheet(explanation: Explanation) -> list[bool]:
    """Which answers the sheet shows: all, or of words with localized heads the mean of each."""
    only_means = explanation.localized and _of_words(explanation)
    return [not only_means or answer.head is None for answer in explanation.answers]


def _of_words(explanation: Explanation) -> bool:
    """Whether all questions are words or tokens of a text."""
    return all(question.query.kind in OF_TEXT for question in explanation.questions)


def rows(explanation: Explanation) -> list[int]:
    """The number of maps in each row of the sheet.

    A row shows one layer of one question; if heads are merged or localized, all maps of one
    question; of words with localized heads, all of them in reading order.
    """
    if explanation.localized and _of_words(explanation):
        return [len(explanation.questions)]
    if explanation.localized:
        return list(Counter(answer.question for answer in explanation.answers).values())
    answers = explanation.answers
    return list(Counter((a.question, -1 if a.part is None else a.layer) for a in answers).values())
