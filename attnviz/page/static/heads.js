// Small multiples: every head of the layer, from the same query. One of them is chosen.

const multiples = by("multiples");

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

/** Sets text or an attribute only where it is another: the page is not laid out for nothing. */
function say(on, text) {
  if (on.textContent !== text) on.textContent = text;
}

function mark(on, attribute, value) {
  if (on.getAttribute(attribute) !== String(value)) on.setAttribute(attribute, value);
}

function smallHead(head) {
  const made = element("button", "small");
  Object.assign(made, { type: "button", tabIndex: -1 });
  made.setAttribute("role", "radio");
  made.dataset.head = head;
  const sheet = element("span", "sheet");
  sheet.append(canvasOf(1, 1));
  const number = labelled(["head ", "number", String(head)]);
  if (isLocalized(Number(multiples.dataset.layer), head)) number.append(...star());
  made.append(sheet, number, labelled([", largest weight ", "most", ""]));
  made.addEventListener("click", () => change({ head, merge: "one" }));
  return made;
}

/** Text that is seen beside words that are only heard. */
function labelled([heard, className, text]) {
  const made = element("span");
  made.append(element("span", "unseen", heard), element("span", className, text));
  return made;
}

/** Whether a head is among the most localized ones for the first query. */
const isLocalized = (layer, head) => about.localized.some((each) => each.layer === layer && each.head === head);

/** A star that is seen, and the words that are heard. */
function star() {
  const seen = element("span", "star", "★");
  seen.setAttribute("aria-hidden", "true");
  return [seen, element("span", "unseen", ", most localized")];
}

/** Makes the buttons of a layer's heads, where they are not there yet. */
function layHeads(layer) {
  if (multiples.dataset.layer === String(layer.layer)) return;
  const focused = multiples.contains(document.activeElement);
  multiples.dataset.layer = layer.layer;
  multiples.replaceChildren(...layer.heads.map(smallHead));
  multiples.style.setProperty("--shape", shapeOf(layer.keys));
  multiples.classList.toggle("many", layer.heads.length > 12);
  if (focused) multiples.querySelector(`[data-head="${state.head}"]`)?.focus();
}

/** Width by height of what the cells of a side cover. */
const shapeOf = ({ edges_x: x, edges_y: y }) => (x[x.length - 1] - x[0]) / (y[y.length - 1] - y[0]);

function drawHeads(layer, query) {
  layHeads(layer);
  const seen = look(layer, asked(layer, query)), shared = rangeOfSmalls(query);
  const chosen = state.show === "rollout" ? null : state.merge === "one" ? state.head : null;
  [...multiples.children].forEach((small, h) => {
    const map = seen.maps[h], range = rangeOfSmall(map, layer.keys, shared);
    paintSmall(small.querySelector("canvas"), painted({ side: layer.keys, map }, range));
    const most = said(rangeOf([map], layer.keys.drawn).high);
    say(small.querySelector(".most"), most);
    mark(small, "aria-checked", layer.heads[h] === chosen);
    mark(small, "tabindex", layer.heads[h] === state.head ? 0 : -1);
  });
  markQuery(multiples, layer.queries, asked(layer, query));
  say(by("heads-title"), `Heads of layer ${layer.layer}`);
  const count = layer.heads.length, stars = about.localized.map((each) => `${each.layer} · ${each.head}`);
  const note = layer.of === count ? "number and largest weight" : `${count} of its ${layer.of} heads are in this file`;
  say(by("heads-note"), stars.length ? `${note}; ★ most localized: ${stars.join(", ")}` : note);
}

/** Where the query lies in small maps, for the style to mark it. */
function markQuery(on, { rows, columns }, query) {
  const { row = 0, column = 0 } = query;
  on.classList.toggle("asked", query.kind === "cell");
  const places = { "--left": column / columns, "--top": row / rows, "--wide": 1 / columns, "--high": 1 / rows };
  if (query.kind !== "cell") return;
  for (const [name, value] of Object.entries(places)) on.style.setProperty(name, `${100 * value}%`);
}

/** Arrow keys in a grid of elements with one tab stop: the position that a key leads to. */
function moved(key, at, count, columns) {
  if (key === "Home") return 0;
  if (key === "End") return count - 1;
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[key];
  if (!step) return null;
  return at + step >= 0 && at + step < count ? at + step : at;
}

multiples.addEventListener("keydown", (event) => {
  const all = [...multiples.children], at = all.indexOf(document.activeElement);
  const columns = getComputedStyle(multiples).gridTemplateColumns.split(" ").length;
  const to = moved(event.key, at, all.length, columns);
  if (to === null || at < 0) return;
  event.preventDefault();
  all[to].focus();
  change({ head: Number(all[to].dataset.head), merge: "one" });
});
