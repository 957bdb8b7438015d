// Drawing a map over the photograph, exactly where its tokens lie.

const photo = new Image();
const SPREAD = 400; // pixels, at most, that a smooth map is worked out in: the browser does the rest
const STRIPES = 12;

/** Edges of cells in canvas pixels, whole ones, so that neighbours neither gap nor overlap. */
function edgesOn(edges, size, extent) {
  return edges.map((edge) => Math.round(edge / extent * size));
}

function boxes(side, width, height) {
  const x = edgesOn(side.edges_x, width, about.image.width);
  const y = edgesOn(side.edges_y, height, about.image.height);
  return (row, column) => [x[column], y[row], x[column + 1] - x[column], y[row + 1] - y[row]];
}

/** Draws the photograph; striped and grey where no token is drawn (masked, cropped away). */
function paintPhoto(context, side) {
  const { width, height } = context.canvas;
  context.globalAlpha = 1;
  context.imageSmoothingQuality = "high";
  context.drawImage(photo, 0, 0, width, height);
  if (covers(side)) return;
  context.save();
  context.beginPath();
  context.rect(0, 0, width, height);
  const box = boxes(side, width, height);
  for (let i = 0; i < side.drawn.length; i += 1) {
    if (side.drawn[i]) context.rect(...box(Math.floor(i / side.columns), i % side.columns));
  }
  context.clip("evenodd");
  context.globalCompositeOperation = "saturation";
  context.fillStyle = "gray";
  context.fillRect(0, 0, width, height);
  context.globalCompositeOperation = "source-over";
  stripe(context, width, height);
  context.restore();
}

function covers({ drawn, edges_x: x, edges_y: y }) {
  const half = 0.5;
  return x[0] < half && y[0] < half && x[x.length - 1] > about.image.width - half
    && y[y.length - 1] > about.image.height - half && !drawn.includes(0);
}

function stripe(context, width, height) {
  context.fillStyle = "rgb(0 0 0 / 35%)";
  context.fillRect(0, 0, width, height);
  context.strokeStyle = "rgb(255 255 255 / 45%)";
  context.lineWidth = 1;
  context.beginPath();
  for (let x = -height; x < width; x += STRIPES) {
    context.moveTo(x, height);
    context.lineTo(x + height, 0);
  }
  context.stroke();
}

/** Cells as they are, each in its colour. */
function paintCells(context, { side, map, kept, at, table }) {
  const box = boxes(side, context.canvas.width, context.canvas.height);
  for (let i = 0; i < map.length; i += 1) {
    if (!kept[i] || !side.drawn[i]) continue;
    context.fillStyle = table.css[Math.round(at(map[i]))];
    context.fillRect(...box(Math.floor(i / side.columns), i % side.columns));
  }
}

const tapsKnown = new Map();

/**
 * For each of `size` pixels along one axis: the cell that holds it (-1 outside) and the four cells,
 * with weights, of cubic interpolation between the centres of cells (Keys 1981, a = -1/2).
 */
function tapsOf(edges, size, extent) {
  const name = `${size}|${extent}|${edges}`;
  if (tapsKnown.has(name)) return tapsKnown.get(name);
  if (tapsKnown.size > 16) tapsKnown.clear();
  const last = edges.length - 2;
  const taps = { cell: new Int16Array(size), near: new Int16Array(4 * size) };
  taps.weight = new Float32Array(4 * size);
  for (let i = 0; i < size; i += 1) {
    const place = (i + 0.5) / size * extent, cell = taps.cell[i] = along(edges, place);
    if (cell < 0) continue;
    const from = cell + (place - edges[cell]) / (edges[cell + 1] - edges[cell]) - 0.5;
    const first = Math.floor(from), t = from - first;
    for (let n = 0; n < 4; n += 1) {
      taps.near[4 * i + n] = Math.min(Math.max(first + n - 1, 0), last);
      taps.weight[4 * i + n] = cubic(Math.abs(t + 1 - n));
    }
  }
  tapsKnown.set(name, taps);
  return taps;
}

function cubic(x) {
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
}

