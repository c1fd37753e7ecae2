// A box for read-only queries.
import { get, post } from "../api.js";
import { lineChart } from "../charts/lines.js";
import { field, h, select } from "../dom.js";
import { plural, short, whole } from "../format.js";
import { hue } from "../scale.js";
import { here, quietly } from "../url.js";

const KEPT = "trait-queries";
const STEP = 100;

export async function sqlView(params) {
  const saved = await get("saved");
  const box = h("textarea",
    { class: "sql", "data-search": true, spellcheck: "false", autocapitalize: "off", "aria-label": "SQL",
      value: params.q ?? saved[0].sql });
  const result = h("div", { "aria-live": "polite" });
  const run = async () => {
    const sql = box.value.trim();
    if (!sql) return;
    quietly({ q: sql });
    result.replaceChildren(h("p", { class: "loading" }, "Running…"));
    try {
      result.replaceChildren(...shown(await post("sql", { sql }), sql));
    } catch (error) {
      result.replaceChildren(h("div", { class: "notice bad", role: "alert" }, h("pre", { class: "text" }, error.message)));
    }
  };
  box.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      run();
    }
  });
  const list = h("span", {});
  const fillList = () => {
    const own = ownQueries();
    const options = [["", "choose a query…"], ...saved.map((each, i) => [`s${i}`, each.name]),
      ...own.map((each, i) => [`o${i}`, `mine: ${each.name}`])];
    list.replaceChildren(select(options, "", (key) => {
      if (!key) return;
      box.value = (key[0] === "s" ? saved : ownQueries())[Number(key.slice(1))].sql;
      run();
    }, { "aria-label": "saved queries" }));
  };
  fillList();
  const name = h("input", { placeholder: "name", "aria-label": "name of the query", size: 14 });
  const keep = () => {
    const called = name.value.trim();
    if (!called) return name.focus();
    const rest = ownQueries().filter((each) => each.name !== called);
    keepQueries([...rest, { name: called, sql: box.value }]);
    name.value = "";
    fillList();
  };
  const forget = () => {
    keepQueries(ownQueries().filter((each) => each.name !== name.value.trim()));
    name.value = "";
    fillList();
  };
  const element = h("div", {},
    h("div", { class: "head" }, h("h1", {}, "SQL"), h("p", { class: "muted" }, "DuckDB, read only: no files, no network, 20 s, 10,000 rows.")),
    h("section", { class: "card" }, h("div", { class: "row" }, field("saved", list)), box,
      h("div", { class: "row under" }, h("button", { class: "primary", onclick: run }, "Run"),
        h("span", { class: "muted small" }, h("kbd", {}, "Ctrl"), " ", h("kbd", {}, "Enter")),
        name, h("button", { onclick: keep }, "Save in this browser"), h("button", { class: "plain", onclick: forget }, "Forget"))),
    result);
  await run();
  return { element };
}

function shown(answer, sql) {
  const { columns, rows } = answer;
  const numeric = columns.map((_, i) => rows.some((row) => typeof row[i] === "number") && rows.every((row) => row[i] === null || typeof row[i] === "number"));
  const body = h("tbody", {});
  let drawn = 0;
  const more = h("button", { onclick: () => grow() }, "Show more");
  const grow = () => {
    body.append(...rows.slice(drawn, drawn + STEP).map((row) => h("tr", {}, row.map((value, i) => cell(value, numeric[i])))));
    drawn = Math.min(rows.length, drawn + STEP);
    more.hidden = drawn >= rows.length;
    more.textContent = `Show more (${whole(drawn)} of ${whole(rows.length)})`;
  };
  grow();
  const [seconds, limit] = [answer.seconds, answer.max_rows];
  return [
    quickPlot(columns, rows, numeric),
    h("section", { class: "card" },
      h("div", { class: "row" }, h("b", {}, answer.truncated ? `the first ${whole(limit)} rows of more` : plural(rows.length, "row")),
        h("span", { class: "muted small" },
        `${seconds < 1 ? Math.round(seconds * 1000) + " ms" : short(seconds) + " s"}${answer.source === "snapshot" ? ", from the snapshot of a running sweep" : ""}`),
        h("button", { onclick: () => download(columns, rows), disabled: !rows.length }, answer.truncated ? `CSV of these ${whole(limit)}` : "CSV"),
        h("button", { onclick: (event) => copied(event.target, `trait-client sql ${quoted(sql)}`) }, "Copy as command")),
      h("div", { class: "wide", tabindex: 0 },
        h("table", { class: "result" },
          h("thead", {}, h("tr", {}, columns.map((column, i) => h("th", { class: numeric[i] ? "num" : "" }, column)))), body)), more),
  ].filter(Boolean);
}

