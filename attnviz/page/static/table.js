// The statistics of heads: sorted by any of them, each row a head to choose.

const table = by("table");
const named = (statistic) => statistic.replaceAll("_", " ");

function sorting() {
  const down = state.sort.startsWith("-"), key = state.sort.replace(/^-/, "");
  const column = about.statistics.findIndex(([name]) => name === key);
  return { column, down: column >= 0 ? down : state.sort === "-head" };
}

/** Rows as [layer, head, numbers], in order; what is not defined comes last. */
function rowsInOrder() {
  const among = state.rows === "all" ? layers : [layerOf(state.layer)];
  const rows = among.flatMap((layer) => layer.heads.map((head, h) => [layer.layer, head, layer.numbers[h]]));
  const { column, down } = sorting(), sign = down ? -1 : 1;
  if (column < 0) return down ? rows.reverse() : rows;
  const known = rows.filter(([, , numbers]) => numbers[column] !== null);
  known.sort((a, b) => sign * (a[2][column] - b[2][column]));
  return [...known, ...rows.filter(([, , numbers]) => numbers[column] === null)];
}

function headCell(key, text, meaning) {
  const cell = element("th"), button = element("button", "", text);
  const sorted = state.sort.replace(/^-/, "") === key || (key === "head" && !state.sort);
  cell.scope = "col";
  cell.setAttribute("aria-sort", sorted ? (sorting().down ? "descending" : "ascending") : "none");
  Object.assign(button, { type: "button", title: meaning });
  button.dataset.key = key;
  cell.append(button);
  return cell;
}

function tableRow([layer, head, numbers], scales) {
  const row = element("tr"), first = element("th"), button = element("button", "", `${layer} · ${head}`);
  if (isLocalized(layer, head)) button.append(...star());
  first.scope = "row";
  Object.assign(button, { type: "button", tabIndex: -1 });
  Object.assign(row.dataset, { layer, head });
  first.append(button);
  row.append(first, ...numbers.map((value, i) => {
    const cell = element("td", "", said(value)), [low, high] = scales[i];
    if (value !== null) cell.style.setProperty("--share", high > low ? (value - low) / (high - low) : 0.5);
    return cell;
  }));
  return row;
}

let laid = "";

function drawTable() {
  const asks = [state.rows, state.sort, state.rows === "layer" && state.layer].join("|");
  if (asks !== laid) layTable();
  laid = asks;
  const current = (row) => Number(row.dataset.layer) === state.layer && Number(row.dataset.head) === state.head;
  for (const row of table.tBodies[0].rows) {
    const chosen = current(row);
    if (chosen && state.merge === "one") row.setAttribute("aria-current", "true");
    else row.removeAttribute("aria-current");
    row.querySelector("button").tabIndex = chosen ? 0 : -1;
  }
}

function layTable() {
  const focus = table.contains(document.activeElement) ? document.activeElement : null;
  const key = focus?.dataset.key, rows = rowsInOrder(), header = element("tr");
  const scales = about.statistics.map((_, i) => {
    const known = rows.map(([, , numbers]) => numbers[i]).filter((value) => value !== null);
    return [Math.min(...known), Math.max(...known)];
  });
  header.append(headCell("head", "layer · head", "in the model's order"),
    ...about.statistics.map(([name, meaning]) => headCell(name, named(name), meaning)));
  table.tHead.replaceChildren(header);
  table.tBodies[0].replaceChildren(...rows.map((row) => tableRow(row, scales)));
  const meaning = about.statistics[sorting().column];
  say(by("meaning"), meaning ? `${named(meaning[0])}: ${meaning[1]}`
    : "Sort by a column to read what it means.");
  if (key) table.tHead.querySelector(`[data-key="${key}"]`)?.focus();
  else if (focus) currentButton()?.focus();
}

const currentButton = () =>
  table.querySelector(`tr[data-layer="${state.layer}"][data-head="${state.head}"] button`);

function chooseRow(row) {
  change({ layer: Number(row.dataset.layer), head: Number(row.dataset.head), merge: "one" });
}

table.addEventListener("click", (event) => {
  const key = event.target.closest("thead button")?.dataset.key;
  const row = event.target.closest("tbody tr");
  const up = key === "head" ? "" : key; // the order of the model has no name
  if (key) change({ sort: state.sort === up ? `-${key}` : up });
  else if (row) chooseRow(row);
});

table.tBodies[0].addEventListener("keydown", (event) => {
  const all = [...table.tBodies[0].rows], at = all.indexOf(event.target.closest("tr"));
  const to = ["ArrowLeft", "ArrowRight"].includes(event.key) ? null : moved(event.key, at, all.length, 1);
  if (to === null) return;
  event.preventDefault();
  const button = all[to].querySelector("button");
  button.focus();
  chooseRow(all[to]);
});
