// Objects of a detector: a box over the picture for each that was found, which shows its map.

const foundObjects = (about.objects?.found ?? []).filter(({ box }) => box);
const isObject = (name) => name.startsWith("object ");

function layBoxes() {
  if (!foundObjects.length) return;
  for (const { frame } of Object.values(parts)) {
    const made = element("div", "boxes");
    made.setAttribute("role", "radiogroup");
    made.setAttribute("aria-label", "Objects");
    made.append(...foundObjects.map(boxButton));
    made.addEventListener("keydown", (event) => steppedBox(made, event));
    frame.append(made);
  }
}

/** A button over what lies of a box on the picture; smaller boxes lie above larger ones. */
function boxButton({ name, index, label, score, box }) {
  const made = element("button", "box"), chip = element("span", "chip", `${label} ${score.toFixed(2)}`);
  Object.assign(made, { type: "button", tabIndex: -1 });
  made.setAttribute("role", "radio");
  made.setAttribute("aria-label", `${label}, score ${score.toFixed(2)}, object ${index}`);
  made.dataset.name = name;
  const [x0, y0, x1, y1] = sidesOf(box);
  const sides = { left: x0, top: y0, width: x1 - x0, height: y1 - y0 };
  for (const [side, share] of Object.entries(sides)) made.style.setProperty(side, `${100 * share}%`);
  made.style.setProperty("--order", Math.round(1000 * (1 - sides.width * sides.height)));
  made.append(chip);
  return made;
}

/** The sides of a box as shares of the picture, within it. */
function sidesOf(box) {
  const { width, height } = about.image;
  return box.map((side, i) => Math.min(Math.max(side / (i % 2 ? height : width), 0), 1));
}

/** The box of the object that is looked from, in pixels of a canvas; null where it is none. */
function boxOf({ name }, { width, height }) {
  const object = foundObjects.find((each) => each.name === name);
  if (!object || state.show === "received") return null;
  const [x0, y0, x1, y1] = sidesOf(object.box);
  return [x0 * width, y0 * height, (x1 - x0) * width, (y1 - y0) * height];
}

/** The object under the pointer, or null. */
function boxQuery({ target }) {
  const box = target.closest(".box");
  return box ? { kind: "prefix", name: box.dataset.name } : null;
}

/** Whether a layer has boxes to choose from. */
function hasBoxes({ queries }) {
  return state.show !== "received" && foundObjects.length > 0
    && foundObjects.every(({ name }) => queries.prefix.includes(name));
}

/** Shows the boxes of objects that this layer can be asked, and marks the chosen one. */
function drawBoxes(layer) {
  for (const [view, { frame }] of Object.entries(parts)) {
    const made = frame.querySelector(".boxes");
    if (!made) return;
    made.hidden = !hasBoxes(layer);
    made.classList.toggle("open", hasGrid(layer.queries)); // tokens within a box can be asked, too
    const chosen = foundObjects.findIndex(({ name }) => name === state[view]);
    [...made.children].forEach((box, i) => {
      mark(box, "aria-checked", i === chosen);
      mark(box, "tabindex", i === Math.max(chosen, 0) ? 0 : -1);
    });
  }
}

function steppedBox(made, event) {
  const all = [...made.children], at = all.indexOf(document.activeElement);
  const to = moved(event.key, at, all.length, 1);
  if (to === null || at < 0) return;
  event.preventDefault();
  all[to].focus();
  const view = parts.a.frame.contains(made) ? "a" : "b";
  change({ [view]: all[to].dataset.name, active: view });
}

function nextObject(step) {
  const names = foundObjects.map(({ name }) => name), from = state[activeView()];
  if (hasBoxes(layerOf(state.layer))) lookFrom(next(names, names.includes(from) ? from : names.at(-step), step));
}

/** All object queries of a layer, to choose from; none where it has none. */
function objectChoice(names) {
  if (!names.length) return [];
  const made = element("select");
  Object.assign(made, { id: "object", name: "from" });
  made.setAttribute("aria-label", "Object");
  made.append(Object.assign(new Option("object …", ""), { disabled: true }), ...names.map((name) => new Option(name, name)));
  return [made];
}
