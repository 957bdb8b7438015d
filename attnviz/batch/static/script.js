"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const by = (id) => document.getElementById(id);
const PAGE = 96;
const BARS = 60;
const NAME = 0, LINK = 1, THUMBNAIL = 2, PROMPT = 3, ANSWER = 4;
const LOCALIZED = "-1"; // in place of a layer; its heads are ranks
const state = { filter: "", order: "name", number: "", layer: "", head: "", page: 1 };

// Numbers of pictures by "statistic|layer|head"; no layer or head is the mean over all.
const columns = new Map(data.columns.map(([s, layer, head, values]) =>
  [[data.statistics[s][0], layer ?? "", head ?? ""].join("|"), values]));
const said = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });
const whole = new Intl.NumberFormat("en");
const names = data.pictures.map((picture) =>
  [picture[NAME], ...picture.slice(PROMPT)].join("\n").toLowerCase());

function count(n, one, several) {
  return `${whole.format(n)} ${n === 1 ? one : several}`;
}

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function options(select, pairs, chosen) {
  select.replaceChildren(...pairs.map(([value, text]) => new Option(text, value)));
  select.value = pairs.some(([value]) => value === chosen) ? chosen : pairs[0]?.[0] ?? "";
  select.closest(".field").hidden = pairs.length < 2;
  return select.value;
}

function parts(position, test) {
  const keys = [...columns.keys()].map((key) => key.split("|")).filter(test);
  return [...new Set(keys.map((key) => key[position]))];
}

// What can be chosen follows from what the picked number is known of.
function choose() {
  const fields = data.statistics.map(([name]) => [name, name.replaceAll("_", " ")]);
  state.number = options(by("number"), fields, state.number);
  const layers = parts(1, ([name]) => name === state.number);
  state.layer = options(by("layer"),
    layers.map((layer) => [layer, layer === "" ? "mean of layers" : layer === LOCALIZED ? "localized heads"
      : `layer ${layer}`]), state.layer);
  const heads = parts(2, ([name, layer]) => name === state.number && layer === state.layer);
  state.head = options(by("head"),
    heads.map((head) => [head, head === "" ? "mean of heads" : state.layer !== LOCALIZED ? `head ${head}`
      : head === "0" ? "their mean map" : `no. ${head}`]), state.head);
}

function values() {
  return columns.get([state.number, state.layer, state.head].join("|"));
}

function found(numbers) {
  const text = state.filter.toLowerCase();
  const indices = names.flatMap((name, i) => name.includes(text) ? [i] : []);
  if (state.order === "eman") return indices.reverse();
  if (state.order === "name" || !numbers) return indices;
  const sign = state.order === "high" ? -1 : 1;
  const known = indices.filter((i) => numbers[i] !== null);
  known.sort((a, b) => sign * (numbers[a] - numbers[b]) || a - b);
  return [...known, ...indices.filter((i) => numbers[i] === null)];
}

function nameOf(text) {
  const cut = text.lastIndexOf("/") + 1;
  const made = element("bdi", "name");
  if (cut) made.append(element("span", "folder", text.slice(0, cut)));
  made.append(text.slice(cut));
  made.title = text;
  return made;
}

function tile(i, numbers, low, high) {
  const [name, link, thumbnail] = data.pictures[i];
  const item = element("li");
  const about = element("div", "about");
  const anchor = link && Object.assign(element("a"), { href: link });
  if (thumbnail) {
    const image = new Image();
    Object.assign(image, { loading: "lazy", decoding: "async", alt: `Attention on ${name}` });
    image.src = data.thumbnails + thumbnail;
    const holder = anchor || element("span");
    holder.className = "picture";
    holder.append(image);
    item.append(holder);
    about.append(nameOf(name));
  } else if (anchor) {
    anchor.append(nameOf(name));
    about.append(anchor);
  } else {
    about.append(nameOf(name));
  }
  about.append(...textsOf(data.pictures[i]));
  if (numbers) about.append(valueOf(numbers[i], low, high));
  item.append(about);
  return item;
}

// Prompt and answer of a model that answers in words.
function textsOf(picture) {
  return [["prompt", picture[PROMPT]], ["answer", picture[ANSWER]]].filter(([, text]) => text)
    .map(([kind, text]) => Object.assign(element("p", kind, text), { title: text }));
}

function valueOf(value, low, high) {
  const made = element("div", "value", value === null ? "not defined" : said.format(value));
  if (value !== null) {
    const bar = element("i");
    bar.style.setProperty("--share", high > low ? (value - low) / (high - low) : 0.5);
    made.append(bar);
  }
  return made;
}

function spread(indices, numbers) {
  const known = numbers ? indices.map((i) => numbers[i]).filter((value) => value !== null) : [];
  known.sort((a, b) => a - b);
  by("spread").hidden = !numbers;
  const meaning = data.statistics.find(([name]) => name === state.number);
  by("meaning").textContent = meaning ? `${meaning[0].replaceAll("_", " ")}: ${meaning[1]}` : "";
  const none = known.length === 0;
  by("distribution").hidden = none;
  by("ends").hidden = none;
  if (none) return [0, 0];
  const low = known[0], high = known[known.length - 1];
  const middle = (known[(known.length - 1) >> 1] + known[known.length >> 1]) / 2;
  by("low").textContent = `lowest ${said.format(low)}`;
  by("median").textContent = `median ${said.format(middle)}`;
  by("high").textContent = `highest ${said.format(high)}`;
  by("spread").style.setProperty("--median", high > low ? (middle - low) / (high - low) : 0.5);
  histogram(known, low, high);
  by("histogram").setAttribute("aria-label", `Histogram of ${count(known.length, "picture", "pictures")}`
    + ` from ${said.format(low)} to ${said.format(high)}, median ${said.format(middle)}`);
  return [low, high];
}

