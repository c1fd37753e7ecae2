// Layer by coefficient, and the replies of one cell.
import { get } from "../api.js";
import { moveInHeatmap } from "../charts/heatmap.js";
import { scatter } from "../charts/scatter.js";
import { emptyState, failure, field, h, select } from "../dom.js";
import { fixed, interval, measureName, plural, short, signed, unitOf, when } from "../format.js";
import { FILTERS, METRICS, bestOf, heatmaps, openings, pairList, placeOf, valueOf } from "../settings.js";
import { here, link, patch, quietly } from "../url.js";

export async function sweepView(params) {
  const all = await get("settings");
  if (!all.length) return {
    element: h("div", {}, h("h1", {}, "Sweep"),
      emptyState(h("p", {}, "No steered setting is stored yet. "),
        h("code", {}, "trait-client sweep experiments/demo/experiment.toml"))) };
  const overview = params.run ? await get("overview") : null;
  const inRun = params.run ? all.filter((row) => row.runs.some((run) => run.startsWith(params.run))) : all;
  const known = inRun.length ? inRun : all;
  const traits = [...new Set(known.map((row) => row.trait))];
  const trait = traits.includes(params.trait) ? params.trait : traits[0];
  const ofTrait = known.filter((row) => row.trait === trait);
  const measures = [...new Set(ofTrait.map((row) => row.measure))].sort((a, b) => rank(a) - rank(b));
  const measure = measures.includes(params.measure) ? params.measure : measures[0];
  const ofMeasure = ofTrait.filter((row) => row.measure === measure);
  const filters = FILTERS.map(([name, label]) => ({ name, label, values: [...new Set(ofMeasure.map((row) => valueOf(row, name)))] }))
    .filter((each) => each.values.length > 1);
  const kept = ofMeasure.filter((row) => filters.every(({ name }) => !params[name] || valueOf(row, name) === params[name]));
  const rows = kept.length ? kept : ofMeasure;
  const metric = METRICS.some(([name]) => name === params.metric) ? params.metric : "delta";
  const bar = Number(params.bar ?? 75);

  const maps = h("div", {});
  const draw = (level) => maps.replaceChildren(heatmaps({ rows, metric, bar: level, chosen: params.setting,
      href: (row) => link("sweep", { ...here().params, trait, setting: row.setting_id }) }), bestLine(rows, level));
  draw(bar);
  const output = h("output", { class: "num" }, String(bar));
  const slider = h("input", { type: "range", min: 0, max: 100, value: bar, "aria-label": "coherence threshold",
    oninput: (event) => { output.textContent = event.target.value; draw(Number(event.target.value)); quietly({ bar: event.target.value }); } });
  const run = overview?.runs.find((each) => each.run_id.startsWith(params.run));

  const element = h("div", {},
    h("div", { class: "head" }, h("h1", {}, "Sweep"),
      h("p", { class: "muted" },
        run ? [`run ${run.experiment} of ${when(run.started_at)} (`, h("a", { href: link("sweep", { trait }) }, "all runs"),
          ")"] : plural(rows.length, "setting"))),
    h("section", { class: "card" },
      h("div", { class: "row" },
        field("trait", select(traits, trait, (value) => patch({ trait: value, setting: null }), { "data-search": true })),
        field("measure", select(measures.map((name) => [name, measureName(name)]), measure, (value) => patch({ measure: value }))),
        filters.map(({ name, label, values }) => field(label,
          select([["", "all"], ...values.map((each) => [each, each])], kept.length ? params[name] ?? "" : "",
            (value) => patch({ [name]: value || null, setting: null }), { "aria-label": `filter by ${label}` }))),
        h("span", { class: "row", role: "group", "aria-label": "shown" },
          METRICS.map(([name, label]) => h("button", { "aria-pressed": String(name === metric), onclick: () => patch({ metric: name }) },
            label))),
        field("coherence threshold", slider, output)),
      maps));
  const tradeoff = damageCard(await get("damage"), trait, (row) => filters.every(({ name }) => !params[name] || valueOf(row, name) === params[name]), params);
  if (tradeoff) element.append(tradeoff);
  const detail = h("div", {});
  element.append(detail);
  if (params.setting) await openSetting(detail, rows, all, params);
  return {
    element,
    keys: (event) => moveInHeatmap(element, event) || moveInPairs(detail, event),
    shown: () => { if (params.setting) keepInSight(element, detail); },
  };
}

