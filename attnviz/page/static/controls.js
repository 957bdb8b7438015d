// The controls: what they say follows from what is chosen, and what they do is to choose.

const SCALE_WORDS = {
  head: "each map", layer: "whole layer", all: "all layers", log: "logarithmic", fixed: "as asked",
};

function segment(group, value, text) {
  const label = element("label"), input = element("input");
  Object.assign(input, { type: "radio", name: group, value });
  label.append(input, element("span", "", text));
  return label;
}

/** Where one can look from in a layer: [value, words]. */
function origins({ queries }) {
  if (about.text) return []; // words are chosen in the text
  const names = queries.prefix.filter((name) => !isObject(name)).map((name) => [name, name.replace("register ", "reg ")]);
  return hasGrid(queries) ? [["cell", "token"], ...names, ["mean", "mean"]]
    : queries.prefix.length > 1 ? [...names, ["received", "all queries"]] : names;
}

/** Lays the choices of a layer where another's are. */
function layOrigins(layer) {
  const from = by("from"), all = origins(layer), objects = layer.queries.prefix.filter(isObject);
  const asks = JSON.stringify([all, objects]);
  if (from.dataset.origins === asks) return;
  from.dataset.origins = asks;
  const made = all.map(([value, text]) => segment("from", value, text));
  from.replaceChildren(from.querySelector("legend"), ...made, ...objectChoice(objects));
}

function check(group, value) {
  for (const input of document.querySelectorAll(`input[name="${group}"]`)) {
    input.checked = input.value === value;
  }
}

/** Brings every control to what is chosen. */
function drawControls(layer, query) {
  layOrigins(layer);
  for (const group of ["show", "merge", "pointer"]) check(group, state[group]);
  const pinnedQuery = askable(layer, queryOf(state[activeView()]));
  check("from", pinnedQuery.kind === "cell" ? "cell" : textOf(pinnedQuery));
  if (by("object")) by("object").value = isObject(textOf(pinnedQuery)) ? pinnedQuery.name : "";
  const token = by("from").querySelector('[value="cell"] + span');
  if (token) say(token, query.kind === "cell" ? `token ${query.row}, ${query.column}` : "token");
  say(by("this-head"), `head ${state.head}`);
  by("merge").disabled = state.show === "rollout";
  by("from").disabled = state.show === "received";
  by("pointer").disabled = state.show === "received";
  for (const id of ["from", "pointer"]) by(id).hidden = Boolean(about.text);
  drawWhy();
  for (const key of ["scale", "colours", "drawing", "alpha", "keep", "rows"]) by(key).value = state[key];
  say(by("alpha-said"), `${state.alpha} %`);
  say(by("keep-said"), state.keep < 100 ? `${state.keep} %` : "all");
  mark(by("keep"), "aria-valuetext", state.keep < 100 ? `${state.keep} %` : "all of it");
  mark(by("compare"), "aria-pressed", Boolean(state.b));
  by("view-b").hidden = !state.b;
  by("stage").classList.toggle("comparing", Boolean(state.b));
  by("stage").classList.toggle("cells", state.drawing === "cells");
}

/** Rollout cannot always be asked: then the control says why. */
function drawWhy() {
  const can = endOf(state.layer) !== undefined;
  document.querySelector('input[value="rollout"]').disabled = !can;
  const among = ends.map(({ layer }) => layer);
  const rollout = can ? "" : about.rollout.why ? `No rollout: ${about.rollout.why}.`
    : `Rollout is in this file to ${among.length > 1 ? "layers" : "layer"} ${among.join(", ")}.`;
  say(by("why"), [rollout, about.objects?.why && `No boxes: ${about.objects.why}.`].filter(Boolean).join(" "));
}

/** Looks from somewhere else, in the view whose heads are shown; a token is the last one, or the middle. */
function lookFrom(value) {
  const view = activeView(), layer = layerOf(state.layer), { kind } = queryOf(state[view]);
  if (value !== "cell") {
    if (kind === "cell") lastToken = state[view];
    return change({ [view]: value });
  }
  const last = askable(layer, queryOf(lastToken));
  const token = last.kind === "cell" ? last : stepFrom(layer.queries, null, [0, 0]);
  if (kind !== "cell" && token) change({ [view]: textOf({ ...token, kind: "cell" }) });
}

let lastToken = "";

function compare() {
  change(state.b ? { b: "", active: "a" } : { b: state.a, active: "b" });
}

const activeView = () => state.b && preview.b ? "b" : preview.a ? "a" : state.active;

/** The colour bar, its ends, and what lies beside the map. */
function drawBar(shown, range, kept) {
  const bar = by("bar"), { pixels } = colourTables.get(state.colours);
  if (bar.dataset.colours !== state.colours) {
    const image = new ImageData(256, 1);
    new Uint32Array(image.data.buffer).set(pixels);
    bar.getContext("2d").putImageData(image, 0, 0);
    bar.dataset.colours = state.colours;
  }
  say(by("low"), said(range.low));
  say(by("high"), said(range.high));
  say(by("between"), state.scale === "log" ? "logarithmic" : "");
  const rest = [state.b && activeView().toUpperCase(), wordsOfRest(shown), wordsOfKept(shown, kept)];
  say(by("rest"), rest.filter(Boolean).join(" · ") || "\u00a0"); // which keeps the line's height
  const at = readingCell(activeView(), shown), tick = by("tick");
  tick.hidden = !at;
  if (!at) return;
  const value = shown.map[at.row * shown.side.columns + at.column];
  tick.style.setProperty("--at", `${100 * positions(range, state.scale)(value) / 255}%`);
}

by("asked").addEventListener("submit", (event) => event.preventDefault());
by("style").addEventListener("submit", (event) => event.preventDefault());
by("asked").addEventListener("change", ({ target }) => {
  if (target.name === "from") lookFrom(target.value);
  else change({ [target.name]: target.value });
});
by("style").addEventListener("input", ({ target }) => {
  change({ [target.id]: target.type === "range" ? Number(target.value) : target.value });
});
by("rows").addEventListener("change", ({ target }) => change({ rows: target.value }));
by("compare").addEventListener("click", compare);
by("scale").append(...SCALES.map((scale) => new Option(SCALE_WORDS[scale], scale)));
by("colours").append(...[...colourTables.keys()].map((name) => new Option(name, name)));
