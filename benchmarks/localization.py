"""Measures which heads look at the objects of photographs, and what can find them without a mask.

    python benchmarks/localization.py --cutouts STAMPS --grounds WALLPAPERS -m tiny -m CHECKPOINT

Composites are photographic cut-outs over photographic grounds, with exact masks: Debian's
`tuxpaint-stamps-default` over `gnome-backgrounds`, `mate-backgrounds`, `ukui-wallpapers` and the
like, unpacked into folders. Every composite comes twice: `centred`, as photographs are, and
`aside`, with its object near a border. `--photographs FOLDER --masks FOLDER` adds pictures with
masks. The tables go to stdout, as Markdown: every layer, method and baseline; the scores that can
choose heads; and how many heads to take. Intervals are bootstrap 95 % intervals over pictures;
those of a score are of its difference from the one that attnviz takes, picture by picture.
"""

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

import attnviz
from attnviz.errors import ModelError, UsageError
from attnviz.evaluation.baselines import gaussian, saliency
from attnviz.evaluation.objects import Objects, auc, jaccard_area, load_objects, on_tokens, pointing
from attnviz.evaluation.run import find_masks, find_pictures
from attnviz.evaluation.summary import intervals
from attnviz.explanation.explanation import Answer
from attnviz.io.picture import Picture, with_pixels
from attnviz.methods import METHODS
from attnviz.statistics.localization import border_masses, flat, spatial_entropies

Values = NDArray[np.float64]
Cells = NDArray[np.bool_]
Rows = dict[str, Values]
"""The three metrics of each map of a picture, by name."""
SIDE = 224
COLOURS = 150  # of cut-outs that are photographs: so many different ones, of 32 levels a channel
KEPT = (1, 2, 3, 5, 8, 12)
NUMBERS = ("pointing", "Jaccard", "AUC")
OTHERS = ("value-norm", "received", "gradient-attention", "legrad", "rollout", "gradient-rollout",
          "relevance", "attnlrp")  # fmt: skip


def ranks(values: Values) -> Values:
    """The rank of each value, the smallest first."""
    return values.argsort(kind="stable").argsort(kind="stable").astype(np.float64)


def spreads(maps: Values) -> Values:
    """The root mean square distance from the centroid of each map, in grid diagonals."""
    rows, columns = maps.shape[1:]
    y, x = np.mgrid[:rows, :columns]
    share = maps / maps.sum((1, 2), keepdims=True)
    means = [(share * axis).sum((1, 2)) for axis in (y, x)]
    squares = [
        (share * (axis - mean[:, None, None]) ** 2).sum((1, 2))
        for axis, mean in zip((y, x), means, strict=True)
    ]
    return np.asarray(np.sqrt(sum(squares)) / np.hypot(rows, columns))


def areas(maps: Values) -> Values:
    """The share of cells in the smallest set that holds 60 % of each map."""
    ordered = np.sort(maps.reshape(len(maps), -1), axis=1)[:, ::-1]
    shares = ordered.cumsum(1) / ordered.sum(1, keepdims=True)
    return np.asarray(((shares < 0.6).sum(1) + 1) / ordered.shape[1])


def choices(maps: Values) -> Rows:
    """The scores of heads that need no mask, by name; the lower, the better."""
    entropy, border = spatial_entropies(maps), border_masses(maps)
    spread, area = spreads(maps), areas(maps)
    return {
        "entropy + 2 border": entropy + 2 * border,  # what attnviz takes
        "entropy": entropy,
        "border": border,
        "entropy + ½ border": entropy + border / 2,
        "entropy + border": entropy + border,
        "entropy + 3 border": entropy + 3 * border,
        "spread": spread,
        "area60": area,
        "entropy + 2 border + 2 spread": entropy + 2 * border + 2 * spread,
        **{f"entropy + {w} spread": entropy + w * spread for w in (10, 20, 40)},
        "ranks of entropy, border": ranks(entropy) + ranks(border),
        "ranks of entropy, spread": ranks(entropy) + ranks(spread),
        "ranks of entropy, border, spread, area60": sum(
            map(ranks, (entropy, border, spread, area)), start=np.zeros(len(maps))
        ),
    }


