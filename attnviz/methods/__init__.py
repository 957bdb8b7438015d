"""Methods compute maps from layers; `METHODS` is the table.

A method is a function of one layer input, or of those of all layers that it merges, first to last,
and of its options. It returns (windows, R, heads, key tokens): a weight of every key for each of R
queries. If the method merges heads, their axis has length 1.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from attnviz.errors import UsageError, unknown
from attnviz.registry import Option, Table, TableEntry, complete, load

Need = Literal[
    "gradient", "block gradient", "token gradient", "path gradient",
    "propagation", "input gradient", "integrated gradient", "output relevance",
    "projection", "tokens", "keys", "distribution", "features", "encoder",
]  # fmt: skip
ENTERING = frozenset[Need]({"propagation", "input gradient", "integrated gradient"})
"""What goes back to the tokens that enter the first merged layer."""
SCORED = ENTERING | {
    "gradient", "block gradient", "token gradient", "path gradient", "output relevance"
}  # fmt: skip
"""What needs a score."""


@dataclass(frozen=True)
class Method(TableEntry):
    """An entry of the table of methods.

    Attributes:
        merges: what one map combines: one head, all heads of a layer, or all layers up to one.
        needs: what it needs beside queries, keys and values: the gradient of a score (or of a score
            computed from every layer's own tokens, at the tokens, or in runs on parts of the
            picture), relevance of the tokens that enter the first layer (by rules, by the gradient,
            or integrated) or of attention's outputs, the output projection, the tokens after each
            layer, that queries and keys are the same tokens, that rows of weights are
            distributions, the tokens after each layer where they are known, or, with words, the
            calls of the encoder that reads the picture.
        asks: whether it looks from a query; other methods look from all tokens alike.
        options: its own options: keyword arguments of its function, or of `then` if it has one.
        then: a function that changes the map on cells; it takes values (…, cells), drawn cells
            (cells,), and the options.
        span: of maps whose colours always span the same values, these.
        components: whether it returns `Components`, several maps of a layer.
    """

    merges: Literal["nothing", "heads", "layers"] = "nothing"
    needs: tuple[Need, ...] = ()
    asks: bool = True
    options: tuple[Option, ...] = ()
    then: str = ""
    span: tuple[float, float] | None = None
    components: bool = False

    @property
    def declared_options(self) -> tuple[Option, ...]:
        """All options: its own, and the first layer if it merges layers."""
        return (*self.options, START_LAYER) if self.merges == "layers" else self.options

    @property
    def settings(self) -> tuple[str, ...]:
        """Names of all options."""
        return tuple(option.name for option in self.declared_options)

    def load_then(self) -> Any:
        """Import the code that `then` names."""
        return self.run(lambda: load(self.then))

    @property
    def scored(self) -> bool:
        """Whether it needs a score to take gradients or relevance of."""
        return not SCORED.isdisjoint(self.needs)


START_LAYER = Option(
    "start_layer", int, 0, "Where methods that merge layers begin.", minimum=0, metavar="LAYER"
)
FUSION = Option("fusion", ("mean", "max", "min"), "mean", "How rollout merges heads.")
DISCARD = Option(
    "discard", float, 0.0, "Share of the smallest weights that rollouts leave out.",
    minimum=0.0, maximum=0.999,
)  # fmt: skip
RULE = Option(
    "rule", ("epsilon", "gamma", "cp", "libra"), "epsilon",
    "Rule of attnlrp: epsilon goes through attention weights, too; gamma is that with --gamma 0.25 "
    "for linear layers; for cp and libra attention weights are constants, and libra adds biases.",
)  # fmt: skip
GAMMA = Option(
    "gamma", float, None,
    "How much attnlrp favours what speaks for the output of a linear layer; of --rule cp, too.",
    minimum=0.0, maximum=1000.0, metavar="G",
)  # fmt: skip
USUAL_GAMMA = 0.25
"""The γ of `--rule gamma`: zennit's, as `attribution.propagation.GAMMA`."""
AT = Option(
    "at", ("tokens", "pixels"), "tokens",
    "Where relevance ends: at the tokens that enter the first layer (of words: of the picture's "
    "encoder), or at the pixels of each.",
)  # fmt: skip
STEPS = Option(
    "steps", int, 20, "Runs of the model in transition and integrated-gradients.",
    minimum=1, maximum=1000, metavar="N",
)  # fmt: skip
OF = Option(
    "of", ("tokens", "keys", "queries", "values"), "tokens",
    "Vectors of pca, clusters and factors: tokens after the layer, or what its heads see.",
)  # fmt: skip
OUTLIERS = Option(
    "outliers", ("keep", "leave"), "keep",
    "Tokens of high norm: leave takes them out of pca, clusters and factors.",
)  # fmt: skip
COMPONENTS = Option(
    "components", str, "1,2,3", "Components of pca; the first three are red, green and blue.",
    metavar="LIST", pattern=r"[1-9]\d?(,[1-9]\d?)*",
)  # fmt: skip
FOREGROUND = Option(
    "foreground", float, None,
    "Leave out tokens whose first component of pca is at most this, such as 0.", metavar="SCORE",
)  # fmt: skip
BASIS = Option(
    "basis", str, "own",
    "Basis of pca: own, of each picture; shared, of all of them; or a file, made of all pictures "
    "if it is not there.", metavar="BASIS",
)  # fmt: skip
PARTS = Option(
    "parts", int, 5, "Parts of clusters and factors.", minimum=2, maximum=12, metavar="N"
)
CLUSTER_SEED = Option("cluster_seed", int, 0, "Random seed of clusters.", minimum=0)
KEEP = Option("keep", float, 0.6, "Share of the mass that mass holds.", minimum=0.001, maximum=1.0)

