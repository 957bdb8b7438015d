"""Measures every method of the table: on the object, for the class, and what moves the score.

    python benchmarks/which_method.py --cutouts STAMPS --grounds WALLPAPERS -m CHECKPOINT --out FILE
    python benchmarks/which_method.py --report FILE

The model is a classifier. Pictures are composites with exact masks, as in localization.py:

- `centred`, `aside`: one object. Pointing, Jaccard of as many tokens as it has, and AUC of each
  map for the predicted class.
- `pair`: two objects that the model takes for different classes when each is alone. The map for
  the class of one should have more of its mass on this one than the map for the other class.
- `perturbed`: deletion and insertion in 10 steps, as shares of the probability of the whole
  picture, on those of the first `--perturbed` centred of whose class the model is sure.
- `robust`: its metrics of sensitivity and randomisation, on the first `--robust` centred.

Each picture is a line of FILE, so that a run can be reported before it ends. All methods and all
rules come from the table, those of other packages too; methods of components are left out.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from localization import Cells, Composites, Judge, Values
from numpy.typing import NDArray
from torch import Tensor

import attnviz
from attnviz.errors import AttnvizError
from attnviz.evaluation import RANDOMISATION, SENSITIVITY, settings_of
from attnviz.evaluation import perturbation as perturbing
from attnviz.evaluation.baselines import gaussian, saliency
from attnviz.evaluation.map_scorer import MapScorer
from attnviz.evaluation.objects import Objects, on_tokens
from attnviz.evaluation.summary import intervals
from attnviz.io.picture import Picture, with_pixels
from attnviz.methods import METHODS

Question = dict[str, Any]
Rows = dict[str, dict[str, float]]
ON_OBJECT = ("pointing", "Jaccard", "AUC")
MOVING = ("attention", "attention, localized", "rollout", "value-norm", "similarity")
"""Those without a score that are perturbed too."""
STEPS = 10
"""Of deletion and insertion, from none of the pixels to all."""
SURE = 0.2
"""The least probability of a class: of a perturbed picture, and of each object of a pair alone."""
COLUMNS = {
    "centred": ON_OBJECT,
    "aside": ON_OBJECT,
    "pair": ("class", "right object"),
    "perturbed": ("deletion", "insertion", "gap"),
    "robust": ("sensitivity_avg", "cascade_rank", "cascade_ssim"),
}


def questions(point: str | None = None) -> dict[str, Question]:
    """What is asked of one picture, by title: every method with each rule that it has."""
    found: dict[str, Question] = {}
    for name, method in METHODS.items():
        if method.components:
            continue
        found[name] = {"method": name}
        for option in method.options:
            if option.name == "rule" and isinstance(option.kind, tuple):
                others = (rule for rule in option.kind if rule != option.default)
                found |= {f"{name}, {rule}": {"method": name, "rule": rule} for rule in others}
        if method.merges == "nothing":
            found[f"{name}, localized"] = {"method": name, "heads": "localized"}
        if method.asks and point is not None and not method.scored and method.merges != "layers":
            found[f"{name}, from a point"] = {"method": name, "query": point}
    return found


def asked(seen: attnviz.Observation, given: Mapping[str, Question]) -> Iterator[
    tuple[str, attnviz.Explanation]
]:  # fmt: skip
    """The explanations of the questions that the model can answer."""
    for title, question in given.items():
        try:
            yield title, attnviz.explain(seen, **question)
        except AttnvizError:
            continue


def the_map(explanation: attnviz.Explanation) -> Values:
    """The mean of the last layer's heads, the mean of localized heads, or the only map."""
    answers = explanation.answers[-1:] if explanation.localized else explanation.answers
    return np.asarray(np.mean([answer.values.astype(np.float64) for answer in answers], axis=0))