class Composites:
    """Draws composites of cut-outs over grounds; equal folders and seeds give equal pictures."""

    def __init__(self, cutouts: str, grounds: Sequence[str], seed: int) -> None:
        self._cutouts = [
            c for path in _files([cutouts], ".png") if (c := _cutout(path)) is not None
        ]
        kinds = (".jpg", ".jpeg", ".png", ".webp")
        self._grounds = [g for path in _files(grounds, *kinds) if (g := _ground(path)) is not None]
        self._random = np.random.default_rng(seed)

    def __str__(self) -> str:
        return f"{len(self._cutouts)} cut-outs, {len(self._grounds)} grounds"

    def draw(self) -> tuple[tuple[str, Picture, Cells], ...]:
        """A cut-out over a ground, in the middle and near a border: name, picture and mask."""
        random = self._random
        ground = self._ground()
        cutout = self._cutout(np.exp(random.uniform(np.log(0.06), np.log(0.35))), SIDE)
        middle = random.normal(0.5, 0.08, 2)
        angle = random.uniform(0, 2 * np.pi)
        aside = 0.5 + 0.5 * np.array([np.cos(angle), np.sin(angle)])  # on a circle to the borders
        return tuple(
            (name, *self._lay(ground, cutout, place))
            for name, place in (("centred", middle), ("aside", aside))
        )

    def pair(self) -> tuple[Picture, Picture, Picture, NDArray[np.int64]]:
        """Two cut-outs beside each other over a ground: both, each alone, and labels 1 and 2."""
        ground, half = self._ground(), SIDE // 2
        laid = [
            (self._cutout(0.12, half), np.array([x, self._random.normal(0.5, 0.08)]))
            for x in (0.25, 0.75)
        ]
        (one, first), (two, second) = (self._lay(ground, *each) for each in laid)
        both, _ = self._lay(Image.fromarray(one.pixels), *laid[1])
        return both, one, two, np.where(second, 2, first.astype(np.int64))

    def _ground(self) -> Image.Image:
        return self._crop(self._grounds[self._random.integers(len(self._grounds))])

    def _cutout(self, share: float, longest: int) -> Image.Image:
        """A cut-out that covers a share of the picture, and is not longer than `longest`."""
        cutout = self._cutouts[self._random.integers(len(self._cutouts))]
        solid = (np.asarray(cutout)[..., 3] > 127).sum()
        factor = np.sqrt(share * SIDE**2 / solid)
        if longest < SIDE:
            factor = min(factor, longest / max(cutout.size))
        size = [min(SIDE, max(8, round(length * factor))) for length in cutout.size]
        return cutout.resize((size[0], size[1]), Image.Resampling.LANCZOS)

    def _crop(self, ground: Image.Image) -> Image.Image:
        side = round(min(ground.size) * self._random.uniform(0.4, 1))
        left, top = (int(self._random.integers(length - side + 1)) for length in ground.size)
        part = ground.crop((left, top, left + side, top + side))
        return part.resize((SIDE, SIDE), Image.Resampling.LANCZOS)

    def _lay(
        self, ground: Image.Image, cutout: Image.Image, place: Values
    ) -> tuple[Picture, Cells]:
        """The composite and its mask; at least three quarters of the object are inside."""
        near = [
            round(float(np.clip(share * SIDE - length / 2, -length / 8, SIDE - length * 7 / 8)))
            for share, length in zip(place, cutout.size, strict=True)
        ]
        alpha = Image.new("L", (SIDE, SIDE))
        alpha.paste(cutout.getchannel("A"), (near[0], near[1]))
        colours = Image.new("RGB", (SIDE, SIDE))
        colours.paste(cutout.convert("RGB"), (near[0], near[1]))
        whole = Image.composite(colours, ground, alpha.filter(ImageFilter.GaussianBlur(0.7)))
        return Picture("composite", np.asarray(whole)), np.asarray(alpha) >= 128


def _files(folders: Sequence[str], *endings: str) -> list[Path]:
    found = [path for folder in folders for path in sorted(Path(folder).rglob("*"))]
    return [path for path in found if path.suffix.lower() in endings]


def _cutout(path: Path) -> Image.Image | None:
    """A photographic cut-out without its empty border; None for drawings and full pictures."""
    if "_mirror" in path.name:
        return None
    image = Image.open(path).convert("RGBA")
    image.thumbnail((300, 300))
    box = image.getchannel("A").point(lambda a: 255 * (a > 20)).getbbox()
    pixels = np.asarray(image)
    solid = pixels[..., 3] > 127
    shades = pixels[solid][:, :3].astype(int) // 8 @ [1, 32, 1024]
    if box is None or solid.sum() < 300 or solid.mean() > 0.95 or len(np.unique(shades)) < COLOURS:
        return None
    return image.crop(box)


