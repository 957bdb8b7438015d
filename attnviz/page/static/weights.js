// From a query to weights. A query is {kind: "cell", row, column}, {kind: "prefix", name},
// {kind: "mean"} over the grid, or {kind: "received"}, the mean over all queries.

const received = { kind: "received" };

/** A query as text, as it stands in the address. */
const textOf = (query) => query.kind === "cell" ? `${query.row},${query.column}` : query.name ?? query.kind;

/** The query that a text stands for; what it names need not be there. */
function queryOf(text) {
  const found = /^(\d+),(\d+)$/.exec(text);
  if (found) return { kind: "cell", row: Number(found[1]), column: Number(found[2]) };
  return text === "mean" || text === "received" ? { kind: text } : { kind: "prefix", name: text };
}

/** What a layer is asked instead of what it does not have. */
function fallback(layer) {
  const [first] = layer.queries.prefix;
  if (first === "class" || about.text) return { kind: "prefix", name: first };
  if (hasGrid(layer.queries)) return { kind: "mean" };
  return layer.queries.prefix.length === 1 ? { kind: "prefix", name: first } : received;
}

/** The same query in another layer: by name, or where its centre lies. */
function carried(query, from, to) {
  const side = to.queries;
  if (query.kind === "received") return query;
  if (query.kind === "prefix") return side.prefix.includes(query.name) ? query : fallback(to);
  if (!hasGrid(side)) return fallback(to);
  if (query.kind === "mean" || from === to || !hasGrid(from.queries)) return query;
  if (query.row >= from.queries.rows || query.column >= from.queries.columns) return fallback(to);
  const cell = cellAt(side, ...centreOf(from.queries, query.row, query.column));
  return cell ? { kind: "cell", ...cell } : fallback(to);
}

/** A query that this layer can be asked: a link may name a token that is not there. */
function askable(layer, query) {
  const side = layer.queries;
  if (query.kind !== "cell") return carried(query, layer, layer);
  const inside = query.row < side.rows && query.column < side.columns;
  return inside && tokensOf(side, query).length ? query : fallback(layer);
}

/** Tokens, of all windows, that a query looks from, each with its share; none where they are masked. */
function tokensOf(side, query) {
  if (query.kind === "prefix") return [[side.prefix.indexOf(query.name), 1]];
  const cells = query.kind === "mean" ? side.tokensOf.map((_, i) => i).filter((i) => side.tokensOf[i].length)
    : [query.row * side.columns + query.column];
  if (!side.cover) {
    const tokens = cells.flatMap((cell) => side.tokensOf[cell] ?? []);
    return tokens.map((token) => [token, 1 / tokens.length]);
  }
  return cells.flatMap((cell) => {
    const parts = side.partsOf[cell] ?? [], total = parts.reduce((sum, part) => sum + part, 0) * cells.length;
    return parts.map((part, i) => [side.tokensOf[cell][i], part / total]);
  });
}

/** Weights of every head over the key tokens of all windows: (heads, windows · tokens). */
function tokenWeights(layer, query) {
  const { heads, keys, arrays } = layer;
  if (query.kind === "mean" || query.kind === "received") return pooled(layer, arrays[query.kind]);
  const weights = new Float32Array(heads.length * keys.cellOf.length);
  const add = layer.encoding === "keys16" ? addSoftmax : addBytes;
  for (const [token, share] of tokensOf(layer.queries, query)) add(layer, token, share, weights);
  return weights;
}

/** (windows, heads, keys) as (heads, windows · keys). */
function pooled({ heads, keys }, given) {
  const { windows, tokens } = keys, weights = new Float32Array(given.length);
  for (let w = 0; w < windows; w += 1) {
    for (let h = 0; h < heads.length; h += 1) {
      const from = (w * heads.length + h) * tokens;
      weights.set(given.subarray(from, from + tokens), (h * windows + w) * tokens);
    }
  }
  return weights;
}

/** Adds rows that are kept as bytes, which `addRow` describes, for every head. */
function addBytes({ heads, queries, keys, arrays }, token, share, into) {
  const window = Math.floor(token / queries.tokens), inside = token % queries.tokens;
  for (let h = 0; h < heads.length; h += 1) {
    const row = (window * heads.length + h) * queries.tokens + inside;
    addRow(arrays, keys, row, share, into, h * keys.cellOf.length + window * keys.tokens);
  }
}

/** Adds a row at `at`: weight = byte / 255 · maximum, and that of the prefix exactly. */
function addRow({ weights, maximum, prefix }, keys, row, share, into, at) {
  const outside = keys.prefix.length, inside = keys.tokens - outside;
  const unit = share * maximum[row] / 255;
  for (let k = 0; k < outside; k += 1) into[at + k] += share * prefix[row * outside + k];
  for (let k = 0; k < inside; k += 1) into[at + outside + k] += weights[row * inside + k] * unit;
}

/** Adds softmax(query · keys) of one token, for every head. */
function addSoftmax(layer, token, share, into) {
  const { heads, queries, keys } = layer;
  const window = Math.floor(token / queries.tokens), scores = new Float64Array(keys.tokens);
  for (let h = 0; h < heads.length; h += 1) {
    const largest = scoresOf(layer, window, h, token % queries.tokens, scores);
    let sum = 0;
    for (let k = 0; k < scores.length; k += 1) sum += scores[k] = Math.exp(scores[k] - largest);
    const at = h * keys.cellOf.length + window * keys.tokens;
    for (let k = 0; k < scores.length; k += 1) into[at + k] += scores[k] * share / sum;
  }
}

/** Scores of one query in one head; those of masked keys are −∞. Returns the largest. */
function scoresOf({ heads, queries, keys, features, arrays }, window, h, query, scores) {
  const block = window * heads.length + h;
  const asked = Float32Array.from({ length: features }, (_, d) =>
    arrays.query[(block * queries.tokens + query) * features + d]
      * (arrays.unit ? arrays.unit[block * features + d] : 1));
  const { key } = arrays;
  let largest = -Infinity;
  for (let k = 0, at = block * keys.tokens * features; k < scores.length; k += 1, at += features) {
    let sum = 0;
    for (let d = 0; d < features; d += 1) sum += asked[d] * key[at + d];
    scores[k] = keys.part && !keys.part[window * keys.tokens + k] ? -Infinity : sum;
    if (scores[k] > largest) largest = scores[k];
  }
  return largest;
}

/** Rollout from a query to the end of a layer, over its key tokens. */
function rolloutWeights(end, query) {
  const { queries, keys, arrays } = end, row = new Float32Array(keys.tokens);
  const asked = query.kind === "received" ? Array.from(queries.cellOf, (_, i) => [i, 1 / queries.cellOf.length])
    : tokensOf(queries, query);
  const own = arrays.own;
  for (const [token, share] of asked) {
    const unit = arrays.maximum[token] / 255;
    const inside = token - keys.prefix.length, width = keys.tokens - keys.prefix.length;
    addRow(arrays, keys, token, share, row, 0);
    if (own && inside >= 0) {
      row[token] += share * (own[token] - arrays.weights[token * width + inside] * unit);
    }
  }
  return row;
}
