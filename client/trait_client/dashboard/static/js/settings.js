// A sweep's settings as panels of layer x coefficient; shared by the sweep view and the report.
import { heatmap } from "./charts/heatmap.js";
import { lineChart } from "./charts/lines.js";
import { h } from "./dom.js";
import { coefficientUnit, fixed, interval, measureName, short, signed, unitOf } from "./format.js";
import { diverging, hue, inks, sequential } from "./scale.js";

const VARIANT = ["method", "precision", "adapter", "model", "operation", "hook_point", "scope", "gate", "unit", "preserve_norm",
  "max_tokens", "temperature", "top_p", "system"];

// Dimensions that a reader may hold at one value, with the name of each; a value is text, `none` for none.
export const FILTERS = [["operation", "operation"], ["hook_point", "hook point"], ["scope", "scope"], ["gate", "gate"]];

// The place and the condition of a setting, where they are not the usual ones.
export function placeOf(row) {
  return [row.hook_point === "resid_post" ? null : row.hook_point, row.gate ? `when ${row.gate}` : null].filter(Boolean);
}

export function valueOf(row, name) {
  return String(row[name] ?? "none");
}

export const METRICS = [["delta", "delta"], ["coherence", "coherence"], ["perplexity", "perplexity ratio"]];

// Settings that differ only in layer and coefficient share a panel, named by the values that distinguish the panels.
export function panelsOf(rows) {
  const distinct = VARIANT.filter((name) => new Set(rows.map((row) => String(row[name]))).size > 1);
  const panels = new Map();
  for (const row of rows) {
    const key = [...VARIANT, "trait_sha256"].map((name) => row[name]).join("|");
    if (!panels.has(key)) panels.set(key, { name: distinct.map((name) => label(name, row[name])).join(" · ") || row.method, rows: [] });
    panels.get(key).rows.push(row);
  }
  const found = [...panels.values()];
  // Two vectors of one method, extracted at different times.
  const alike = found.filter((panel) => found.some((other) => other !== panel && other.name === panel.name));
  for (const panel of alike) panel.name += ` · vector ${panel.rows[0].trait_sha256.replace("sha256:", "").slice(0, 6)}`;
  return found;
}

function label(name, value) {
  if (["method", "precision", "model"].includes(name)) return String(value);
  if (name === "adapter") return value === "none" ? "no adapter" : value;
  return `${name.replaceAll("_", " ")} ${value ?? "none"}`;
}

// The setting that moves the trait most in its own direction among the coherent ones.
export function bestOf(rows, bar) {
  const coherent = rows.filter((row) => row.coherence !== null && row.coherence >= bar);
  return coherent.reduce((best, row) => (!best || row.trait_delta > best.trait_delta ? row : best), null);
}

// href(row) -> where a click on its cell leads
export function heatmaps({ rows, metric, bar, chosen, href }) {
  const panels = panelsOf(rows);
  const span = Math.max(...rows.map((row) => Math.abs(row.delta)), 1e-9);
  const ratios = rows.map((row) => row.perplexity_ratio).filter((value) => value > 0);
  const worst = Math.max(Math.log(4), ...ratios.map((value) => Math.abs(Math.log(value))));
  const measure = rows[0].measure;
  const view = {
    delta: (row) => ({ value: row.delta / span, text: signed(row.delta, span < 10 ? 2 : 0),
      note: interval(row.ci_low, row.ci_high, span < 10 ? 1 : 0), tone: diverging }),
    coherence: (row) => ({ value: (row.coherence ?? 0) / 100, text: fixed(row.coherence, 0), note: `n ${row.n}`, tone: sequential }),
    perplexity: (row) => ({ value: Math.log(row.perplexity_ratio ?? 1) / worst,
      text: row.perplexity_ratio === null ? "–" : "×" + short(row.perplexity_ratio, 2), note: null, tone: diverging }),
  }[metric];
  const legend = {
    delta: ramp("diverging", `−${short(span, 2)}`, `+${short(span, 2)} ${unitOf(measure)} (${measureName(measure)}, steered minus baseline)`),
    coherence: ramp("sequential", "0", "100 coherence, mean over prompts"),
    perplexity: ramp("diverging", `×${short(Math.exp(-worst), 2)}`,
      `×${short(Math.exp(worst), 2)} perplexity of the steered reply / the baseline's, median over prompts`),
  }[metric];
  const within = drawn(rows, metric);
  return h("div", {},
    h("div", { class: "row small muted legendrow" }, legend,
      h("span", {}, "hatched: coherence below ", h("b", { class: "num" }, String(bar)),
        " · framed: best coherent setting · lines: 95 % bootstrap intervals, grey: random directions of the same dose")),
    h("div", { class: "panels" }, panels.map((panel) => drawPanel(panel, { metric, view, bar, chosen, href, within }))));
}