function cell(value, isNumber) {
  if (value === null) return h("td", { class: "muted" + (isNumber ? " num" : "") }, "–");
  if (typeof value === "number") return h("td", { class: "num", title: String(value) },
    Number.isInteger(value) ? String(value).replace("-", "−") : short(value, 5));
  const text = typeof value === "object" ? JSON.stringify(value) : String(value);
  return h("td", { class: text.length > 40 ? "wrap" : "" }, text);
}

function quickPlot(columns, rows, numeric) {
  const numbers = columns.map((_, i) => i).filter((i) => numeric[i]);
  if (numbers.length < 2 || rows.length < 2) return null;
  const groups = [["", "none"], ...columns.map((column, i) => [i, column]).filter(([i]) => new Set(rows.map((row) => row[i])).size <= 12)];
  const { px, py, pg, pk } = here().params;
  const at = (name, other) => (columns.includes(name) ? columns.indexOf(name) : other);
  const state = { x: at(px, numbers[0]), y: at(py, numbers.find((i) => i !== numbers[0])),
    group: pg === undefined ? "" : at(pg, ""), kind: pk === "line" ? "line" : "dots" };
  const chart = h("div", {});
  const draw = () => {
    const usable = rows.filter((row) => typeof row[state.x] === "number");
    const names = state.group === "" ? [null] : [...new Set(usable.map((row) => row[state.group]))];
    const series = names.map((name, i) => ({
      name: name === null ? columns[state.y] : String(name), color: hue(i), scatter: state.kind === "dots",
      points: usable.filter((row) => state.group === "" || row[state.group] === name).map((row) => ({ x: row[state.x], y: row[state.y] })).sort((a, b) => a.x - b.x),
    }));
    chart.replaceChildren(lineChart({ series, xLabel: columns[state.x], yLabel: columns[state.y], height: 300 }));
    quietly({ px: columns[state.x], py: columns[state.y], pg: state.group === "" ? null : columns[state.group],
      pk: state.kind === "line" ? "line" : null });
  };
  const pick = (key) => (value) => {
    state[key] = key === "kind" || value === "" ? value : Number(value);
    draw();
  };
  const names = numbers.map((i) => [i, columns[i]]);
  const card = h("section", { class: "card plotcard" },
    h("div", { class: "row" }, h("h2", {}, "Quick plot"), field("x", select(names, state.x, pick("x"))),
      field("y", select(names, state.y, pick("y"))), field("colour", select(groups, state.group, pick("group"))),
      field("as", select([["dots", "dots"], ["line", "lines"]], state.kind, pick("kind")))), chart);
  draw();
  return card;
}

function download(columns, rows) {
  const text = [columns, ...rows].map((row) => row.map(csvCell).join(",")).join("\r\n") + "\r\n";
  const address = URL.createObjectURL(new Blob([text], { type: "text/csv;charset=utf-8" }));
  h("a", { href: address, download: "results.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}

function csvCell(value) {
  if (value === null) return "";
  const text = typeof value === "object" ? JSON.stringify(value) : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function ownQueries() {
  try {
    return JSON.parse(localStorage.getItem(KEPT) ?? "[]");
  } catch {
    return [];
  }
}

function keepQueries(queries) {
  try {
    localStorage.setItem(KEPT, JSON.stringify(queries));
  } catch {
    // A private window may store nothing.
  }
}

export function quoted(text) {
  return `'${text.replaceAll("'", `'"'"'`)}'`;
}

export async function copied(button, text) {
  const label = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Not allowed: select and copy";
  }
  setTimeout(() => { button.textContent = label; }, 1500);
}
