"""Methods: from layers that are read to maps. `METHODS` is the table."""

from attnviz.catalog import Entry

METHODS: dict[str, Entry] = {
    "attention": Entry(
        "attnviz.methods.attention:attention",
        "the weights themselves: what the query attends to, one map per layer and head",
        "Vaswani et al. 2017, arXiv 1706.03762, eq. 1",
    ),
}
DEFAULT = "attention"
