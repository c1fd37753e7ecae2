// Runs, what is running now, and each trait's best coherent delta.
import { get } from "../api.js";
import { forest } from "../charts/forest.js";
import { emptyState, field, firstSteps, h } from "../dom.js";
import { elapsed, fixed, interval, measureName, plural, short, signed, span, when, whole } from "../format.js";
import { placeOf } from "../settings.js";
import { here, link, quietly } from "../url.js";

const WHILE_RUNNING = 4000; // milliseconds between two looks
const WHILE_IDLE = 15000; // a sweep that starts meanwhile is seen too

const KINDS = {
  sweep: { name: "sweep", unit: "trials", address: (run) => link("sweep", { run: run.run_id }) },
  corpus: { name: "prompt set", unit: "prompts", address: (run) => link("prompts", { set: run.experiment }) },
  comparison: { name: "comparison of two models", unit: "readings", address: () => link("variants") },
  patching: { name: "activation patching", unit: "layers", address: () => link("patching") },
};

export async function overviewView() {
  const root = h("div", {});
  const trouble = h("div", {});
  const body = h("div", {});
  root.append(trouble, body);
  let timer = null;
  let left = false;
  let drawn = null;
  const refresh = async () => {
    clearTimeout(timer);
    const data = await get("overview", { bar: barNow() });
    if (left) return;
    const running = data.runs.some((run) => run.status === "running");
    timer = setTimeout(again, running ? WHILE_RUNNING : WHILE_IDLE);
    trouble.replaceChildren();
    const text = JSON.stringify(data);
    if (body.querySelector("input:active") || (text === drawn && !running)) return;
    drawn = text;
    const focused = body.contains(document.activeElement) ? document.activeElement.dataset.keep : null;
    body.replaceChildren(...content(data, refresh));
    if (focused) body.querySelector(`[data-keep="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
  };
  // Keep the old content, and say that it is old.
  const again = () => refresh().catch((error) => {
    if (left) return;
    trouble.replaceChildren(h("div", { class: "notice bad", role: "alert" }, `${error.message} The content below is out of date; trying again.`));
    timer = setTimeout(again, WHILE_RUNNING);
  });
  await refresh();
  return { element: root, keys: (event) => moveInRows(root, event), leave: () => { left = true; clearTimeout(timer); } };
}

function barNow() {
  return Number(here().params.bar ?? 75);
}

function content(data, refresh) {
  const { counts, runs, best } = data;
  const live = runs.filter((run) => run.status === "running");
  if (!counts.runs) return [h("h1", {}, "Overview"),
    emptyState(h("p", {}, "No runs yet. "), ...firstSteps(data.path))];
  return [
    h("div", { class: "head" }, h("h1", {}, "Overview"),
      h("p", { class: "muted" }, h("code", {}, data.path),
        data.source === "snapshot" ? " (snapshot, a few seconds old: a run is writing)" : "")),
    h("div", { class: "stats" }, [["run", "", counts.runs], ["trait", " swept", counts.traits], ["setting", "", counts.settings],
      ["trial", "", counts.trials], ["prompt", " read token by token", counts.readings], ["vector", "", counts.vectors]]
      .map(([name, more, n]) => h("div", {}, h("b", {}, whole(n)), h("span", {}, `${name}${n === 1 ? "" : "s"}${more}`)))),
    ...live.map(runningCard),
    bestCard(best, refresh),
    runsCard(runs),
  ];
}

function runningCard(run) {
  const share = run.n_trials ? run.done_so_far / run.n_trials : 0;
  const rate = run.last_minute / 60;
  const remaining = rate > 0 ? `, about ${span((run.n_trials - run.done_so_far) / rate)} to go` : "";
  return h("section", { class: "card", "data-run": run.run_id },
    h("div", { class: "row" }, h("h2", {}, run.experiment), h("span", { class: "tag live" }, "running now")),
    h("p", { class: "muted" }, `${whole(run.done_so_far)} of ${whole(run.n_trials)} ${KINDS[run.kind].unit} stored (${Math.round(share * 100)} %), `,
      `${run.last_minute} in the last minute${remaining}; started ${elapsed(run.started_at)} ago`, run.failed ? h("b",
        { class: "bad" }, `; ${run.failed} failed`) : ""),
    h("div", { class: "progress", role: "progressbar", "aria-valuenow": Math.round(share * 100), "aria-valuemin": 0,
      "aria-valuemax": 100, "aria-label": `${run.experiment}: stored` },
      h("i", { style: { width: `${share * 100}%` } })));
}

function bestCard(best, refresh) {
  const bar = barNow();
  const output = h("output", { class: "num" }, String(bar));
  const slider = h("input", { type: "range", min: 0, max: 100, step: 1, value: bar, "data-keep": "bar",
    oninput: (event) => { output.textContent = event.target.value; },
    onchange: (event) => { quietly({ bar: event.target.value === "75" ? null : event.target.value }); refresh(); } });
  const groups = Map.groupBy(best, (row) => row.measure);
  return h("section", { class: "card" },
    h("div", { class: "row" }, h("h2", {}, "Best coherent delta of each trait"), field("minimum coherence (0–100)", slider, output)),
    h("p", { class: "muted small" },
      "Steered minus baseline, paired by prompt: point and 95 % bootstrap interval. " +
        "Grey: the range of random directions at the same dose. Blue: outside that range, with an interval that excludes 0."),
    best.length ? [...groups].map(([measure, rows]) => [
      groups.size > 1 ? h("h3", {}, measureName(measure)) : null,
      forest(rows.map(forestRow),
        measure === "projection" ? "delta of the projection, residual units" : `delta of the ${measureName(measure)}, points of 100`)])
      : h("p", { class: "empty" }, "No setting is that coherent."));
}

function forestRow(row) {
  const where = `layer ${row.layer}, ${row.method}, ${row.unit ?? "coefficient"} ${short(row.coefficient)}`;
  const more = [row.precision, row.adapter !== "none" ? row.adapter : null, ...placeOf(row)].filter(Boolean).join(", ");
  return {
    delta: row.delta, low: row.ci_low, high: row.ci_high, controlLow: row.control_low, controlHigh: row.control_high, effect: row.effect,
    label: `${row.trait}: ${signed(row.delta)} ${interval(row.ci_low, row.ci_high)}`,
    what: [h("a",
      { href: link("sweep", { trait: row.trait, measure: row.measure, setting: row.setting_id }), "data-row": true,
        "data-keep": row.setting_id }, row.trait),
      h("span", { class: "muted small" }, where), h("span", { class: "muted small" }, more)],
    value: [h("b", {}, signed(row.delta)), h("div", { class: "muted small nowrap" }, interval(row.ci_low, row.ci_high)),
      h("div", { class: "muted small nowrap" }, `n ${row.n} · coherence ${fixed(row.coherence, 0)}`)],
  };
}

function runsCard(runs) {
  const tone = { ok: "good", running: "live", partial: "warn", interrupted: "warn", stopped: "bad" };
  return h("section", { class: "card" }, h("h2", {}, plural(runs.length, "run")),
    h("div", { class: "wide", tabindex: 0 }, h("table", {},
      h("thead", {},
        h("tr", {}, ["experiment", "status", "started", "took"].map((name) => h("th", {}, name)),
          h("th", { class: "num" }, "stored by run"), h("th", { class: "num" }, "planned"), h("th", {}, "report"))),
      h("tbody", {}, runs.map((run) => h("tr", {},
        h("td", {}, h("a",
          { href: KINDS[run.kind].address(run),
            "data-row": true, "data-keep": run.run_id }, run.experiment),
          h("div", { class: "muted small" }, KINDS[run.kind].name, run.message ? `: ${run.message}` : "")),
        h("td", {},
          h("span",
            { class: `tag ${tone[run.status] ?? ""}`,
              title: run.status === "stopped" ? "The run did not end and no process is writing the database; it may have been killed." : null }, run.status)),
        h("td", { class: "nowrap" }, when(run.started_at)),
        h("td", { class: "nowrap" }, elapsed(run.started_at, run.finished_at ?? (run.status === "running" ? null : run.last_at ?? run.started_at))),
        h("td", { class: "num" }, whole(run.done), run.failed ? h("div", { class: "bad small" }, `${run.failed} failed`) : null),
        h("td", { class: "num" }, whole(run.n_trials)),
        h("td", {}, ["comparison", "patching"].includes(run.kind) ? "–" : h("code", { class: "small" }, `trait-client report ${run.run_id.slice(0, 8)}`))))))));
}

export function moveInRows(root, event) {
  const step = { j: 1, k: -1 }[event.key];
  if (!step) return false;
  const rows = [...root.querySelectorAll("[data-row]")];
  const at = rows.indexOf(document.activeElement);
  rows[Math.min(Math.max(at + step, 0), rows.length - 1)]?.focus();
  return rows.length > 0;
}
