// A run in one file: the content of the sweep view, from data in the file.
import { forest } from "./charts/forest.js";
import { field, h, select } from "./dom.js";
import { elapsed, fixed, interval, measureName, plural, short, signed, unitOf, when, whole } from "./format.js";
import { ReadingCard } from "./reading.js";
import { FILTERS, METRICS, bestOf, heatmaps, pairList, placeOf, valueOf } from "./settings.js";
import { startTheme, toggleTheme } from "./theme.js";

function start() {
  const data = JSON.parse(document.getElementById("data").textContent);
  startTheme();
  const main = document.getElementById("main");
  main.replaceChildren(head(data), ...(data.kind === "sweep" ? sweepReport(data) : promptSetReport(data)), foot(data));
  main.dataset.ready = "1";
}

function head({ run, version, made_at: madeAt }) {
  const facts = [["status", run.status + (run.message ? `: ${run.message}` : "")], ["started", when(run.started_at)],
    ["took", run.finished_at ? elapsed(run.started_at, run.finished_at) : "not ended"],
    [run.kind === "corpus" ? "prompts" : "trials",
      `${whole(run.done_so_far)} of ${whole(run.n_trials)}${run.failed ? `, ${run.failed} failed` : ""}`], ["run", run.run_id],
    ["written", `${when(madeAt)} by trait-steering ${version}`]];
  return h("div", {}, h("div", { class: "head" }, h("h1", {}, run.experiment),
    h("button", { class: "plain", onclick: toggleTheme, "aria-label": "Light or dark" }, "◐")),
    h("div", { class: "stats facts" }, facts.map(([name, value]) => h("div", {}, h("span", {}, name), h("div", {}, value)))));
}

function sweepReport({ settings, texts }) {
  if (!settings.length) return [h("p", { class: "empty" }, "This run has no steered setting with a score yet.")];
  const state = { metric: "delta", bar: 75 };
  const traits = [...Map.groupBy(settings, (row) => row.trait)];
  const best = traits.map(([, rows]) => bestOf(preferred(rows), state.bar)).filter(Boolean);
  const sections = traits.map(([trait, rows]) => traitSection(trait, rows, texts, state));
  const redraw = () => sections.forEach((section) => section.draw());
  const output = h("output", { class: "num" }, String(state.bar));
  const controls = h("div", { class: "row" }, h("span", { class: "row" },
    METRICS.map(([name, label]) => h("button",
      { "aria-pressed": String(name === state.metric), "data-metric": name,
        onclick: () => {
          state.metric = name;
          controls.querySelectorAll("[data-metric]").forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.metric === name)));
          redraw();
        } }, label))),
    field("coherence threshold",
      h("input",
        { type: "range", min: 0, max: 100, value: state.bar,
          oninput: (event) => { state.bar = Number(event.target.value); output.textContent = event.target.value; redraw(); } }),
      output));
  return [
    best.length ? h("section", { class: "card" }, h("h2", {}, "Best coherent delta of each trait"),
      h("p", { class: "muted small" },
        "Mean coherence at least 75. Steered minus baseline, paired by prompt: point and 95 % bootstrap interval. " +
        "Grey: the range of random directions at the same dose."),
      [...Map.groupBy(best, (row) => row.measure)].map(([measure, rows]) => forest(rows.map(forestRow), `delta of the ${measureName(measure)}, ${unitOf(measure)}`))) : null,
    h("section", { class: "card" }, controls), ...sections.map((section) => section.element), allSettings(settings)].filter(Boolean);
}

function preferred(rows) {
  const lexical = rows.filter((row) => row.measure === "lexical");
  return lexical.length ? lexical : rows.filter((row) => row.measure === rows[0].measure);
}

function forestRow(row) {
  return { delta: row.delta, low: row.ci_low, high: row.ci_high, controlLow: row.control_low, controlHigh: row.control_high, effect: row.effect, label: `${row.trait} ${signed(row.delta)}`,
    what: [h("b", {}, row.trait),
      h("span", { class: "muted small" },
        [row.method, `layer ${row.layer}`, `${row.unit} ${short(row.coefficient)}`, row.precision, ...placeOf(row)].join(", "))],
    value: [h("b", {}, signed(row.delta)), h("div", { class: "muted small nowrap" }, interval(row.ci_low, row.ci_high)),
      h("div", { class: "muted small nowrap" }, `n ${row.n} · coherence ${fixed(row.coherence, 0)}`)] };
}