_METHODS: dict[str, Method] = {
    "attention": Method(
        "attnviz.methods.attention:attention",
        "the weights themselves: what the query attends to, one map per layer and head",
        "Vaswani et al. 2017, arXiv 1706.03762, eq. 1",
    ),
    "rollout": Method(
        "attnviz.methods.rollout:rollout",
        "attention multiplied through the layers, from the last one asked back to the first",
        "Abnar & Zuidema 2020, arXiv 2005.00928",
        merges="layers",
        needs=("distribution", "encoder"),
        options=(FUSION, DISCARD),
    ),
    "gradient-attention": Method(
        "attnviz.methods.gradients:gradient_attention",
        "the weights that speak for a score: positive products with their gradients",
        "Chefer et al. 2021, arXiv 2103.15679, eq. 5",
        merges="heads",
        needs=("gradient", "distribution"),
    ),
    "gradient-rollout": Method(
        "attnviz.methods.gradients:gradient_rollout",
        "rollout of the weights that speak for a score",
        "Gildenblat 2020, github.com/jacobgil/vit-explain",
        merges="layers",
        needs=("gradient", "distribution"),
        options=(DISCARD,),
    ),
    "relevance": Method(
        "attnviz.methods.gradients:relevance",
        "how much each token matters to a score, summed up through the layers",
        "Chefer et al. 2021, arXiv 2103.15679, eqs. 5 to 11",
        merges="layers",
        needs=("gradient", "distribution"),
    ),
    "attribution": Method(
        "attnviz.methods.gradients:attribution",
        "the same with the relevance of the weights, found by LRP through all of the model",
        "Chefer et al. 2021, arXiv 2012.09838",
        merges="layers",
        needs=("gradient", "output relevance", "distribution"),
    ),
    "legrad": Method(
        "attnviz.methods.gradients:legrad",
        "what every layer's own score would gain from more attention to a token",
        "Bousselham et al. 2024, arXiv 2404.03214",
        merges="layers",
        needs=("block gradient", "distribution"),
        asks=False,
    ),
    "attnlrp": Method(
        "attnviz.methods.gradients:attnlrp",
        "what each token says for a score, for or against, propagated through all of the model",
        "Achtibat et al. 2024, arXiv 2402.05602",
        merges="layers",
        needs=("propagation",),
        options=(RULE, GAMMA, AT),
        asks=False,
    ),
    "transition": Method(
        "attnviz.methods.token_products:transition",
        "attention followed through the layers, times the integrated gradient of the last",
        "Yuan et al. 2021, Explaining Information Flow Inside Vision Transformers",
        merges="layers",
        needs=("path gradient", "distribution"),
        options=(STEPS,),
    ),
    "grad-cam": Method(
        "attnviz.methods.token_products:grad_cam",
        "tokens that enter the layer, weighted by the mean gradient of each of their features",
        "Selvaraju et al. 2017, arXiv 1610.02391",
        merges="heads",
        needs=("token gradient",),
        asks=False,
    ),
    "attcat": Method(
        "attnviz.methods.token_products:attcat",
        "tokens times their gradients, weighted by the attention that they receive, all layers",
        "Qiang et al. 2022, AttCAT: Explaining Transformers via Attentive Class Activation Tokens",
        merges="layers",
        needs=("token gradient", "distribution"),
        asks=False,
    ),
    "input-gradient": Method(
        "attnviz.methods.token_products:input_gradient",
        "tokens that enter the first layer times their gradient, for or against",
        "Shrikumar et al. 2016, arXiv 1605.01713",
        merges="layers",
        needs=("input gradient",),
        options=(AT,),
        asks=False,
    ),
    "integrated-gradients": Method(
        "attnviz.methods.token_products:integrated_gradients",
        "the same, with the mean gradient on the way from an empty picture",
        "Sundararajan et al. 2017, arXiv 1703.01365",
        merges="layers",
        needs=("integrated gradient",),
        options=(STEPS, AT),
        asks=False,
    ),
    "value-norm": Method(
        "attnviz.methods.attention:value_norm",
        "the weights times the length of what they carry to the tokens",
        "Kobayashi et al. 2020, arXiv 2004.10102",
        needs=("projection",),
    ),
    "value-norm-sum": Method(
        "attnviz.methods.attention:value_norm_sum",
        "the length of what all heads together carry from a token",
        "Kobayashi et al. 2020, arXiv 2004.10102",
        merges="heads",
        needs=("projection",),
    ),
    "received": Method(
        "attnviz.methods.attention:received",
        "who is looked at: the mean of the weights over all queries",
        "Gu et al. 2025, arXiv 2410.10781",
        asks=False,
    ),
    "similarity": Method(
        "attnviz.methods.rollout:similarity",
        "cosine of each key with the query's key",
        "Amir et al. 2021, arXiv 2112.05814",
        needs=("keys",),
    ),
    "token-similarity": Method(
        "attnviz.methods.rollout:token_similarity",
        "cosine of each token after the layer with the query's",
        "Amir et al. 2021, arXiv 2112.05814",
        merges="heads",
        needs=("tokens",),
    ),
    "pca": Method(
        "attnviz.methods.components:pca",
        "the three directions in which tokens differ most, as red, green and blue",
        "Oquab et al. 2023, arXiv 2304.07193",
        merges="heads",
        needs=("features",),
        asks=False,
        options=(OF, COMPONENTS, FOREGROUND, OUTLIERS, BASIS),
        span=(-2.0, 2.0),
        components=True,
    ),
    "clusters": Method(
        "attnviz.methods.components:clusters",
        "groups of tokens that are alike, by k-means",
        "Arthur & Vassilvitskii 2007, k-means++",
        merges="heads",
        needs=("features",),
        asks=False,
        options=(OF, PARTS, OUTLIERS, CLUSTER_SEED),
        span=(0.0, 1.0),
        components=True,
    ),
    "factors": Method(
        "attnviz.methods.components:factors",
        "parts that add up to the tokens, none of them negative",
        "Collins et al. 2018, arXiv 1806.10206",
        merges="heads",
        needs=("features",),
        asks=False,
        options=(OF, PARTS, OUTLIERS),
        components=True,
    ),
    "mass": Method(
        "attnviz.methods.attention:mass",
        "the smallest set of cells that holds 60 % of the attention, or --keep",
        "Caron et al. 2021, arXiv 2104.14294",
        needs=("distribution",),
        options=(KEEP,),
        then="attnviz.methods.attention:smallest_set",
    ),
}
METHODS = Table("attnviz.methods", Method, _METHODS)
"""Methods by name; other packages add theirs as entry points of the group `attnviz.methods`."""
DEFAULT = "attention"