def on_object(seen: attnviz.Observation, mask: Cells) -> Rows:
    """How every map lies on the object."""
    judge, rows = Judge(seen, mask), {}
    for title, found in asked(seen, questions(_point(mask))):
        rows[title] = judge.one(the_map(found), found.answers[0])
    answer = attnviz.explain(seen).answers[0]
    rows["Gaussian in the middle"] = judge.one(gaussian(answer.placement), answer)
    picture = with_pixels(seen.picture)
    rows["plain saliency"] = judge.one(saliency(picture, answer.placement, answer.drawn), answer)
    return {name: dict(zip(ON_OBJECT, map(float, row), strict=True)) for name, row in rows.items()}


def _point(mask: Cells) -> str:
    """The pixel of the object that is nearest to its middle."""
    rows, columns = np.nonzero(mask)
    near = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
    return f"{columns[near]},{rows[near]}"


def for_classes(
    model: attnviz.Model, both: Picture, alone: Sequence[Picture], labels: NDArray[np.int64]
) -> Rows | None:
    """Whether maps follow the class; None if the model takes both objects for one class."""
    scored = [
        attnviz.explain(attnviz.observe(each, model, gradients=True), method="gradient-attention")
        .questions[0].target
        for each in alone
    ]  # fmt: skip
    classes = [s.target.index for s in scored if s is not None]
    sure = [s.probability or 0.0 for s in scored if s is not None]
    if len(set(classes)) < 2 or min(sure) < SURE:
        return None
    seen = attnviz.observe(both, model, gradients=True, tokens=True)
    rows: Rows = {}
    given = {title: each for title, each in questions().items() if METHODS[each["method"]].scored}
    for title, question in given.items():
        try:
            maps = [attnviz.explain(seen, **question, target=str(k)) for k in classes]
        except AttnvizError:
            continue
        answer = maps[0].answers[0]
        truth = on_tokens(Objects("pair", labels, 2), answer.placement, answer.drawn)
        weights = [the_map(each)[answer.drawn] for each in maps]
        rows[title] = _followed(weights, np.asarray(truth))
    return rows


def _followed(weights: Sequence[Values], truth: NDArray[np.bool_]) -> dict[str, float]:
    """Whether the first object has a larger share of the map for its class, and who is heavier."""
    shares, right = [], []
    for number, each in enumerate(weights):
        mass = np.array([each[part].clip(0).sum() for part in truth])
        shares.append(mass[0] / mass.sum() if mass.sum() > 0 else 0.5)
        tops = np.array([each[part].max() for part in truth])
        right.append(0.5 + 0.5 * float(np.sign(tops[number] - tops[1 - number])))
    return {
        "class": 0.5 + 0.5 * float(np.sign(shares[0] - shares[1])),
        "right object": float(np.mean(right)),
    }


def perturbed(seen: attnviz.Observation) -> Rows | None:
    """Deletion and insertion of maps for the predicted class; None if the model is not sure."""
    model, rows = seen.model, {}
    shown = perturbing.shown(model, model.pixels(seen.picture, seen.placement), seen.placement)
    predict = perturbing.predictor(model)
    sure, best = predict(shown.input[None])[0].max(0)
    if float(sure) < SURE:
        return None
    label = int(best)
    maps = {
        title: (the_map(found), found.answers[0])
        for title, found in asked(seen, questions())
        if title in MOVING or METHODS[found.method].scored
    }
    answer = attnviz.explain(seen).answers[0]
    picture = with_pixels(seen.picture)
    maps["Gaussian in the middle"] = gaussian(answer.placement), answer
    maps["plain saliency"] = saliency(picture, answer.placement, answer.drawn), answer
    for title, (values, answer) in maps.items():
        order = perturbing.heaviest_first(perturbing.upsample(values, answer.placement))
        gone = _area(shown, predict, label, order, (shown.picture, torch.zeros_like(shown.picture)))
        back = _area(shown, predict, label, order, (shown.blurred, shown.picture))
        shares = {"deletion": gone, "insertion": back, "gap": back - gone}
        rows[title] = {name: value / float(sure) for name, value in shares.items()}
    return rows


