// What is chosen. It stands behind the # of the address, where it differs from what the command asked.

const SHOWS = ["attention", "received", "rollout"];
const MERGES = ["one", "mean", "max"];
const SCALES = ["head", "layer", "all", "log"];
const { start } = about;
const FIXED = start.scale.includes(":") ? start.scale.split(":").map(Number) : null;
if (FIXED) SCALES.push("fixed");

const defaults = {
  layer: start.layer, head: start.head ?? layerOf(start.layer).heads[0],
  merge: start.head === null ? "mean" : "one", show: "attention",
  a: startQuery(), b: "", active: "a",
  keep: 100, alpha: Math.round(100 * start.alpha), colours: [...colourTables.keys()][0],
  scale: FIXED ? "fixed" : start.scale, drawing: start.interpolation === "nearest" ? "cells" : "smooth",
  pointer: "looks", rows: "layer", sort: "", cell: "",
};
const state = { ...defaults };
const preview = { a: null, b: null }; // what the pointer looks from, until it leaves
const reading = { view: "a", x: 0, y: 0, on: false }; // where the pointer reads, in picture pixels

/** What each part of the address may say, and how it is read. */
const one = (of) => (text) => of.includes(text) ? text : undefined;
const share = (least) => (text) =>
  /^\d{1,3}$/.test(text) && text >= least && text <= 100 ? Number(text) : undefined;
const readers = {
  layer: (text) => layers.find((layer) => String(layer.layer) === text)?.layer,
  head: (text) => layers.some(({ heads }) => heads.includes(Number(text))) ? Number(text) : undefined,
  merge: one(MERGES), show: one(SHOWS), a: (text) => text || undefined, b: (text) => text,
  active: one(["a", "b"]), keep: share(1), alpha: share(0), colours: one([...colourTables.keys()]),
  scale: one(SCALES), drawing: one(["smooth", "cells"]), pointer: one(["looks", "reads"]),
  rows: one(["layer", "all"]), sort: (text) => text,
  cell: (text) => /^\d+,\d+$/.test(text) ? text : undefined,
};

function startQuery() {
  const { kind, index, row, column } = start.query;
  const { prefix } = layerOf(start.layer).queries;
  if (kind === "prefix") return prefix[index];
  if (kind === "pool") return prefix.length === 1 ? prefix[0] : "received";
  return kind === "cell" ? `${row},${column}` : "mean";
}

function recall() {
  const said = new URLSearchParams(location.hash.slice(1));
  for (const [key, read] of Object.entries(readers)) {
    state[key] = (said.has(key) ? read(said.get(key)) : undefined) ?? defaults[key];
  }
  settle();
}

let remembering = 0;

/** Writes the address when changes pause: browsers refuse more than some a second. */
function remember() {
  clearTimeout(remembering);
  remembering = setTimeout(() => {
    const chosen = Object.entries(state).filter(([key, value]) => value !== defaults[key]);
    const text = `#${new URLSearchParams(chosen)}`;
    if (text !== (location.hash || "#")) history.replaceState(null, "", text);
  }, 150);
}

/** Brings what is chosen to what this file and this layer have. */
function settle() {
  const layer = layerOf(state.layer);
  if (!layer.heads.includes(state.head)) state.head = layer.heads[Math.min(state.head, layer.heads.length - 1)];
  if (!layer.heads.includes(state.head)) [state.head] = layer.heads;
  if (state.show === "rollout" && !endOf(state.layer)) state.show = "attention";
  if (!state.b) state.active = "a";
}

/** Changes what is chosen, and has it drawn. */
function change(changes) {
  const before = layerOf(state.layer);
  Object.assign(state, changes);
  const layer = layerOf(state.layer);
  if (layer !== before) {
    const pointed = views().filter((view) => preview[view]);
    Object.assign(preview, { a: null, b: null });
    load(layer).then(() => carry(before, layer, pointed));
  }
  settle();
  draw();
  remember();
}

/** Takes the queries to another layer, which may have another grid; the pointer looks from there at once. */
function carry(from, to, pointed) {
  if (state.layer !== to.layer || !from.arrays) return;
  for (const view of views()) state[view] = textOf(carried(queryOf(state[view]), from, to));
  const cell = pinnedCell(from.keys), there = cell && cellAt(to.keys, ...centreOf(from.keys, cell.row, cell.column));
  state.cell = there ? textOf({ kind: "cell", ...there }) : "";
  for (const view of pointed) if (reading.on) preview[view] = queryAt(reading.x, reading.y);
  draw();
  remember();
}

/** The query that a view shows: the pointer's while it is there. */
function queryIn(view) {
  return preview[view] ?? askable(layerOf(state.layer), queryOf(state[view]));
}

const views = () => state.b ? ["a", "b"] : ["a"];
