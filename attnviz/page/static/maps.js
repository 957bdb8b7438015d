// From weights to maps: one weight a cell, what of it is drawn, and which range the colours span.

/**
 * What all heads of a layer see from one query.
 * @typedef {object} Look
 * @property {Float32Array[]} maps of each head, one weight a cell
 * @property {Float32Array} prefix (heads, prefix tokens)
 * @property {Float32Array} beside of each head, weight on tokens that lie on no drawn cell
 */

const looks = new Map(); // the last ones asked, by layer and query
const KEPT_LOOKS = 96 + (about.text?.words.length ?? 0);

/** @returns {Look} */
function look(layer, query) {
  const name = `${layer.position}|${textOf(query)}`;
  const known = looks.get(name);
  if (known) return known;
  const made = lookOf(layer.keys, layer.heads.length, tokenWeights(layer, query));
  looks.set(name, made);
  if (looks.size > KEPT_LOOKS) looks.delete(looks.keys().next().value);
  return made;
}

function lookOf(keys, heads, weights) {
  const cells = keys.rows * keys.columns, all = keys.cellOf.length, outside = keys.prefix.length;
  const made = { maps: [], prefix: new Float32Array(heads * outside), beside: new Float32Array(heads) };
  for (let h = 0; h < heads; h += 1) {
    const map = new Float32Array(cells);
    const put = (cell, weight) => {
      if (cell >= 0) map[cell] += weight;
      if (cell < 0 || !keys.drawn[cell]) made.beside[h] += weight;
    };
    for (let k = 0; k < all; k += 1) {
      if (!keys.cover || keys.cellOf[k] < 0) put(keys.cellOf[k], weights[h * all + k]);
    }
    keys.cover?.tokens.forEach((token, i) => {
      put(keys.cover.cells[i], weights[h * all + token] * keys.cover.shares[i]);
    });
    for (let k = 0; k < outside; k += 1) made.prefix[h * outside + k] = weights[h * all + k];
    made.maps.push(map);
  }
  return made;
}

/** One of a look: head number `which` in the file's order, or the "mean" or "max" of its heads. */
function mergedOf(seen, which) {
  if (typeof which === "number") return { map: seen.maps[which], beside: seen.beside[which] };
  const count = seen.maps.length, [first, ...others] = seen.maps, map = first.slice();
  const largest = which === "max";
  for (const other of others) {
    for (let i = 0; i < map.length; i += 1) {
      map[i] = largest ? Math.max(map[i], other[i]) : map[i] + other[i];
    }
  }
  if (!largest) for (let i = 0; i < map.length; i += 1) map[i] /= count;
  const sum = seen.beside.reduce((a, b) => a + b, 0);
  return { map, beside: largest ? null : sum / count }; // maxima sum to nothing that is a share
}

/**
 * 1 for the smallest set of drawn cells, heaviest first, that holds a share of the mass (Caron et
 * al. 2021); of equal ones those first in reading order. The same as attnviz's method `mass`.
 */
function smallestSet(map, drawn, share) {
  if (share >= 1) return drawn;
  const kept = new Uint8Array(map.length);
  const order = map.filter((_, i) => drawn[i]).sort().reverse(); // numbers alone sort ten times as fast
  const total = order.reduce((sum, value) => sum + value, 0);
  let count = 0;
  for (let before = 0; count < order.length && before < total * (share - 1e-6); count += 1) {
    before += order[count];
  }
  if (!count) return kept;
  const least = order[count - 1];
  let equal = count - order.indexOf(least); // of those that are as heavy as the last one
  for (let i = 0; i < map.length; i += 1) {
    if (drawn[i] && (map[i] > least || (map[i] === least && equal-- > 0))) kept[i] = 1;
  }
  return kept;
}

/** Smallest and largest drawn weight of some maps; with `positive`, of those above 0. */
function rangeOf(maps, drawn, positive) {
  let low = Infinity, high = -Infinity;
  for (const map of maps) {
    for (let i = 0; i < map.length; i += 1) {
      const value = map[i];
      if (!drawn[i] || (positive && !(value > 0))) continue;
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  return low <= high ? { low, high } : { low: positive ? 1 : 0, high: 1 };
}

/** One range that holds all. */
const joined = (ranges) => ({
  low: Math.min(...ranges.map(({ low }) => low)), high: Math.max(...ranges.map(({ high }) => high)),
});

/** Where weights lie on the colour map: a function to 0…255. What is flat lies in the middle. */
function positions({ low, high }, kind) {
  if (kind !== "fixed" && high - low <= 1e-5 * Math.abs(high)) return () => 128;
  if (kind === "log") {
    const start = Math.log(low), unit = 255 / (Math.log(high) - start);
    return (value) => clipped((Math.log(Math.max(value, low)) - start) * unit);
  }
  const unit = 255 / (high - low);
  return (value) => clipped((value - low) * unit);
}

const clipped = (at) => at <= 0 ? 0 : at >= 255 ? 255 : at;

/** Colour tables: bytes, the same as numbers of a canvas's pixels, and as CSS. */
const colourTables = new Map(Object.entries(about.colormaps).map(([name, text]) => {
  const bytes = bytesOf(text), pixels = new Uint32Array(256), css = [];
  for (let i = 0; i < 256; i += 1) {
    const [r, g, b] = bytes.subarray(3 * i, 3 * i + 3);
    pixels[i] = (255 << 24 | b << 16 | g << 8 | r) >>> 0; // little-endian RGBA
    css.push(`rgb(${r} ${g} ${b})`);
  }
  return [name, { pixels, css }];
}));
