// The large views: photograph, map, the token that is looked from; pointer and arrow keys on them.

const parts = Object.fromEntries(["a", "b"].map((view) => {
  const figure = by(`view-${view}`), frame = by(`frame-${view}`);
  return [view, {
    figure, frame, canvas: frame.querySelector("canvas"), pin: figure.querySelector(".pin"),
    words: figure.querySelector(".words"), reading: figure.querySelector(".reading"),
  }];
}));

const sizes = new WeakMap(); // of each frame, as it was last laid out: asking would lay the page out anew

/** Fits a canvas to its frame, in pixels of the device; drawn at once, so that nothing flickers. */
function fit(canvas, frame) {
  const unit = window.devicePixelRatio || 1;
  const size = sizes.get(frame) ?? { width: frame.clientWidth, height: frame.clientHeight };
  const width = Math.max(1, Math.round(size.width * unit));
  const height = Math.max(1, Math.round(size.height * unit));
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  return unit;
}

const grounds = new WeakMap(); // of each canvas the photograph at its size, drawn once

function ground(canvas, side) {
  const known = grounds.get(canvas);
  if (known?.side === side && known.made.width === canvas.width && known.made.height === canvas.height) {
    return known.made;
  }
  const made = canvasOf(canvas.width, canvas.height);
  paintPhoto(made.getContext("2d"), side);
  grounds.set(canvas, { side, made });
  return made;
}

function paintView(view, shown, range) {
  const { canvas, frame } = parts[view];
  const unit = fit(canvas, frame), context = canvas.getContext("2d");
  const how = painted(shown, range);
  context.drawImage(ground(canvas, shown.side), 0, 0);
  paintMap(context, how, state.alpha / 100, state.drawing === "smooth");
  const marked = markedCell(shown), at = readingCell(view, shown);
  if (marked) outline(context, ...marked, unit);
  const same = at && at.row === marked?.[1].row && at.column === marked?.[1].column;
  if (at && !same) outline(context, shown.side, at, 0.75 * unit, true);
  return how.kept;
}

/** Where the tokens lie that are looked from. */
const askedSide = () => (state.show === "rollout" ? endOf(state.layer) : layerOf(state.layer)).queries;

/** The cell that is outlined, with its side: the token that is looked from, or the cell whose words are shaded. */
function markedCell({ side, query }) {
  const cell = pinnedCell(side);
  if (cell) return [side, cell];
  return state.show !== "received" && query.kind === "cell" ? [askedSide(), query] : null;
}

/** The cell that is chosen to see which words looked at it, or null: without words there is none. */
function pinnedCell(side) {
  const { kind, ...cell } = queryOf(state.cell);
  return about.text && kind === "cell" && inside(side, cell.row, cell.column) ? cell : null;
}

/** The cell whose weight is read in a view: the same place in both; else the one that is chosen. */
function readingCell(view, { side }) {
  return reading.on ? cellAt(side, reading.x, reading.y) : pinnedCell(side);
}

function captionView(view, shown) {
  const { words, pin, frame, reading: read } = parts[view];
  const from = state.show === "received" ? `from ${ALL_QUERIES}` : `from ${wordsOf(shown.query)}`;
  words.textContent = `${wordsOfMap()} · ${from}`;
  pin.setAttribute("aria-pressed", String(state.active === view));
  pin.setAttribute("aria-label", `View ${view.toUpperCase()}: show its heads`);
  const { rows, columns } = shown.side;
  const tokens = `${rows} rows × ${columns} columns of tokens`;
  mark(frame, "aria-label", `Picture ${view.toUpperCase()}, ${tokens}`);
  say(read, readingWords(view, shown));
  const looks = state.pointer === "looks" && state.show !== "received" && hasGrid(layerOf(state.layer).queries);
  const objects = hasBoxes(layerOf(state.layer));
  mark(read, "data-hint", about.text ? "point to see which words looked there, click to stay"
    : objects ? `point at ${looks ? "a token or the label of an object" : "an object"}, click to stay`
    : looks ? "point to look from a token, click to stay there" : "point to read a weight");
}

function readingWords(view, shown) {
  const at = readingCell(view, shown);
  if (!at) return "";
  const cell = at.row * shown.side.columns + at.column;
  return `row ${at.row}, column ${at.column}: ${shown.side.drawn[cell] ? said(shown.map[cell]) : "not drawn"}`;
}

/** Where a pointer is, in picture pixels. */
function placeOf(event, frame) {
  const box = frame.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width * about.image.width,
    (event.clientY - box.top) / box.height * about.image.height];
}