function traitSection(trait, all, texts, state) {
  const measures = [...new Set(all.map((row) => row.measure))].sort((a, b) => (a === "lexical" ? -1 : b === "lexical" ? 1 : 0));
  let measure = measures[0];
  const rowsNow = () => all.filter((row) => row.measure === measure);
  let chosen = (bestOf(rowsNow(), state.bar) ?? rowsNow()[0]).setting_id;
  const maps = h("div", {});
  const pairs = h("div", {});
  const draw = () => {
    maps.replaceChildren(heatmaps({ rows: rowsNow(), metric: state.metric, bar: state.bar, chosen, href: (row) => `#${row.setting_id}` }));
  };
  maps.addEventListener("click", (event) => {
    const cell = event.target.closest("a.cell");
    if (!cell) return;
    event.preventDefault();
    chosen = cell.hash.slice(1);
    draw();
    read();
  });
  const read = () => {
    const row = rowsNow().find((each) => each.setting_id === chosen);
    pairs.replaceChildren(h("h3", {},
        `${row.method}, layer ${row.layer}, coefficient ${short(row.coefficient)} ${row.unit}: ${signed(row.delta)} ${interval(row.ci_low, row.ci_high)}, ${plural(texts[chosen].length, "prompt")}`),
      pairList(row, texts[chosen], false));
  };
  draw();
  read();
  const element = h("section", { class: "card", "data-trait": trait },
    h("div", { class: "row" }, h("h2", {}, trait),
      measures.length > 1 ? field("measure",
        select(measures.map((name) => [name, measureName(name)]), measure, (value) => { measure = value; draw(); read(); })) : null),
    maps, pairs);
  return { element, draw };
}

function allSettings(settings) {
  const columns = [["trait", (row) => row.trait], ["method", (row) => row.method], ["layer", (row) => row.layer],
    ["coefficient", (row) => short(row.coefficient)], ["precision", (row) => row.precision], ["measure", (row) => row.measure],
    ["n", (row) => row.n], ["baseline", (row) => fixed(row.baseline)], ["steered", (row) => fixed(row.steered)],
    ["delta", (row) => signed(row.delta)], ["95 %", (row) => interval(row.ci_low, row.ci_high)],
    ["random", (row) => interval(row.control_low, row.control_high).replace("no interval", "–")],
    ["coherence", (row) => fixed(row.coherence, 0)], ["perplexity ×", (row) => short(row.perplexity_ratio, 3)],
    ["effect", (row) => ({ true: "yes", false: "no" })[String(row.effect)] ?? "–"]];
  const several = FILTERS.filter(([name]) => new Set(settings.map((row) => valueOf(row, name))).size > 1);
  columns.splice(4, 0, ...several.map(([name, label]) => [label, (row) => valueOf(row, name)]));
  return h("section", { class: "card" }, h("h2", {}, "All settings"),
    h("div", { class: "wide", tabindex: 0 },
      h("table", { class: "num" }, h("thead", {}, h("tr", {}, columns.map(([name]) => h("th", {}, name)))),
        h("tbody", {},
          settings.map((row) => h("tr", {}, columns.map(([, value]) => h("td", { class: "nowrap" }, String(value(row))))))))));
}

function promptSetReport({ set, readings, total }) {
  const box = h("div", {});
  const show = (index) => box.replaceChildren(new ReadingCard({ ...readings[index], place: index, total: readings.length }, set.directions, {}, false).element);
  if (!readings.length) return [h("p", { class: "empty" }, "This run stored no reading.")];
  show(0);
  const picker = select(readings.map((each, i) => [i, `${each.prompt_id}${each.outcome ? ` (${each.outcome})` : ""}`]), 0,
    (value) => show(Number(value)));
  return [h("section", { class: "card" },
      h("div", { class: "row" }, field("prompt", picker),
        h("span", { class: "muted" },
          readings.length < total ? `the first ${whole(readings.length)} of ${whole(total)}: the dashboard shows all` : plural(total, "prompt")))),
    box];
}

function foot({ definition }) {
  return h("section", { class: "card" }, h("h2", {}, "Definition"), h("pre", { class: "copy" }, JSON.stringify(definition, null, 2)));
}

start();