/** Values of cells (rows, columns) spread over pixels (down, across). */
function spreadOut(values, side, across, down) {
  const width = across.cell.length, height = down.cell.length;
  const wide = new Float32Array(side.rows * width), result = new Float32Array(width * height);
  const { near, weight: w } = across;
  for (let row = 0, to = 0; row < side.rows; row += 1) {
    const at = row * side.columns;
    for (let tap = 0; tap < 4 * width; tap += 4, to += 1) {
      wide[to] = w[tap] * values[at + near[tap]] + w[tap + 1] * values[at + near[tap + 1]]
        + w[tap + 2] * values[at + near[tap + 2]] + w[tap + 3] * values[at + near[tap + 3]];
    }
  }
  for (let y = 0, to = 0; y < height; y += 1) {
    for (let n = 0; n < 4; n += 1) {
      const from = down.near[4 * y + n] * width, weight = down.weight[4 * y + n];
      for (let x = 0; x < width; x += 1) result[to + x] += weight * wide[from + x];
    }
    to += width;
  }
  return result;
}

const canvasOf = (width, height) => Object.assign(document.createElement("canvas"), { width, height });
let sheet = null; // canvas, and its pixels, that a smooth map is worked out on

function sheetOf(width, height) {
  if (sheet?.canvas.width === width && sheet.canvas.height === height) return sheet;
  const canvas = canvasOf(width, height), context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  sheet = { canvas, context, image, pixels: new Uint32Array(image.data.buffer) };
  return sheet;
}

/** Interpolated between the centres of cells; what is not drawn does not bleed into its neighbours. */
function paintSmooth(context, { side, map, kept, at, table }) {
  const scale = Math.min(1, SPREAD / Math.max(context.canvas.width, context.canvas.height));
  const width = Math.ceil(context.canvas.width * scale), height = Math.ceil(context.canvas.height * scale);
  const across = tapsOf(side.edges_x, width, about.image.width);
  const down = tapsOf(side.edges_y, height, about.image.height);
  const values = map.map((value, i) => side.drawn[i] ? at(value) : 0);
  const spread = spreadOut(values, side, across, down);
  const share = side.drawn.includes(0) ? spreadOut(side.drawn, side, across, down) : null;
  const { canvas, context: own, image, pixels } = sheetOf(width, height);
  for (let y = 0, i = 0; y < height; y += 1) {
    const row = down.cell[y] * side.columns;
    for (let x = 0; x < width; x += 1, i += 1) {
      const cell = row + across.cell[x];
      const seen = row >= 0 && across.cell[x] >= 0 && kept[cell] && side.drawn[cell];
      const value = share ? spread[i] / Math.max(share[i], 0.05) : spread[i];
      pixels[i] = seen ? table.pixels[value <= 0 ? 0 : value >= 255 ? 255 : (value + 0.5) | 0] : 0;
    }
  }
  own.putImageData(image, 0, 0);
  context.drawImage(canvas, 0, 0, context.canvas.width, context.canvas.height);
}

/** The map over what is there already. */
function paintMap(context, shown, alpha, smooth) {
  context.save();
  context.globalAlpha = alpha;
  (smooth ? paintSmooth : paintCells)(context, shown);
  context.restore();
}

/** Outline around a cell. */
function outline(context, side, { row, column }, unit, dashed) {
  frameAround(context, boxes(side, context.canvas.width, context.canvas.height)(row, column), unit, dashed);
}

/** Outline around a box, which stays free, seen on light and on dark. */
function frameAround(context, [x, y, width, height], unit, dashed) {
  context.save();
  for (const [colour, line] of [["rgb(0 0 0 / 75%)", 4 * unit], ["white", 2 * unit]]) {
    context.strokeStyle = colour;
    context.lineWidth = line;
    if (dashed && colour === "white") context.setLineDash([3 * unit, 3 * unit]);
    context.strokeRect(x - 2 * unit, y - 2 * unit, width + 4 * unit, height + 4 * unit);
  }
  context.restore();
}

/** A map at one pixel a cell, for the browser to scale. */
function paintSmall(canvas, { side, map, kept, at, table }) {
  if (canvas.width !== side.columns || canvas.height !== side.rows) {
    Object.assign(canvas, { width: side.columns, height: side.rows });
  }
  const context = canvas.getContext("2d"), image = context.createImageData(side.columns, side.rows);
  const pixels = new Uint32Array(image.data.buffer);
  for (let i = 0; i < map.length; i += 1) {
    if (kept[i] && side.drawn[i]) pixels[i] = table.pixels[Math.round(at(map[i]))];
  }
  context.putImageData(image, 0, 0);
}
