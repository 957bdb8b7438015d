// Layers and the two sides of each: which token stands for which cell of the picture.

/**
 * One side of a layer, its queries or its keys.
 * @typedef {object} Side
 * @property {number} rows of its cells; 0 where no token lies on the picture
 * @property {number} columns
 * @property {number[]} edges_x where cells lie, in picture pixels
 * @property {number[]} edges_y
 * @property {number} windows that share the picture
 * @property {number} tokens a window
 * @property {string[]} prefix names of the tokens that lie nowhere, which come first
 * @property {Int32Array} cellOf cell of each token of all windows, -1 for none
 * @property {?object} cover cells that each token covers, as pairs: tokens, cells, shares of the token
 *   on the cell, parts of the cell that the token covers; null where a token stands for one cell
 * @property {number[][]} tokensOf tokens of each cell
 * @property {number[][]} partsOf what each of them covers of the cell
 * @property {?Uint8Array} part 0 for each token that is masked; null where none is
 * @property {Uint8Array} drawn 1 for each cell that is drawn
 */

const layers = about.layers.map((given, position) => ({ ...given, position, arrays: null }));
const ends = (about.rollout.ends ?? []).map((given) => ({ ...given, arrays: null }));

/** @returns {Side} */
function sideOf(given, arrays) {
  const prefix = given.prefix.length, cells = given.rows * given.columns;
  const side = { ...given };
  side.cellOf = given.cells ? arrays[given.cells]
    : Int32Array.from({ length: given.tokens }, (_, i) => Math.max(i - prefix, -1));
  side.part = given.taking_part ? arrays[given.taking_part] : null;
  side.drawn = given.drawn ? arrays[given.drawn] : new Uint8Array(cells).fill(1);
  side.tokensOf = Array.from({ length: cells }, () => []);
  side.partsOf = Array.from({ length: cells }, () => []);
  const put = (token, cell, part) => {
    if (cell < 0 || (side.part && !side.part[token])) return;
    side.tokensOf[cell].push(token);
    side.partsOf[cell].push(part);
  };
  const read = (name) => arrays[`${given.cover}_${name}`];
  side.cover = given.cover ? { tokens: read("tokens"), cells: read("cells"), shares: read("shares"), parts: read("parts") } : null;
  if (side.cover) side.cover.tokens.forEach((token, i) => put(token, side.cover.cells[i], side.cover.parts[i]));
  else side.cellOf.forEach((cell, token) => put(token, cell, 1));
  return side;
}

/** Inflates a layer, or a rollout, once; `arrived` is told. */
function load(entry) {
  entry.loading ??= inflated(entry.block).then((bytes) => {
    const arrays = arraysOf(bytes, entry.parts);
    entry.queries = sideOf(entry.queries, arrays);
    entry.keys = sideOf(entry.keys, arrays);
    entry.arrays = arrays;
    arrived();
  });
  return entry.loading;
}

/** Whether what is asked of is there; if not, it is on its way. */
function ready(entry) {
  if (!entry.arrays) load(entry);
  return entry.arrays !== null;
}

const layerOf = (number) => layers.find((layer) => layer.layer === number);
const endOf = (number) => ends.find((end) => end.layer === number);

/** Whether tokens of a side lie on the picture: an attention pool's query does not. */
const hasGrid = (side) => side.rows * side.columns > 0;

/** The cell along one axis that holds a coordinate; -1 outside. */
function along(edges, at) {
  if (!(at >= edges[0] && at < edges[edges.length - 1])) return -1;
  let low = 0, high = edges.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (edges[middle] <= at) low = middle; else high = middle;
  }
  return low;
}

/** The cell that holds a place of the picture, or null. */
function cellAt(side, x, y) {
  const column = along(side.edges_x, x), row = along(side.edges_y, y);
  return row < 0 || column < 0 ? null : { row, column };
}

/** Centre of what is seen of a cell, in picture pixels. */
function centreOf(side, row, column) {
  const within = (at, end) => Math.min(Math.max(at, 0), end);
  const middle = (edges, i, end) => (within(edges[i], end) + within(edges[i + 1], end)) / 2;
  return [middle(side.edges_x, column, about.image.width), middle(side.edges_y, row, about.image.height)];
}