function histogram(known, low, high) {
  const bars = new Array(BARS).fill(0);
  for (const value of known) {
    bars[high > low ? Math.min(BARS - 1, Math.floor(BARS * (value - low) / (high - low))) : BARS >> 1] += 1;
  }
  const most = bars.reduce((a, b) => Math.max(a, b));
  by("histogram").replaceChildren(...bars.flatMap((n, i) => {
    if (!n) return [];
    const bar = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    const height = Math.max(1.5, 56 * n / most);
    const box = { x: 480 / BARS * i + 0.5, y: 56 - height, width: 480 / BARS - 1, height };
    for (const [key, value] of Object.entries(box)) bar.setAttribute(key, value.toFixed(2));
    return [bar];
  }));
}

function draw() {
  choose();
  const numbers = values();
  const indices = found(numbers);
  const pages = Math.max(1, Math.ceil(indices.length / PAGE));
  state.page = Math.min(Math.max(1, state.page), pages);
  const [low, high] = spread(indices, numbers);
  const first = (state.page - 1) * PAGE;
  const shown = indices.slice(first, first + PAGE);
  by("pictures").replaceChildren(...shown.map((i) => tile(i, numbers, low, high)));
  const shownSaid = `${whole.format(first + 1)} to ${whole.format(first + shown.length)}`;
  const matching = `${whole.format(indices.length)} of ${count(data.pictures.length, "picture matches", "pictures match")}`;
  by("status").textContent = [
    ...(state.filter ? [matching] : []),
    ...(pages > 1 ? [`${shownSaid} of ${whole.format(indices.length)} shown`] : []),
  ].join(", ");
  by("page").textContent = `Page ${whole.format(state.page)} of ${whole.format(pages)}`;
  by("pages").hidden = pages === 1;
  by("previous").disabled = state.page === 1;
  by("next").disabled = state.page === pages;
  for (const name of ["filter", "order"]) if (by(name).value !== state[name]) by(name).value = state[name];
}

// What is chosen stands behind the # of the address, so that it is there again after a look at a picture.
function remember() {
  const chosen = Object.entries(state).filter(([key, value]) =>
    value !== "" && !(key === "order" && value === "name") && !(key === "page" && value === 1));
  const text = `#${new URLSearchParams(chosen)}`;
  if (text !== location.hash && (text !== "#" || location.hash)) location.replace(text);
}

function recall() {
  const chosen = new URLSearchParams(location.hash.slice(1));
  for (const key of Object.keys(state)) if (chosen.has(key)) state[key] = chosen.get(key);
  if (![...by("order").options].some((option) => option.value === state.order)) state.order = "name";
  state.page = Number.parseInt(state.page, 10) || 1;
}

function change(key, value) {
  state[key] = value;
  if (key !== "page") state.page = 1;
  draw();
  remember();
}

function turn(step) {
  change("page", state.page + step);
  by("found").focus({ preventScroll: true });
  by("found").scrollIntoView();
}

function head() {
  const failed = data.failed.length;
  by("run").textContent = data.run.join(" · ");
  by("run").hidden = !data.run.length;
  by("counts").append(count(data.pictures.length, "picture", "pictures"));
  if (failed) {
    const link = Object.assign(element("a", "", `${whole.format(failed)} failed`), { href: "#failed" });
    link.addEventListener("click", (event) => {
      event.preventDefault(); // the # holds what is chosen
      by("failed").scrollIntoView();
      by("failed").focus({ preventScroll: true });
    });
    by("counts").append(", ", link);
  }
  by("failures").hidden = !failed;
  by("failed").textContent = `Failed (${whole.format(failed)})`;
  by("errors").append(...data.failed.map(([name, whole]) => {
    const item = element("li");
    const [before, ...after] = whole.split(`${name}: `); // which stands above it already
    const error = after.join(`${name}: `) || before;
    item.append(nameOf(name), element("p", "", error));
    return item;
  }));
  if (data.pictures.some((picture) => picture.length > PROMPT)) {
    document.querySelector("label[for=filter]").textContent = "Name, prompt or answer contains";
  }
  if (!data.pictures.some((picture) => picture[THUMBNAIL])) by("pictures").classList.add("rows");
}

by("controls").addEventListener("submit", (event) => event.preventDefault());
by("filter").addEventListener("input", (event) => change("filter", event.target.value));
for (const key of ["order", "number", "layer", "head"]) {
  by(key).addEventListener("change", (event) => change(key, event.target.value));
}
by("previous").addEventListener("click", () => turn(-1));
by("next").addEventListener("click", () => turn(1));
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  by("pictures").scrollIntoView();
  by("pictures").focus({ preventScroll: true });
});
if (!data.statistics.length) {
  for (const value of ["high", "low"]) by("order").querySelector(`[value=${value}]`).remove();
}
head();
recall();
draw();