def without_score() -> str:
    """Names of the methods that need no score, so that they work with any head."""
    return ", ".join(name for name, method in METHODS.items() if not method.scored)


def find_method(name: str) -> Method:
    """The entry of the method of that name.

    Raises:
        UsageError: there is no method of that name.
    """
    if name not in METHODS:
        raise unknown("method", name, METHODS, see="attnviz methods")
    return METHODS[name]


def check_request(
    names: Sequence[str],
    settings: Mapping[str, Any],
    *,
    query: bool = False,
    targets: Sequence[str] = (),
    importance: bool = False,
    others: Collection[str] = (),
) -> None:
    """Refuse a request that gives an option, score or query that no requested method takes.

    Args:
        names: names of the methods.
        settings: options by name; None means that the option is not given.
        query: whether a query is given.
        targets: for each score that is given, the option that gives it.
        importance: whether the importance of heads is requested, which also takes one score.
        others: names of options that belong to statistics, which only methods that keep heads have.

    >>> check_request(["rollout"], {"fusion": "max"})

    Raises:
        UsageError: a method is unknown, no method takes an option, an option has a wrong value,
            a score is given and no method takes a gradient, or no method looks from the query.
    """
    chosen = [find_method(name) for name in names]
    of_heads = any(method.merges == "nothing" for method in chosen)
    for key, value in settings.items():
        taken = any(key in method.settings for method in chosen)
        if value is not None and (taken or key not in others or not of_heads):
            _find_option(key, names).check(value)
    gamma, rule = settings.get("gamma"), settings.get("rule") or RULE.default
    if gamma is not None and rule not in ("gamma", "cp"):
        raise UsageError(f"--gamma {gamma:g}: --rule {rule} has none; give --rule gamma or cp")
    unscored = [name for name, method in zip(names, chosen, strict=True) if not method.scored]
    if importance and unscored and len(targets) > 1:
        raise UsageError(
            f"{targets[0]}: {unscored[0]} takes no gradient of a score, and --stats all takes one "
            "score; give one"
        )
    if targets and not importance and len(unscored) == len(chosen):
        taker = next(name for name, method in METHODS.items() if method.scored)
        raise UsageError(
            f"{targets[0]}: {' and '.join(names)} takes no gradient of a score; add --method "
            f"{taker}, or --stats all"
        )
    if query and not any(method.asks for method in chosen):
        raise UsageError(f"--query: {names[0]} looks from all tokens alike; leave it out")


def _find_option(key: str, names: Sequence[str]) -> Option:
    """The option of that name, of the first of some methods that has it."""
    for name in names:
        for option in METHODS[name].declared_options:
            if option.name == key:
                return option
    takers = [name for name, method in METHODS.items() if key in method.settings]
    advice = (
        f"it is for {', '.join(takers)}: add --method {takers[0]}" if takers else "leave it out"
    )
    raise UsageError(f"--{key.replace('_', '-')} is no option of {' and '.join(names)}; {advice}")


def complete_settings(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a method, with defaults for those that are not given.

    >>> complete_settings("rollout", {"fusion": "max", "discard": None})
    {'fusion': 'max', 'discard': 0.0, 'start_layer': 0}
    """
    found = complete(METHODS[name].declared_options, given)
    if found.get("rule") == "gamma" and found["gamma"] is None:
        found["gamma"] = USUAL_GAMMA
    return found
