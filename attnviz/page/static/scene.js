// What is shown: of each view its map, and the range that all views share.

const fixedRange = () => ({ low: FIXED[0], high: FIXED[1] });
const percent = (part) => `${(100 * part).toFixed(100 * part >= 99.95 ? 0 : 1)} %`;

/** A weight in three significant digits. */
function said(value) {
  if (value === null || !Number.isFinite(value)) return "–";
  if (Number.isInteger(value)) return String(value);
  const size = Math.abs(value);
  if (size < 1e-3) return value.toExponential(2).replaceAll("-", "−");
  return size < 1000 ? value.toPrecision(3) : value.toFixed(0);
}

const which = (layer) => state.merge === "one" ? layer.heads.indexOf(state.head) : state.merge;

/** The query that heads of a layer are asked, when `query` is looked from in the layer chosen. */
function asked(layer, query) {
  if (state.show === "received") return received;
  return carried(query, layerOf(state.layer), layer);
}

/**
 * The map of a view.
 * @returns {{query: object, side: Side, map: Float32Array, beside: ?number, prefix: Float32Array}}
 */
function shownIn(view) {
  const layer = layerOf(state.layer), query = queryIn(view);
  if (state.show === "rollout") {
    const end = endOf(state.layer);
    const seen = lookOf(end.keys, 1, rolloutWeights(end, query));
    return { query, side: end.keys, map: seen.maps[0], beside: seen.beside[0], prefix: seen.prefix };
  }
  const seen = look(layer, asked(layer, query));
  const merged = mergedOf(seen, which(layer));
  return { query, side: layer.keys, ...merged, prefix: prefixOf(seen, layer) };
}

function prefixOf(seen, { keys, heads, ...layer }) {
  const width = keys.prefix.length;
  const rows = heads.map((_, h) => seen.prefix.subarray(h * width, (h + 1) * width));
  const merge = which({ heads, ...layer });
  if (typeof merge === "number") return rows[merge];
  return Float32Array.from({ length: width }, (_, i) => merge === "max"
    ? Math.max(...rows.map((row) => row[i])) : rows.reduce((sum, row) => sum + row[i], 0) / rows.length);
}

/** Range of the maps that share colours with those of these views: one range, of one layer or all. */
function sharedRange(views) {
  const log = state.scale === "log";
  const among = state.scale === "all" ? layers.filter(ready) : [layerOf(state.layer)];
  return joined(among.flatMap((layer) => views.map(({ query }) =>
    rangeOf(look(layer, asked(layer, query)).maps, layer.keys.drawn, log))));
}

/** The range of the large views: the same for both. */
function rangeOfViews(shown) {
  if (state.scale === "fixed") return fixedRange();
  const shared = state.scale === "layer" || state.scale === "all";
  if (shared && state.show !== "rollout") return sharedRange(shown);
  return joined(shown.map(({ side, map }) => rangeOf([map], side.drawn, state.scale === "log")));
}

/** The range of one head's small map, where it is not one for all. */
function rangeOfSmall(map, side, shared) {
  return shared ?? rangeOf([map], side.drawn, state.scale === "log");
}

/** The range that small maps of a query share, or null where each has its own. */
function rangeOfSmalls(query) {
  if (state.scale === "fixed") return fixedRange();
  return state.scale === "layer" || state.scale === "all" ? sharedRange([{ query }]) : null;
}

/** A map made ready to be painted: which cells, which colours. */
function painted({ side, map }, range) {
  return {
    side, map, kept: smallestSet(map, side.drawn, state.keep / 100),
    at: positions(range, state.scale), table: colourTables.get(state.colours),
  };
}

const ALL_QUERIES = about.text ? "all words of the answer" : "all queries";

/** A query in words. */
function wordsOf(query) {
  if (query.kind === "cell") return `token at row ${query.row}, column ${query.column}`;
  if (query.kind === "mean") return "mean of all grid tokens";
  if (query.kind === "received") return `mean of ${ALL_QUERIES}`;
  return query.name === "class" ? "class token" : wordNamed(query.name) ?? query.name;
}

/** A word in quotes, and which of its name it is; undefined for another query. */
function wordNamed(name) {
  const word = about.text?.words.find((each) => each.name === name), nth = /#(\d+)$/.exec(name);
  return word && `“${word.word}”${nth ? ` (number ${nth[1]})` : ""}${word.of === "prompt" ? " of the prompt" : ""}`;
}

/** What is drawn, in words: "layer 11, head 3". */
function wordsOfMap() {
  if (state.show === "rollout") return `rollout to layer ${state.layer}`;
  const head = { one: `head ${state.head}`, mean: "mean of heads", max: "maximum of heads" }[state.merge];
  return `${state.show === "received" ? "attention received, " : ""}layer ${state.layer}, ${head}`;
}

/** What lies beside the drawn cells, in words. */
function wordsOfRest({ side, beside }) {
  if (beside === null || (!side.prefix.length && beside < 5e-4)) return "";
  const hidden = side.prefix.length === 0 || side.drawn.includes(0);
  const where = [side.prefix.length && outsideWords(side.prefix), hidden && "tokens that are not drawn"];
  return `${percent(beside)} on ${where.filter(Boolean).join(" and ")}`;
}

function outsideWords(prefix) {
  if (about.text) return prefix.join(" and ");
  const registers = prefix.filter((name) => name.startsWith("register")).length;
  const others = prefix.length - registers - (prefix.includes("class") ? 1 : 0);
  const several = (count, one, more) => count > 1 ? more : count === 1 && one;
  const parts = [prefix.includes("class") && "class token", several(registers, "register", "registers"),
    several(others, "another token", "other tokens")].filter(Boolean);
  return parts.length > 1 ? `${parts.slice(0, -1).join(", ")} and ${parts.at(-1)}` : parts[0];
}

/** What "keep" keeps of a map, in words. */
function wordsOfKept({ side, map }, kept) {
  const count = (cells) => cells.reduce((sum, cell, i) => sum + (cell && side.drawn[i] ? 1 : 0), 0);
  return state.keep < 100 ? `${state.keep} % of the mass on ${count(kept)} of ${count(side.drawn)} tokens` : "";
}
