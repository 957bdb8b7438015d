// Drawing everything from what is chosen, once a frame at most; and the beginning.

let scheduled = 0;
let first = null; // resolves when the first view is drawn
const drawn = new Promise((resolve) => { first = resolve; });

function draw() {
  scheduled ||= requestAnimationFrame(() => {
    scheduled = 0;
    render();
  });
}

/** Something that was inflated is there. */
function arrived() {
  draw();
}

/** Draws all. While what is asked for is on its way, what was there stays: nothing flickers. */
function render() {
  const layer = layerOf(state.layer);
  if (!ready(layer) || !photo.complete) return;
  if (state.show === "rollout" && !ready(endOf(state.layer))) return;
  const view = activeView(), query = queryIn(view);
  drawControls(layer, query);
  const shown = Object.fromEntries(views().map((each) => [each, shownIn(each)]));
  const range = rangeOfViews(Object.values(shown));
  const kept = {};
  for (const [each, its] of Object.entries(shown)) {
    kept[each] = paintView(each, its, range);
    captionView(each, its);
  }
  drawBar(shown[view], range, kept[view]);
  drawHeads(layer, query);
  drawWords(layer);
  drawBoxes(layer);
  markMatrix();
  drawTable();
  followMatrix(query);
  speak(shown[view], view);
  if (first) begun();
}

/** After the first view the other layers are inflated, one after another, in idle time. */
function begun() {
  first();
  first = null;
  const others = [...layers, ...ends].filter(({ arrays }) => !arrays);
  const go = () => {
    const entry = others.shift();
    if (entry) idle(() => load(entry).then(go));
  };
  go();
}

let speaking = 0;

/** Says what is shown to those who listen, when it has come to rest. */
function speak(shown, view) {
  clearTimeout(speaking);
  if (preview.a || preview.b) return;
  speaking = setTimeout(() => say(by("spoken"), summary(shown, view)), 400);
}

function summary(shown, view) {
  const at = shown.map.reduce((best, value, i) =>
    shown.side.drawn[i] && (best < 0 || value > shown.map[best]) ? i : best, -1);
  const { row, column } = cellOf(shown.side, at);
  const read = readingWords(view, shown);
  const from = state.show === "received" ? ALL_QUERIES : wordsOf(shown.query);
  return [`${wordsOfMap()}, from ${from}`, `most on row ${row}, column ${column}: ${said(shown.map[at])}`,
    wordsOfRest(shown), read && `read at ${read}`, wordsThatLook()].filter(Boolean).join("; ");
}

function layHeader() {
  const { path, width, height } = about.image, { spec, weights } = about.model;
  const { verified, max_error: error } = about.check;
  by("picture-name").textContent = path;
  const checked = verified ? `checked against the model's own output: largest error ${said(error)}`
    : "not verified: the weights do not explain the model's own output";
  const model = weights === "pretrained" ? spec : `${spec} (${weights} weights)`;
  by("run").textContent = [`${width} × ${height}`, model, checked].join(" · ");
  by("run").classList.toggle("wrong", !verified);
  by("stage").style.setProperty("--shape", width / height);
}

function begin() {
  layHeader();
  layHelp();
  layMatrix();
  layWords();
  layBoxes();
  recall();
  photo.addEventListener("load", draw);
  photo.src = about.photo;
  window.addEventListener("hashchange", () => { recall(); draw(); });
  matchMedia("(resolution: 1dppx)").addEventListener("change", draw);
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault(); // the # holds what is chosen
    by("frame-a").focus();
  });
  draw();
}

/**
 * For tests and scripts, to read only: what is chosen, and weights as the page has them.
 *
 *     await attnviz.drawn
 *     await attnviz.weights(11, 3, "4,7")   // Float32Array over the key tokens of layer 11
 *
 * A query is "row,column", the name of a token that lies nowhere ("class", "register 0"), "mean" or
 * "received"; tokens are in the model's order, prefix first, windows one after another.
 */
window.attnviz = Object.freeze({
  drawn,
  get state() { return { ...state }; },
  async weights(number, head, query) {
    const layer = layerOf(number);
    await load(layer);
    const all = tokenWeights(layer, queryOf(query)), width = layer.keys.cellOf.length;
    return all.slice(layer.heads.indexOf(head) * width, (layer.heads.indexOf(head) + 1) * width);
  },
  async rollout(number, query) {
    await load(endOf(number));
    return rolloutWeights(endOf(number), queryOf(query));
  },
});

begin();