function drawPanel(panel, { metric, view, bar, chosen, href, within }) {
  const layers = inOrder(panel.rows.map((row) => row.layer));
  const coefficients = [...new Set(panel.rows.map((row) => row.coefficient))].sort((a, b) => a - b);
  const best = bestOf(panel.rows, bar);
  const cell = (layer, coefficient) => {
    const row = panel.rows.find((each) => each.layer === layer && each.coefficient === coefficient);
    if (!row) return null;
    const { value, text, note, tone } = view(row);
    const faded = row.coherence === null || row.coherence < bar;
    return { text, note, fill: tone(value), inks: inks(value, tone === sequential ? "accent" : undefined), faded, best: row === best,
      chosen: row.setting_id === chosen, href: href(row), title: describe(row) };
  };
  const map = heatmap({ layers, coefficients, cell, xLabel: `coefficient (${coefficientUnit(panel.rows[0].unit)})`, label: panel.name });
  return h("section", { class: "panel", "data-panel": panel.name }, h("h2", {}, panel.name),
    h("div", { class: "both" }, map, curves(panel.rows, metric, within)));
}

// Distinct values: numbers first, then layers that are steered together ("9+13").
function inOrder(values) {
  const known = [...new Set(values)];
  const numbers = known.filter(Number.isFinite).sort((a, b) => a - b);
  return [...numbers, ...known.filter((each) => !Number.isFinite(each)).sort((a, b) => Number.parseInt(a) - Number.parseInt(b))];
}

export function describe(row) {
  const control = row.control_low === null ? "no random directions" : `random directions [${fixed(row.control_low)}, ${fixed(row.control_high)}]`;
  const opened = openings(row);
  return `layer ${row.layer}, coefficient ${short(row.coefficient)}: delta ${signed(row.delta)} ` +
    `${interval(row.ci_low, row.ci_high)}, n ${row.n}, coherence ${fixed(row.coherence, 0)}, ${control}${opened ? `, ${opened}` : ""}`;
}

// How often the gate of a setting was open; empty without a gate.
export function openings(row) {
  if (row.acted_in === null || row.acted_in === undefined) return "";
  return `open in ${Math.round(100 * row.acted_in)} % of the replies, at ${short(row.acted_prompt, 3)} prompt positions and ` +
    `${short(row.acted_generated, 3)} generated tokens a reply`;
}

function ramp(kind, low, high) {
  return h("span", { class: "ramp", style: { "grid-template-columns": "auto 7rem auto" } }, low, h("i", { class: kind }), high);
}

const MEASURED = { delta: (row) => row.delta, coherence: (row) => row.coherence, perplexity: (row) => row.perplexity_ratio };

// All values of a metric in the panels' curves, which share one scale.
function drawn(rows, metric) {
  return rows.flatMap((row) => (metric === "delta" ? [0, row.delta, row.ci_low, row.ci_high, row.control_low, row.control_high] : [MEASURED[metric](row)]));
}

