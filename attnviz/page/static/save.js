// Saving: the large views as a PNG with their words and colour bar, their numbers as CSV.

/** The picture's name without its ending and what a file name should not have. */
function stem() {
  return about.image.path.replace(/\.[^.]*$/, "").replace(/[^\w.-]+/g, "_") || "picture";
}

function fileName(ending) {
  const map = { one: `head${String(state.head).padStart(2, "0")}`, mean: "mean", max: "max" }[state.merge];
  const layer = `layer${String(state.layer).padStart(2, "0")}`;
  const words = state.show === "rollout" ? [stem(), "rollout", layer]
    : [stem(), ...(state.show === "received" ? ["received"] : []), layer, map];
  return `${words.join("-")}.${ending}`;
}

function give(blob, name) {
  const link = Object.assign(element("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

const SAVED = 1024, GAP = 24; // long side of a saved view, and what is around it, in pixels

/** Both views at a fixed size, whatever the window's. */
function pictureOf(shownViews) {
  const scale = SAVED / Math.max(about.image.width, about.image.height);
  const width = Math.round(about.image.width * scale), height = Math.round(about.image.height * scale);
  const shown = shownViews.map(shownIn), range = rangeOfViews(shown);
  const sheet = canvasOf(shownViews.length * (width + GAP) + GAP, height + 5.5 * GAP);
  const context = sheet.getContext("2d"), colours = getComputedStyle(document.documentElement);
  context.fillStyle = colours.getPropertyValue("--paper");
  context.fillRect(0, 0, sheet.width, sheet.height);
  context.fillStyle = colours.getPropertyValue("--ink");
  context.font = `16px ${getComputedStyle(document.body).fontFamily}`;
  const ink = context.fillStyle;
  shown.forEach((its, i) => {
    const left = GAP + i * (width + GAP), mine = canvasOf(width, height);
    paintSaved(mine, its, range);
    context.drawImage(mine, left, 2 * GAP);
    context.fillStyle = ink;
    const from = state.show === "received" ? ALL_QUERIES : wordsOf(its.query);
    context.fillText(`${wordsOfMap()}, from ${from}`, left, 1.35 * GAP, width);
    const below = [about.model.spec, wordsOfRest(its)].filter(Boolean).join(" · ");
    context.fillText(below, left, height + 5 * GAP, width);
  });
  paintBar(context, range, GAP, height + 2.5 * GAP, Math.min(width, 480));
  return sheet;
}

function paintSaved(canvas, shown, range) {
  const context = canvas.getContext("2d");
  paintPhoto(context, shown.side);
  paintMap(context, painted(shown, range), state.alpha / 100, state.drawing === "smooth");
  const marked = markedCell(shown), box = boxOf(shown.query, canvas);
  if (marked) outline(context, ...marked, 1);
  if (box) frameAround(context, box, 1);
}

function paintBar(context, range, x, y, width) {
  context.drawImage(by("bar"), x, y, width, 0.5 * GAP);
  context.textAlign = "left";
  context.fillText(said(range.low), x, y + 1.35 * GAP);
  context.textAlign = "right";
  context.fillText(said(range.high), x + width, y + 1.35 * GAP);
  context.textAlign = "left";
}

function savePicture() {
  pictureOf(views()).toBlob((blob) => give(blob, fileName("png")), "image/png");
}

/** A field of a CSV file: seven significant digits, which is all that float32 has. */
function field(value) {
  const text = typeof value === "number" ? String(Number(value.toPrecision(7))) : String(value);
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** Rows of a view: each token that the shown map has a weight for, with the weights of all heads. */
function numbersOf(view) {
  const layer = layerOf(state.layer), shown = shownIn(view), { side, map, prefix } = shown;
  const kept = smallestSet(map, side.drawn, state.keep / 100);
  const from = state.show === "received" ? "received" : textOf(shown.query);
  const seen = state.show === "rollout" ? null : look(layer, asked(layer, queryIn(view)));
  const heads = (read) => seen ? seen.maps.map((_, h) => read(h)) : [];
  const outside = side.prefix.map((name, i) => [view, from, name, "", "", "", "", prefix[i], "",
    ...heads((h) => seen.prefix[h * side.prefix.length + i])]);
  const cells = Array.from(map, (weight, i) => {
    const { row, column } = cellOf(side, i);
    const drawn = side.drawn[i];
    const values = [weight, kept[i], ...heads((h) => seen.maps[h][i])];
    return [view, from, "grid", row, column, ...centreOf(side, row, column),
      ...values.map((value) => drawn ? value : "")];
  });
  return [...outside, ...cells];
}

function numbersText() {
  const heads = state.show === "rollout" ? [] : layerOf(state.layer).heads.map((head) => `head_${head}`);
  const header = ["view", "from", "token", "row", "column", "x", "y", "weight", "kept", ...heads];
  return [header, ...views().flatMap(numbersOf)].map((row) => row.map(field).join(",")).join("\n") + "\n";
}

function saveNumbers() {
  give(new Blob([numbersText()], { type: "text/csv" }), fileName("csv"));
}

by("save-picture").addEventListener("click", savePicture);
by("save-numbers").addEventListener("click", saveNumbers);