// Effect against damage of the trait's settings; null where no damage was measured.
function damageCard(all, trait, kept, params) {
  const rows = all.filter((row) => row.trait === trait && kept(row));
  if (!rows.length) return null;
  const toward = (row) => (row.trait_delta === row.delta ? [row.ci_low, row.ci_high] : [row.ci_high, row.ci_low].map((end) => (end === null ? null : -end)));
  const points = rows.map((row) => {
    const [low, high] = toward(row);
    const what = [row.method, `layer ${row.layer}`, `coefficient ${short(row.coefficient)} ${row.unit}`, row.precision, ...placeOf(row),
      row.scope === "all" ? null : row.scope].filter(Boolean).join(", ");
    const accuracy = row.accuracy === null ? "" : `, ${fixed(100 * row.accuracy, 0)} % of ${row.n_questions} questions right (unsteered ${fixed(100 * row.baseline_accuracy, 0)} %)`;
    return { x: row.kl, y: row.trait_delta, low, high, front: row.on_front, chosen: row.setting_id === params.setting,
      href: link("sweep", { ...here().params, trait, setting: row.setting_id }),
      label: `${what}: effect ${signed(row.trait_delta)}, KL ${short(row.kl)} nats a token${accuracy}, `
        + `${fixed(row.length, 0)} tokens a reply (unsteered ${fixed(row.baseline_length, 0)}), `
        + `${row.on_front ? "on the front" : "not on the front"}` };
  });
  const measures = [...new Set(rows.map((row) => row.measure))];
  return h("section", { class: "card", "data-damage": trait }, h("h2", {}, "Effect against damage"),
    h("p", { class: "muted small" }, `${plural(rows.length, "setting")}, ${points.filter((point) => point.front).length} on the front: no other setting moves the trait as far with less damage. ` +
      "Damage is the KL divergence from the unsteered model on neutral passages. Large points are on the front; lines are 95 % intervals of the effect. Arrow keys go from point to point."),
    scatter({ points, label: `effect against damage, ${trait}`, xLabel: "damage: KL on neutral text, nats a token",
      yLabel: `effect in the trait's direction, ${measures.map(unitOf).join(" or ")} (${measures.map(measureName).join(", ")})` }));
}

function rank(measure) {
  return ["lexical", "judge", "projection"].indexOf(measure) + 1 || 9;
}

function bestLine(rows, bar) {
  const best = bestOf(rows, bar);
  if (!best) return h("p", { class: "muted" }, `No setting has a mean coherence of ${bar} or more.`);
  return h("p", { class: "best" }, "Best coherent: ", h("a",
    { href: link("sweep", { ...here().params, trait: best.trait, setting: best.setting_id }) },
    `${best.method}, layer ${best.layer}, coefficient ${short(best.coefficient)}`),
    `: ${signed(best.delta)} ${interval(best.ci_low, best.ci_high)} ${unitOf(best.measure)}, coherence ${fixed(best.coherence, 0)} (baseline ${fixed(best.baseline_coherence, 0)}), n ${best.n}.`);
}

async function openSetting(box, rows, all, params) {
  let found;
  try {
    found = await get("setting", { id: params.setting });
  } catch (error) {
    box.replaceChildren(failure(error));
    return;
  }
  const row = rows.find((each) => each.setting_id === params.setting) ?? all.find((each) => each.setting_id === params.setting);
  if (!row) return;
  const report = found.pairs.map((pair) => pair.steering).find(Boolean);
  const applied = report ? JSON.parse(report).applied?.[0] : null;
  const compare = params.random === "1";
  const hasControls = found.pairs.some((pair) => pair.controls.length);
  box.replaceChildren(h("section", { class: "card", id: "texts" },
    h("h2", {}, `${row.trait}: ${row.method}, layer ${row.layer}, coefficient ${short(row.coefficient)} ${row.unit ?? ""}`),
    h("p", { class: "muted" },
      `${measureName(row.measure)} ${fixed(row.baseline)} → ${fixed(row.steered)}: delta ${signed(row.delta)} `,
      `${interval(row.ci_low, row.ci_high)} ${unitOf(row.measure)}, n ${row.n}; `,
      row.control_low === null ? "no random directions; " : `random directions [${fixed(row.control_low)}, ${fixed(row.control_high)}]; `,
      `coherence ${fixed(row.coherence, 0)} (baseline ${fixed(row.baseline_coherence, 0)}); perplexity ×${short(row.perplexity_ratio, 3)}; `,
      row.gate ? `when ${row.gate}${openings(row) ? `: ${openings(row)}` : ""}; ` : "",
      applied ? `a = ${short(applied.a, 4)} residual units, relative dose ${short(applied.relative_dose, 3)}; ` : "",
      row.effect === null ? "" : h("span", { class: `tag ${row.effect ? "good" : ""}` },
        row.effect ? "an effect: beyond random directions, interval excludes 0" : "no effect beyond random directions")),
    h("div", { class: "row" },
      hasControls ? h("button", { "aria-pressed": String(compare), onclick: () => patch({ random: compare ? null : "1" }) },
        "random directions too") : null,
      h("a", { href: link("sweep", { ...params, setting: null }) }, "close")),
    pairList(row, found.pairs, compare)));
}

function moveInPairs(box, event) {
  const step = { j: 1, k: -1 }[event.key];
  const pairs = [...box.querySelectorAll(".pair")];
  if (!step || !pairs.length) return false;
  const at = pairs.findIndex((pair) => pair.classList.contains("current"));
  const to = pairs[Math.min(Math.max(at + step, 0), pairs.length - 1)];
  pairs[at]?.classList.remove("current");
  to.classList.add("current");
  to.focus({ preventScroll: true });
  to.scrollIntoView({ block: "start" });
  return true;
}

// After a click on a cell, keep the heatmap in place and the cell focused.
function keepInSight(element, detail) {
  const cell = element.querySelector(".heat a.chosen");
  cell?.focus({ preventScroll: true });
  const top = detail.getBoundingClientRect().top;
  if (top > innerHeight - 120) detail.scrollIntoView({ block: "start", behavior: "smooth" });
}
