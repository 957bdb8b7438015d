// Keys that work everywhere on the page, and the list of all keys.

function next(all, value, step = 1) {
  return all[(all.indexOf(value) + step + all.length) % all.length];
}

const turn = (key, all) => () => change({ [key]: next(all, state[key]) });

function nextLayer(step) {
  const to = layers[layerOf(state.layer).position + step];
  if (to) change({ layer: to.layer });
}

function nextHead(step) {
  change({ head: next(layerOf(state.layer).heads, state.head, step), merge: "one" });
}

function nextRegister() {
  const names = layerOf(state.layer).queries.prefix.filter((name) => name !== "class");
  if (names.length) lookFrom(next(names, textOf(queryIn(activeView()))));
}

function bounded(key, step, low) {
  change({ [key]: Math.min(Math.max(state[key] + step, low), 100) });
}

const has = (name) => layerOf(state.layer).queries.prefix.includes(name);
const KEYS_OF_TOKENS = [
  [["t", "c", "g", "m"], "look from a token, the class token, the next register, the mean",
    [() => lookFrom("cell"), () => has("class") && lookFrom("class"), nextRegister,
      () => hasGrid(layerOf(state.layer).queries) && lookFrom("mean")]],
  [["p"], "the pointer looks from a token, or reads its weight", [turn("pointer", ["looks", "reads"])]],
  ...(about.objects?.found.length ? [[["w", "W"], "object after, object before", [() => nextObject(1), () => nextObject(-1)]]] : []),
];
const KEYS_OF_WORDS = [
  [["w", "W"], "word after, word before", [() => nextWord(1), () => nextWord(-1)]],
  [["x"], "choose no cell: words are not shaded", [freeCell]],
];
const KEYS = [
  [["[", "]"], "layer before, layer after", [() => nextLayer(-1), () => nextLayer(1)]],
  [[",", "."], "head before, head after", [() => nextHead(-1), () => nextHead(1)]],
  [["1", "2", "3"], "this head, mean of heads, maximum of heads",
    MERGES.map((merge) => () => change({ merge }))],
  [["a", "r", "o"], "show attention, attention received, rollout",
    SHOWS.map((show) => () => (show !== "rollout" || endOf(state.layer)) && change({ show }))],
  ...(about.text ? KEYS_OF_WORDS : KEYS_OF_TOKENS),
  [["b", "v"], `compare two ${about.text ? "words" : "tokens"}, go to the other view`,
    [compare, () => state.b && change({ active: next(["a", "b"], state.active) })]],
  [["-", "+"], "opacity", [() => bounded("alpha", -5, 0), () => bounded("alpha", 5, 0)]],
  [["k", "K"], "keep less, or more, of the mass", [() => bounded("keep", -5, 5), () => bounded("keep", 5, 5)]],
  [["s", "l", "d"], "next scale, next colours, smooth or cells",
    [turn("scale", SCALES), turn("colours", [...colourTables.keys()]), turn("drawing", ["smooth", "cells"])]],
  [["e", "n"], "save the picture, save the numbers", [savePicture, saveNumbers]],
  [["?"], "this list", [openHelp]],
];
const ON_GRIDS = [
  [["←", "↑", "→", "↓"],
    about.text ? "on the picture: choose a cell, to see which words looked at it; on words, heads, layers and table: choose"
      : "on the picture: move the token that is looked from; on heads, layers, table and boxes of objects: choose"],
  [["Home", "End"], `on the picture: first and last ${about.text ? "cell" : "token"} of the row`],
  [["Shift", "← … ↓"], "on the picture: read the weight of another token"],
];
const actions = new Map(KEYS.flatMap(([keys, , acts]) => keys.map((key, i) => [key, acts[i]])));
actions.set("=", actions.get("+"));

function layHelp() {
  by("key-list").append(...[...ON_GRIDS, ...KEYS].flatMap(([keys, words]) => {
    const term = element("dt");
    term.append(...keys.map((key) => element("kbd", "", key)));
    return [term, element("dd", "", words)];
  }));
}

function openHelp() {
  if (!by("help").open) by("help").showModal();
}

document.addEventListener("keydown", (event) => {
  const other = event.ctrlKey || event.metaKey || event.altKey || event.isComposing;
  if (other || event.target.closest("select")) return; // which finds its own choices by letters
  if (by("help").open || (!by("letters").checked && event.key !== "?")) return;
  const act = actions.get(event.key);
  if (!act || !layerOf(state.layer).arrays) return;
  event.preventDefault();
  act();
});
by("keys").addEventListener("click", openHelp);
by("help-close").addEventListener("click", () => by("help").close());
by("help").addEventListener("click", (event) => { if (event.target === by("help")) by("help").close(); });