def _area(
    shown: perturbing.PerturbationInput,
    predict: perturbing.Predict,
    label: int,
    order: perturbing.Order,
    ends: tuple[Tensor, Tensor],
) -> float:
    """Area under the probability while pixels of one picture become those of another."""
    mixed = []
    for step in range(STEPS + 1):
        chosen = torch.zeros(len(order), dtype=torch.bool)
        chosen[torch.from_numpy(order[: round(step / STEPS * len(order))].copy())] = True
        where = chosen.reshape(ends[0].shape[1:])
        mixed.append(shown.with_picture(torch.where(where, ends[1], ends[0])))
    chance = predict(torch.stack(mixed))[:, label].double().numpy()
    return perturbing.area(chance, 1 / STEPS)


def robust(seen: attnviz.Observation) -> Rows:
    """Metrics of sensitivity, in 5 draws, and of randomisation."""
    groups = SENSITIVITY, RANDOMISATION
    scorer = MapScorer(seen, None, groups=groups, settings=settings_of(groups, {"draws": 5}))
    return {
        title: next(s for s in scorer.maps(found) if not isinstance(s.head, int)).numbers
        for title, found in asked(seen, questions())
        if not found.localized
    }


def measured(options: argparse.Namespace) -> Iterator[tuple[str, Rows]]:
    """The rows of each picture, with its kind."""
    model = attnviz.load_model(options.model, head="class", device="cpu")
    composites = Composites(options.cutouts, options.grounds, options.seed)
    singles = max(options.number, options.perturbed, options.robust)
    for number in range(max(singles, options.pairs)):
        for kind, picture, mask in composites.draw() if number < singles else ():
            seen = attnviz.observe(picture, model, gradients=True, tokens=True)
            if number < options.number:
                yield kind, on_object(seen, mask)
            if kind == "centred" and number < options.perturbed and (rows := perturbed(seen)):
                yield "perturbed", rows
            if kind == "centred" and number < options.robust:
                yield "robust", robust(seen)
        if number < options.pairs:
            both, one, two, labels = composites.pair()
            rows = for_classes(model, both, (one, two), labels)
            if rows is not None:
                yield "pair", rows


def report(lines: Sequence[Mapping[str, Any]], seed: int = 0) -> Iterator[str]:
    """A table of means and bootstrap intervals for each kind of pictures."""
    for kind, columns in COLUMNS.items():
        rows = [line["rows"] for line in lines if line["kind"] == kind]
        if not rows:
            continue
        titles = list(dict.fromkeys(title for each in rows for title in each))
        table = [f"| {kind}, {len(rows)} pictures | {' | '.join(columns)} |",
                 "|---" * (len(columns) + 1) + "|"]  # fmt: skip
        for title in titles:
            values = np.array(
                [[each.get(title, {}).get(name, np.nan) for name in columns] for each in rows]
            )
            ends = intervals(values, seed=seed)
            cells = [
                f"{_short(mean)} ({_short(low)} to {_short(high)})"
                for mean, low, high in zip(np.nanmean(values, 0), *ends, strict=True)
            ]
            table.append(f"| {title} | {' | '.join(cells)} |")
        yield "\n".join(table)


def _short(number: float) -> str:
    return f"{number:.3f}".replace("0.", ".").replace("-", "−")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--cutouts", help="folder of cut-outs with alpha")
    parser.add_argument("--grounds", action="append", help="folder of photographs")
    parser.add_argument("-m", "--model", default="tiny", help="a classifier")
    parser.add_argument("-n", "--number", type=int, default=80, help="composites, each twice")
    parser.add_argument("--pairs", type=int, default=80, help="composites of two objects")
    parser.add_argument("--perturbed", type=int, default=20)
    parser.add_argument("--robust", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="file of JSON lines")
    parser.add_argument("--report", type=Path, help="print the tables of such a file")
    options = parser.parse_args()
    if options.report is None:
        with options.out.open("w", encoding="utf-8") as file:
            for kind, rows in measured(options):
                print(json.dumps({"kind": kind, "rows": rows}), file=file, flush=True)
    lines = (options.report or options.out).read_text(encoding="utf-8").splitlines()
    print("\n\n".join(report([json.loads(line) for line in lines])))


if __name__ == "__main__":
    main()