// The x axis is coefficient or layer, whichever has more values; one line for each value of the other, plus random directions.
function curves(rows, metric, within) {
  const values = (name) => inOrder(rows.map((row) => row[name]));
  const [along, other] = values("layer").length > values("coefficient").length && values("layer").every(Number.isFinite) ? ["layer", "coefficient"] : ["coefficient", "layer"];
  const places = values(along);
  if (places.length < 2) return null;
  const value = MEASURED[metric];
  const series = values(other).map((each, i) => ({
    name: `${other} ${typeof each === "number" ? short(each) : each}`, color: hue(i), dashed: i >= 8,
    points: rows.filter((row) => row[other] === each).sort((a, b) => a[along] - b[along])
      .map((row) => ({ x: row[along], y: value(row), low: metric === "delta" ? row.ci_low : null, high: metric === "delta" ? row.ci_high : null })),
  }));
  const control = places.map((x) => {
    const found = rows.filter((row) => row[along] === x && row.control_low !== null);
    return { x, low: found.length ? Math.min(...found.map((row) => row.control_low)) : null,
      high: found.length ? Math.max(...found.map((row) => row.control_high)) : null };
  });
  const banded = metric === "delta" && control.some((point) => point.low !== null);
  const yLabel = { delta: `delta, ${unitOf(rows[0].measure)}`, coherence: "coherence, 0–100", perplexity: "perplexity, × baseline" }[metric];
  return lineChart({ series, band: banded ? { name: "random directions", points: control } : null,
    xLabel: along === "layer" ? "layer" : `coefficient (${coefficientUnit(rows[0].unit)})`, yLabel, within, xTicks: places,
    height: 250, whiskers: true, yDomain: metric === "coherence" ? [0, 100] : null });
}

// Baseline and steered replies, prompt by prompt, with whole texts.
export function pairList(row, pairs, compare) {
  return h("div", { class: "pairs" }, pairs.map((pair, i) => h("article", { class: "pair", tabindex: -1, "data-pair": i },
    h("p", { class: "ask" }, pair.system ? h("span", { class: "muted" }, `${pair.system}\n`) : null, pair.prompt),
    h("div", { class: "sides" },
      side("baseline", "baseline", pair.baseline_text, pair.baseline_scores, pair.baseline_finish_reason, row, pair.baseline_reasoning),
      side("steered", `steered: ${row.trait}, layer ${row.layer}, coefficient ${short(row.coefficient)}`, pair.text ?? pair.error,
        pair.scores, pair.finish_reason, row, pair.reasoning),
      compare && pair.controls.length ? controls(pair, row) : null))));
}

function controls(pair, row) {
  return pair.controls.map((control, i) => side("control", `random direction ${i + 1}`, control.text, control.scores, control.finish_reason, row, control.reasoning));
}

// The reasoning before the answer is folded: scores and judges read the answer.
function side(kind, title, text, scores, finish, row, reasoning) {
  const order = ["lexical", "judge", "projection", "coherence", "relevance", "perplexity"];
  const names = Object.keys(scores).filter((name) => name !== "distinct3").sort((a, b) => (order.indexOf(a) + 1 || 9) - (order.indexOf(b) + 1 || 9));
  return h("section", { class: `side ${kind}` }, h("h3", {}, title),
    reasoning ? h("details", { class: "reasoning" }, h("summary", {}, "reasoning"), h("div", { class: "thought" }, reasoning)) : null,
    h("div", { class: "text" },
      text === null || text === undefined ? h("i", { class: "muted" }, "not run") : text || h("i", { class: "muted" },
        "(empty reply)")),
    h("div", { class: "scores num" }, names.map((name) => h("span", {}, `${name === "lexical" ? row.trait + " (lexical)" : name} ${short(scores[name])}`)),
      finish === "length" ? h("span", {}, "stopped at the token limit") : null));
}