def _ground(path: Path) -> Image.Image | None:
    with Image.open(path) as image:
        if min(image.size) < 500 or "screenshot" in path.name:
            return None
        image.draft("RGB", (1200, 1200))
        ground = image.convert("RGB")
    ground.thumbnail((1000, 1000))
    return None if min(ground.size) < SIDE else ground


def photographs(pictures: str, masks: str) -> Iterator[tuple[str, Picture, Cells]]:
    """Photographs with masks of the same names, as `attnviz evaluate` finds them."""
    found, _ = find_pictures([pictures])
    for pair in find_masks(found, masks)[0]:
        picture = attnviz.load_image(pair.image)
        objects = load_objects(str(pair.mask), width=picture.width, height=picture.height)
        yield "photographs", picture, objects.labels > 0


class Judge:
    """Measures every map of one picture against its mask."""

    def __init__(self, observation: attnviz.Observation, mask: Cells) -> None:
        self.observation = observation
        self.chosen: list[str] = []
        self._objects = Objects("mask", mask.astype(np.int64), 1)

    def one(self, values: NDArray[Any], answer: Answer) -> Values:
        """Pointing, Jaccard of as many tokens as the object has, and AUC."""
        truth = np.asarray(on_tokens(self._objects, answer.placement, answer.drawn).any(0))
        weights = values[answer.drawn].astype(np.float64)
        return np.array([float(metric(weights, truth)) for metric in (pointing, jaccard_area, auc)])

    def rows(self) -> Rows:
        """The metrics of every map: layers, choices, methods, baselines and the oracle."""
        found = attnviz.explain(self.observation, layers="all")
        maps, answer = found.maps.astype(np.float64), found.answers[0]  # layers, heads, …
        heads = np.array([[self.one(m, answer) for m in of_layer] for of_layer in maps])
        rows = {f"layer {n}": self.one(maps[n].mean(0), answer) for n in range(len(maps))}
        rows |= {f"head {n}.{h}": heads[n, h] for n, h in np.ndindex(*maps.shape[:2])}
        rows["oracle: the picture's best head"] = heads.reshape(-1, 3).max(0)
        half = len(maps) // 2
        upper = maps[half:].reshape(-1, *maps.shape[2:])
        rows["mean of the upper half"] = self.one(upper.mean(0), answer)
        rows |= self._chosen(upper, answer) | self._ranges(maps, answer)
        kept = attnviz.explain(self.observation, heads="localized").questions[0].localized
        self.chosen = [f"{each.layer}.{each.head}" for each in kept]
        rows |= self._methods()
        picture = with_pixels(self.observation.picture)
        rows["Gaussian"] = self.one(gaussian(answer.placement), answer)
        rows["saliency"] = self.one(saliency(picture, answer.placement, answer.drawn), answer)
        return rows

    def _chosen(self, upper: Values, answer: Answer) -> Rows:
        """The mean of the three heads that each score chooses, and of K heads by ours."""
        scores = choices(upper)
        away = flat(upper, answer.drawn)
        orders = {n: np.where(away, np.inf, s).argsort(kind="stable") for n, s in scores.items()}
        rows = {f"by {n}": self.one(upper[o[:3]].mean(0), answer) for n, o in orders.items()}
        ours = orders["entropy + 2 border"]
        return rows | {f"K = {k}": self.one(upper[ours[:k]].mean(0), answer) for k in KEPT}

    def _ranges(self, maps: Values, answer: Answer) -> Rows:
        """Three heads by our score, chosen from other ranges of layers."""
        count = len(maps)
        starts = {"all layers": 0, "the upper two thirds": count // 3, "the upper half": count // 2,
                  "the upper third": count - count // 3}  # fmt: skip
        rows = {}
        for name, start in starts.items():
            some = maps[start:].reshape(-1, *maps.shape[2:])
            scores = spatial_entropies(some) + 2 * border_masses(some)
            order = np.where(flat(some, answer.drawn), np.inf, scores).argsort(kind="stable")
            rows[f"from {name}"] = self.one(some[order[:3]].mean(0), answer)
        return rows

    def _methods(self) -> Rows:
        """Other methods: merged ones, and localized heads of those with a map per head."""
        rows = {}
        for name in OTHERS:
            layered = METHODS[name].merges != "layers"
            layers = "all" if layered else "-1"
            try:
                found = attnviz.explain(self.observation, method=name, layers=layers)
            except (ModelError, UsageError):
                continue
            for layer, answers in found.by_layer.items():
                title = name if not layered else f"{name}, layer {layer}"
                rows[title] = self.one(np.mean([a.values for a in answers], 0), answers[0])
            if METHODS[name].merges == "nothing":
                kept = attnviz.explain(self.observation, method=name, heads="localized")
                rows[f"{name}, localized"] = self.one(kept.answers[-1].values, kept.answers[-1])
        return rows


def table(rows: dict[str, Values], seed: int, names: Sequence[str]) -> str:
    """Means of these rows with the ends of their intervals, as a table."""
    lines = [f"| map | {' | '.join(NUMBERS)} |", "|---|---|---|---|"]
    for name in names:
        ends = intervals(rows[name], seed=seed)
        cells = [
            f"{_short(mean)} ({_short(low)}–{_short(high)})"
            for mean, low, high in zip(rows[name].mean(0), *ends, strict=True)
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def differences(rows: dict[str, Values], seed: int, names: Sequence[str], to: str) -> str:
    """The differences of rows from another, picture by picture, with their intervals."""
    lines = [f"| less {to} | {' | '.join(NUMBERS)} |", "|---|---|---|---|"]
    for name in names:
        less = rows[name] - rows[to]
        cells = [
            f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"
            for mean, low, high in zip(less.mean(0), *intervals(less, seed=seed), strict=True)
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _short(number: float) -> str:
    return f"{number:.3f}".removeprefix("0")


def best(rows: dict[str, Values], start: str, count: int = 1) -> list[str]:
    """The names that begin with `start` of the rows with the best mean of Jaccard and AUC."""
    names = [name for name in rows if name.startswith(start)]
    return sorted(names, key=lambda name: -rows[name][:, 1:].mean())[:count]


def report(rows: dict[str, Values], seed: int) -> Iterator[str]:
    """All tables of one set of pictures."""
    ours = "by entropy + 2 border"
    heads = best(rows, "head ", 3)
    methods = [
        name
        for kind in OTHERS
        for name in (*best(rows, f"{kind}, layer"), f"{kind}, localized", kind)
        if name in rows
    ]
    places = [name for name in rows if name.startswith("layer ")]
    yield table(
        rows, seed,
        [ours, *places, "mean of the upper half", *heads, *methods, "Gaussian", "saliency",
         "oracle: the picture's best head"],
    )  # fmt: skip
    yield differences(rows, seed, [*best(rows, "layer "), *heads[:1], *methods, "Gaussian"], ours)
    yield differences(rows, seed, [n for n in rows if n.startswith("by ") and n != ours], ours)
    yield table(rows, seed, [n for n in rows if n.startswith(("K = ", "from "))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--cutouts", required=True, help="folder of cut-outs with alpha")
    parser.add_argument("--grounds", required=True, action="append", help="folder of photographs")
    parser.add_argument("--photographs", help="folder of photographs with masks")
    parser.add_argument("--masks", help="folder of their masks")
    parser.add_argument("-m", "--model", action="append", default=None, help="may be repeated")
    parser.add_argument("-n", "--number", type=int, default=200, help="composites, each twice")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for spec in options.model or ["tiny"]:
        model = _model(spec)
        composites = Composites(options.cutouts, options.grounds, options.seed)
        print(f"## {Path(spec).name}\n\n{options.number} composites twice, {composites}.")
        pictures: Iterator[tuple[str, Picture, Cells]] = (
            each for _ in range(options.number) for each in composites.draw()
        )
        if options.photographs:
            pictures = chain(pictures, photographs(options.photographs, options.masks))
        chosen: dict[str, list[list[str]]] = {}
        of_judges: dict[str, list[Rows]] = {}
        for kind, picture, mask in pictures:
            seen = attnviz.observe(picture, model, gradients=model.head == "class")
            judge = Judge(seen, mask)
            of_judges.setdefault(kind, []).append(judge.rows())
            chosen.setdefault(kind, []).append(judge.chosen)
        for kind, judged in of_judges.items():
            rows = {name: np.stack([each[name] for each in judged]) for name in judged[0]}
            print(f"\n### {kind}, {len(judged)} pictures\n")
            counts = Counter(chain.from_iterable(chosen[kind])).most_common(6)
            often = ", ".join(f"{head} in {n / len(judged):.0%}" for head, n in counts)
            print(f"Chosen most often: {often}.\n")
            print("\n\n".join(report(rows, options.seed)), flush=True)


def _model(spec: str) -> attnviz.Model:
    try:
        return attnviz.load_model(spec, head="class")
    except ModelError:
        return attnviz.load_model(spec)


if __name__ == "__main__":
    main()
