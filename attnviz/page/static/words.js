// Prompt and answer: each word shows its map; a cell of the picture shows which words looked at it.

const wordList = by("words"), wordTable = by("word-table");
const wordsOfText = about.text?.words ?? [];
const shownWords = new Map(); // of each word, by its name: its button and its row of the table
const wordQuery = ({ name }) => ({ kind: "prefix", name });
const signed = (value) => value === null ? "–" : said(value).replace("-", "−");

function layWords() {
  if (!about.text) return;
  by("text").hidden = by("word-numbers").hidden = false;
  by("frame-help").textContent = "Arrow keys choose a cell, and words are shaded by their weight on it; with Shift they read the weight of another.";
  const { prompt, answer, agrees, cut, why } = about.text;
  const notes = [cut && "… (cut)", agrees === false && "(the recorded run predicts other words)"];
  wordList.append(...(prompt ? [lineOf("prompt", prompt, why && `(words without maps: ${why})`)] : []),
    lineOf("answer", answer, notes.filter(Boolean).join(" ")));
  const header = element("tr");
  header.append(...["word", "log-probability", "on the picture", "on the cell"].map((name) => {
    const cell = element("th", "", name);
    cell.scope = "col";
    return cell;
  }));
  wordTable.tHead.append(header);
  wordTable.tBodies[0].append(...wordsOfText.map(wordRow));
  for (const on of [...wordList.querySelectorAll(".word"), ...wordTable.tBodies[0].rows]) {
    shownWords.set(on.dataset.name, [...(shownWords.get(on.dataset.name) ?? []), on]);
  }
}

/** A text with its words as buttons. */
function lineOf(of, text, note) {
  const made = element("div", "line"), body = element("div", "said");
  let at = 0;
  for (const word of wordsOfText.filter((each) => each.of === of)) {
    body.append(text.slice(at, word.start), wordButton(word));
    at = word.end;
  }
  body.append(text.slice(at), note ? element("span", "quiet", ` ${note}`) : "");
  made.append(element("span", "quiet name", of === "prompt" ? "Prompt" : "Answer"), body);
  return made;
}

function wordButton(word) {
  const made = element("button", "word", word.word);
  Object.assign(made, { type: "button", tabIndex: -1, title: chanceOf(word) });
  made.setAttribute("role", "radio");
  made.dataset.name = word.name;
  return made;
}

/** How sure the model was of a word. */
function chanceOf({ of, logprob }) {
  if (logprob === null) return `word of the ${of}`;
  return `log-probability ${signed(logprob)}, probability ${percent(Math.exp(logprob))}`;
}

function wordRow(word) {
  const row = element("tr"), first = element("th", "", wordNamed(word.name));
  first.scope = "row";
  row.dataset.name = word.name;
  row.append(first, element("td", "", signed(word.logprob)), element("td"), element("td"));
  return row;
}

/** The cell that words are shaded by, or null: that under the pointer, else the chosen one. */
function lookedCell({ keys }) {
  const at = state.show === "rollout" ? null : readingCell(activeView(), { side: keys });
  return at && keys.drawn[at.row * keys.columns + at.column] ? at : null;
}

/** Of each word what its row has on the picture, and on a cell, of the head or heads shown. */
function weightsOfWords(layer, at) {
  return wordsOfText.map((word) => {
    const { map, beside } = mergedOf(look(layer, wordQuery(word)), which(layer));
    return { word, picture: beside === null ? null : 1 - beside, cell: at ? map[at.row * layer.keys.columns + at.column] : null };
  });
}

/** Marks the word that is chosen, and shades all by their weight on a cell, on one scale. */
function drawWords(layer) {
  if (!about.text) return;
  const chosen = textOf(askable(layer, queryOf(state[activeView()]))), at = lookedCell(layer);
  const found = weightsOfWords(layer, at), most = at ? Math.max(...found.map(({ cell }) => cell)) : 0;
  wordList.classList.toggle("shaded", most > 0);
  for (const { word, picture, cell } of found) {
    const [button, row] = shownWords.get(word.name), share = most > 0 ? (cell / most).toFixed(3) : 0;
    mark(button, "aria-checked", word.name === chosen);
    mark(button, "tabindex", word.name === chosen || (chosen === "received" && word === wordsOfText[0]) ? 0 : -1);
    for (const on of [button, row.cells[3]]) on.style.setProperty("--share", share);
    if (word.name === chosen) row.setAttribute("aria-current", "true");
    else row.removeAttribute("aria-current");
    say(row.cells[2], picture === null ? "–" : percent(picture));
    say(row.cells[3], cell === null ? "–" : said(cell));
  }
  const place = at && `row ${at.row}, column ${at.column}`;
  say(by("looked-words"), most > 0 ? `Words are shaded by their weight on ${place}, from 0 to ${said(most)}.`
    : at ? `No word looked at ${place} in ${wordsOfMap()}.` : "Point at the picture, or choose a cell, to see which words looked there.");
  say(by("word-numbers-note"), `${wordsOfMap()}${at ? `; cell: ${place}` : ""}`);
  by("free-cell").hidden = !state.cell;
}

/** The three words with the largest weight on the cell that is looked at, to be heard. */
function wordsThatLook() {
  const layer = layerOf(state.layer), at = about.text && lookedCell(layer);
  if (!at) return "";
  const found = weightsOfWords(layer, at).sort((a, b) => b.cell - a.cell).slice(0, 3);
  return `words that looked there: ${found.map(({ word, cell }) => `${word.word} ${said(cell)}`).join(", ")}`;
}

/** Looks from a word; what all words together look at gives way. */
function chooseWord(name) {
  change({ [state.active]: name, show: state.show === "received" ? "attention" : state.show });
}

function nextWord(step) {
  const names = [...wordList.querySelectorAll(".word")].map(({ dataset }) => dataset.name);
  const from = textOf(askable(layerOf(state.layer), queryOf(state[state.active])));
  chooseWord(next(names, from, step));
}

function freeCell() {
  change({ cell: "" });
}

wordList.addEventListener("pointerover", ({ target, pointerType }) => {
  const word = pointerType === "mouse" && target.closest(".word");
  preview[state.active] = word ? wordQuery(word.dataset) : null;
  draw();
});
wordList.addEventListener("pointerleave", () => left(state.active));
wordList.addEventListener("click", ({ target }) => {
  const word = target.closest(".word");
  if (word) chooseWord(word.dataset.name);
});
wordList.addEventListener("keydown", (event) => {
  const all = [...wordList.querySelectorAll(".word")], at = all.indexOf(document.activeElement);
  const to = moved(event.key, at, all.length, 1);
  if (to === null || at < 0) return;
  event.preventDefault();
  all[to].focus();
  chooseWord(all[to].dataset.name);
});
by("free-cell").addEventListener("click", () => {
  freeCell();
  by("frame-a").focus();
});
