"""An entry for each table of attnviz; free of torch, so that `--help` stays fast."""

from attnviz.batch.finalizers import Finalizer
from attnviz.comparison import Agreement
from attnviz.evaluation import MASKS, PERTURBATION, Metric
from attnviz.methods import Method
from attnviz.models import Source
from attnviz.registry import Option, TableEntry
from attnviz.statistics import MapNumber, Statistic

SHARPENED = Method(
    "attnviz_example.methods:sharpened",
    "the weights to a power, so that the largest stand out",
    "https://example.org/sharpened",
    options=(Option("power", float, 2.0, "Power of the weights in sharpened.", minimum=0.1),),
)
CONCENTRATION = Statistic(
    "attnviz_example.statistics:concentration",
    "how far a row is from uniform, 0 to 1",
    "https://example.org/concentration",
    short="conc.",
    options=(Option("sharpness", float, 1.0, "Power of the concentration.", minimum=0.1),),
)
TOKENS_SEEN = Statistic(
    "attnviz_example.statistics:tokens_seen",
    "number of tokens that receive more than a uniform share",
    "https://example.org/tokens-seen",
    basic=False,
    whole=True,
    options=(Option("share", float, 1.0, "Uniform shares that tokens_seen counts from."),),
)
CONTRAST = MapNumber(
    "attnviz_example.maps:contrast",
    "largest less smallest weight, by their sum",
    "Michelson 1927",
    short="contrast",
)
CHECKERS = Source(
    "attnviz_example.sources:load",
    "checkers:HEADS, one attention layer over patches of 16 pixels",
    "https://example.org/checkers",
    spec="checkers:HEADS",
    no_control="its weights are random",
)
BMP = TableEntry(
    "attnviz_example.formats:as_bmp",
    "pixels as they are, not compressed",
    "https://example.org/bmp",
)
OUTSIDE = Metric(
    "attnviz_example.metrics:outside",
    "share of the weight that lies beyond the objects",
    "https://example.org/outside",
    group=MASKS,
    higher=False,
)
GAP = Metric(
    "attnviz_example.metrics:gap",
    "area between the insertion and the deletion curve",
    "https://example.org/gap",
    group=PERTURBATION,
)
DIFFERENCE = Agreement(
    "attnviz_example.agreements:difference",
    "mean difference of the weights, each map divided by its sum",
    "https://example.org/difference",
    short="diff.",
)
CONTENTS = Finalizer(
    "attnviz_example.finalizers:write_contents",
    "contents.txt, the names of all pictures",
    "https://example.org/contents",
    help="Also write the names of all pictures: contents.txt.",
)
