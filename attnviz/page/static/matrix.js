// Every head of every layer as a thumbnail, to choose from. Drawn in idle time, slice by slice.

const matrix = by("matrix");
const PAUSE = 60; // ms without a change before thumbnails follow
let drawing = null; // what is under way: a generator

function layMatrix() {
  const most = Math.max(...layers.map(({ heads }) => heads.length));
  matrix.style.setProperty("--columns", most);
  matrix.append(...layers.map((layer) => {
    const row = element("div", "row");
    row.setAttribute("role", "row");
    row.style.setProperty("--shape", shapeOf(layer.keys));
    const label = element("span", "row-name", String(layer.layer));
    label.setAttribute("role", "rowheader");
    label.setAttribute("aria-label", `layer ${layer.layer}`);
    row.append(label, ...layer.heads.map((head) => thumbnail(layer, head)));
    return row;
  }));
}

function thumbnail(layer, head) {
  const cell = element("div", "thumb");
  const starred = isLocalized(layer.layer, head);
  const name = `layer ${layer.layer}, head ${head}${starred ? ", most localized" : ""}`;
  Object.assign(cell, { tabIndex: -1, title: name });
  cell.setAttribute("role", "gridcell");
  cell.setAttribute("aria-label", name);
  Object.assign(cell.dataset, { layer: layer.layer, head });
  cell.append(canvasOf(1, 1), ...(starred ? [star()[0]] : []));
  return cell;
}

const thumbnailsOf = (layer) => [...matrix.children[layer.position].children].slice(1);

/** One step a layer: a slice of idle time takes as many as it has time for. */
function* drawMatrix(query) {
  const shared = rangeOfSmalls(query);
  const [first, others] = [layerOf(state.layer), layers.filter(({ layer }) => layer !== state.layer)];
  for (const layer of [first, ...others]) {
    if (ready(layer)) drawRow(layer, query, shared && layerRange(layer, query, shared));
    yield;
  }
}

/** With a scale for each layer every row has its own. */
function layerRange(layer, query, shared) {
  if (state.scale !== "layer") return shared;
  return rangeOf(look(layer, asked(layer, query)).maps, layer.keys.drawn);
}

function drawRow(layer, query, shared) {
  const seen = look(layer, asked(layer, query));
  thumbnailsOf(layer).forEach((cell, h) => {
    const map = seen.maps[h], range = rangeOfSmall(map, layer.keys, shared);
    paintSmall(cell.firstChild, painted({ side: layer.keys, map }, range));
  });
}

let waiting = 0, told = "";

/** Has the matrix follow, if it would show anything else than it does. */
function followMatrix(query) {
  const asks = [textOf(query), state.layer, state.show, state.scale, state.keep, state.colours,
    layers.filter(({ arrays }) => arrays).length].join("|");
  if (asks === told) return;
  told = asks;
  clearTimeout(waiting);
  waiting = setTimeout(() => {
    drawing = drawMatrix(query);
    idle(slice);
  }, PAUSE);
}

const idle = (work) => globalThis.requestIdleCallback ? requestIdleCallback(work, { timeout: 500 })
  : setTimeout(() => work({ timeRemaining: () => 8 }), 16);

function slice(time) {
  const mine = drawing;
  if (!mine) return;
  do {
    if (mine.next().done) {
      if (drawing === mine) drawing = null;
      return;
    }
  } while (time.timeRemaining() > 4);
  if (drawing === mine) idle(slice);
}

/** Marks the head that is chosen, which has the tab stop. */
function markMatrix() {
  for (const cell of matrix.querySelectorAll(".thumb")) {
    const chosen = Number(cell.dataset.layer) === state.layer && Number(cell.dataset.head) === state.head;
    mark(cell, "aria-selected", chosen && state.merge === "one");
    mark(cell, "tabindex", chosen ? 0 : -1);
  }
}

function chooseCell(cell) {
  change({ layer: Number(cell.dataset.layer), head: Number(cell.dataset.head), merge: "one" });
}

matrix.addEventListener("click", (event) => {
  const cell = event.target.closest(".thumb");
  if (!cell) return;
  cell.focus();
  chooseCell(cell);
});

matrix.addEventListener("keydown", (event) => {
  const cell = event.target.closest(".thumb");
  const step = STEPS[event.key];
  if (!cell || !step) return;
  event.preventDefault();
  const layer = layerOf(Number(cell.dataset.layer));
  const to = layers[Math.min(Math.max(layer.position + step[0], 0), layers.length - 1)];
  const all = thumbnailsOf(to), column = thumbnailsOf(layer).indexOf(cell) + step[1];
  const next = all[Math.min(Math.max(column, 0), all.length - 1)];
  next.focus();
  chooseCell(next);
});