/** The token at a place that can be asked, or null. */
function queryAt(x, y) {
  const layer = layerOf(state.layer);
  if (!layer.arrays || state.show === "received") return null;
  const cell = cellAt(layer.queries, x, y);
  if (!cell || !layer.queries.tokensOf[cell.row * layer.queries.columns + cell.column].length) return null;
  return { kind: "cell", ...cell };
}

function pointed(view, event) {
  const [x, y] = placeOf(event, parts[view].frame);
  Object.assign(reading, { view, x, y, on: true });
  const looking = (state.pointer === "looks") !== event.shiftKey || event.pointerType === "touch";
  preview[view] = boxQuery(event) ?? (looking ? queryAt(x, y) : null);
  draw();
}

function left(view) {
  preview[view] = null;
  reading.on = false;
  draw();
}

function pinned(view, event) {
  const place = placeOf(event, parts[view].frame);
  const query = boxQuery(event) ?? queryAt(...place);
  const cell = about.text && cellAt(layerOf(state.layer).keys, ...place);
  if (cell) change({ cell: textOf({ kind: "cell", ...cell }), active: view });
  else if (query) change({ [view]: textOf(query), active: view });
  else if (state.active !== view) change({ active: view });
}

// What keys move by, as [rows, columns].
const STEPS = {
  ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0],
  Home: [0, -Infinity], End: [0, Infinity],
};

/** Arrow keys: the next token in that direction that can be asked; with Shift, what is read. */
function stepped(view, event) {
  const step = STEPS[event.key], layer = layerOf(state.layer);
  if (event.target !== parts[view].frame || !step || !layer.arrays || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  if (about.text && !event.shiftKey) return stepCell(layer.keys, step);
  if (event.shiftKey || state.show === "received") return readOn(view, step);
  if (!hasGrid(layer.queries)) return;
  const query = queryIn(view), side = layer.queries;
  const next = stepFrom(side, query.kind === "cell" ? query : null, step);
  if (next) change({ [view]: textOf({ kind: "cell", ...next }), active: view });
}

/** The next cell to see which words looked at it. */
function stepCell(side, step) {
  const next = stepFrom(side, pinnedCell(side), step);
  reading.on = false;
  if (next) change({ cell: textOf({ kind: "cell", ...next }) });
}

function stepFrom(side, from, [down, across]) {
  const middle = { row: side.rows >> 1, column: side.columns >> 1 };
  const asked = ({ row, column }) => side.tokensOf[row * side.columns + column]?.length > 0;
  if (!from) return asked(middle) ? middle : cellOf(side, side.tokensOf.findIndex((all) => all.length));
  if (!Number.isFinite(across)) return edgeOf(side, from, across, asked);
  let { row, column } = from;
  do { row += down; column += across; } while (inside(side, row, column) && !asked({ row, column }));
  return inside(side, row, column) ? { row, column } : null;
}

const cellOf = (side, index) => ({ row: Math.floor(index / side.columns), column: index % side.columns });
const inside = ({ rows, columns }, row, column) => row >= 0 && row < rows && column >= 0 && column < columns;

function edgeOf(side, { row }, across, asked) {
  const line = Array.from({ length: side.columns }, (_, column) => ({ row, column })).filter(asked);
  return across < 0 ? line[0] : line.at(-1);
}

function readOn(view, [down, across]) {
  const side = layerOf(state.layer).keys, query = queryIn(view);
  const from = readingCell(view, { side }) ?? (query.kind === "cell" ? query : null);
  const { row, column } = from ?? { row: side.rows >> 1, column: side.columns >> 1 };
  const within = (at, end) => Math.min(Math.max(at, 0), end - 1);
  const [x, y] = centreOf(side, within(row + down, side.rows), within(column + across, side.columns));
  Object.assign(reading, { view, x, y, on: true });
  draw();
}

for (const [view, { frame, pin }] of Object.entries(parts)) {
  frame.addEventListener("pointermove", (event) => pointed(view, event));
  frame.addEventListener("pointerdown", (event) => pointed(view, event));
  frame.addEventListener("pointerup", (event) => { if (event.pointerType === "touch") pinned(view, event); });
  frame.addEventListener("pointerleave", () => left(view));
  frame.addEventListener("pointercancel", () => left(view));
  frame.addEventListener("click", (event) => pinned(view, event));
  frame.addEventListener("keydown", (event) => stepped(view, event));
  frame.addEventListener("blur", () => left(view));
  pin.addEventListener("click", () => change({ active: view }));
  new ResizeObserver(([{ contentRect: { width, height } }]) => {
    sizes.set(frame, { width, height });
    draw();
  }).observe(frame);
}
