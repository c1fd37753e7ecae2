// The evidence for one trait's vectors in one file, written by `trait-extract report`.
import { histogram } from "./charts/histogram.js";
import { legendKey, lineChart } from "./charts/lines.js";
import { h } from "./dom.js";
import { fixed, interval, signed, whole } from "./format.js";
import { diverging, extent, hue } from "./scale.js";
import { startTheme, toggleTheme } from "./theme.js";

const HALVES = "projection in half separations: ±1 is the average training example of either side, 0 the midpoint";
const SIDES = [["positive", "var(--pos)"], ["negative", "var(--neg)"]];
const MEASURES = [
  { label: "AUC", name: "auc", lowest: 0.5, highest: 1 },
  { label: "accuracy", name: "accuracy", lowest: 0.5, highest: 1 },
  { label: "Cohen's d", name: "cohens_d" },
  { label: "separation / norm", name: "relative_separation" },
];

function start() {
  const data = JSON.parse(document.getElementById("data").textContent);
  startTheme();
  const main = document.getElementById("main");
  main.replaceChildren(head(data), evidence(data), separation(data), similarity(data), lens(data), neighbours(data), texts(data));
  main.dataset.ready = "1";
}

function head({ name, model, n_layers: nLayers, d_model: dModel, style, n_pairs: nPairs, n_held_out: nHeldOut, positions, layer, chosen_by: by,
  chosen_because: why }) {
  return h("div", {},
    h("div", { class: "head" }, h("h1", {}, name), h("button", { class: "plain", onclick: toggleTheme, "aria-label": "Light or dark" }, "◐")),
    h("p", { class: "muted" }, `${model}, ${nLayers} layers of width ${dModel}; ${style ?? "imported"}, ` +
      `${whole(nPairs)} pairs, ${whole(nHeldOut)} held out, read at ${positions}`),
    h("p", {}, "Layer ", h("b", {}, String(layer)), `, chosen by ${by}: ${why}`));
}

function evidence(data) {
  const { layer, methods } = data;
  const drawn = methods.map(({ method, layers }, i) => ({ method, layers, color: method === "random" ? "var(--faint)" : hue(i), dashed: method === "random" }));
  return card("Held-out evidence by layer",
    h("p", { class: "muted small" }, "Bands: 95 % bootstrap intervals over splits and scenarios. Dashed line: the chosen layer. " +
      "Evidence measures how well a vector separates texts, not how well it steers: a sweep measures that."),
    h("div", { class: "legend legendrow" }, drawn.map((each) => legendKey(each.method, each.color, each.dashed))),
    h("div", { class: "grid2" }, MEASURES.map((measure) => h("div", { "data-measure": measure.name }, curves(measure, drawn, layer)))),
    h("h3", {}, `At layer ${layer}`),
    table(
      ["method", "AUC", "95 %", "accuracy", "95 %", "Cohen's d", "95 %", "separation", "/ norm"],
      methods.map(({ method, layers }) => {
        const at = layers.find((each) => each.layer === layer);
        return [method, fixed(at.auc, 2), range(at.auc_interval), fixed(at.accuracy, 2), range(at.accuracy_interval),
          fixed(at.cohens_d, 2), range(at.cohens_d_interval), fixed(at.separation, 2), fixed(at.relative_separation, 2)];
      })));
}

function curves({ label, name, lowest = 0, highest = null }, drawn, marked) {
  const series = drawn.map(({ method, layers, color, dashed }) => ({
    name: method, color, dashed,
    points: layers.map((at) => {
      const [low, high] = at[`${name}_interval`] ?? [null, null];
      return { x: at.layer, y: at[name], low, high, large: at.layer === marked };
    }),
  }));
  const values = series.flatMap((each) => each.points.flatMap((point) => [point.y, point.low, point.high])).filter((value) => value !== null);
  if (!values.length) return [h("h3", {}, label), h("p", { class: "muted" }, "Not measured.")];
  const [low, high] = extent([lowest, ...values]);
  return lineChart({ series, xLabel: "layer", yLabel: label, integers: true, marked, legend: false, yDomain: [low, highest ?? high],
    label: `${label} by layer` });
}

function separation({ layer, held_out: heldOut }) {
  const title = `The two sides at layer ${layer}`;
  if (!heldOut.length) {
    return card(title,
      h("p", { class: "muted" }, "No projections are stored with the vector files: run ",
        h("code", {}, "trait-extract run --force"), "."));
  }
  return card(title,
    h("p", { class: "muted small" }, `Held-out texts, ${HALVES}.`),
    h("div", { class: "legend legendrow" }, SIDES.map(([side, color]) => legendKey(side, color))),
    h("div", { class: "grid2" }, heldOut.map((each) => h("div", { "data-method": each.method }, h("h3", {}, each.method),
      histogram({
        groups: SIDES.map(([side, color]) => ({ name: side, color, values: each[side] })),
        xLabel: "half separations", yLabel: "texts", within: [-1.5, 1.5], marked: 0, label: `held-out texts by projection, ${each.method}`,
      })))));
}

function similarity({ layer, main_method: method, cross_layer: between, agreement }) {
  const { layers, cosines } = between;
  const drawn = agreement.map(({ methods, layers: found }, i) => ({ name: methods.join(" · "), color: hue(i), dashed: methods.includes("random"),
    points: found.map((at) => ({ x: at.layer, y: at.cosine, large: at.layer === layer })) }));
  return card("Similarity",
    h("p", { class: "muted small" }, `Cosines of the ${method} directions of two layers: a block of one colour is one direction that the layers keep.`),
    h("p", { class: "row muted small" }, h("span", { class: "ramp" }, "−1", h("i", { class: "diverging" }), "+1")),
    h("div", { class: "matrix", role: "group", "aria-label": "cosines between layers", "data-cosines": "layers",
      style: { "grid-template-columns": `2rem repeat(${layers.length}, minmax(0, 2.4rem))`, gap: "1px" } },
    h("div", {}), layers.map((l) => h("div", { class: "lab x" }, l % 5 && l !== layer ? "" : String(l))),
    layers.map((row, i) => [h("div", { class: "lab" }, String(row)), layers.map((column, j) => h("div",
      { title: `layers ${row} and ${column}: ${fixed(cosines[i][j], 2)}`,
        style: { "background-color": diverging(cosines[i][j]), "min-height": "0.9rem" } }))])),
    h("h3", {}, "Agreement of methods, and of places inside a block with the stream"),
    drawn.length
      ? h("div", { "data-measure": "agreement" }, lineChart({ series: drawn, xLabel: "layer", yLabel: "cosine", integers: true, marked: layer,
        yDomain: extent([0, 1, ...drawn.flatMap((each) => each.points.map((point) => point.y))]), label: "cosine of two methods' directions by layer" }))
      : h("p", { class: "muted" }, "The folder holds one method."));
}

function lens({ layer, main_method: method, lens: read }) {
  const title = "Tokens that the vector promotes and suppresses";
  if (!read) {
    return card(title, h("p", { class: "muted" }, "Not read: run ", h("code", {}, "trait-extract report --lens"), " while the model's service runs."));
  }
  return card(title,
    h("p", { class: "muted small" }, `The ${method} direction of layer ${layer} through the model's own final norm and unembedding; what later layers make of it ` +
      "is not seen. z: standard deviations over the vocabulary. On SmolLM2, random directions move the most extreme token by 4.8 on average."),
    h("div", { class: "sides" }, ["promoted", "suppressed"].map((end) => h("div", { "data-lens": end }, h("h3", {}, end),
      table(["token", "z"], read[end].map(({ text, z }) => [h("code", {}, JSON.stringify(text)), signed(z, 2)]))))));
}

function neighbours({ layer, main_method: method, neighbours: found, random_cosine: random }) {
  if (!found.length) return card("Nearest traits", h("p", { class: "muted" }, "The folder holds no other trait of this model."));
  return card("Nearest traits",
    h("p", { class: "muted small" },
      `Cosine of the ${method} directions at layer ${layer}; two random directions of this width lie within ±${fixed(random, 2)}.`),
    table(["trait", "cosine"], found.map(({ name, cosine }) => [name, signed(cosine, 2)])));
}

function texts({ layer, main_method: method, texts: found, texts_missing: missing }) {
  if (!found) return card("Held-out texts", h("p", { class: "muted" }, missing));
  return card("Held-out texts",
    h("p", { class: "muted small" }, `By ${method} at layer ${layer}, ${HALVES}.`),
    h("div", { class: "sides" }, ["highest", "lowest"].map((end) => h("div", { "data-end": end }, h("h3", {}, end), found[end].map(extreme)))));
}

function extreme({ side, value, prompt, response }) {
  return h("article", { class: "pair" },
    h("p", {}, h("b", { class: "num" }, signed(value, 2)), " ", h("span", { class: "muted" }, side)),
    h("div", { class: "text muted" }, prompt), response === null ? null : h("div", { class: "text" }, response));
}

function card(title, ...children) {
  return h("section", { class: "card" }, h("h2", {}, title), ...children);
}

// The first column is text, the others are numbers.
function table(columns, rows) {
  const tone = (i) => (i ? "num nowrap" : null);
  return h("div", { class: "wide", tabindex: 0 }, h("table", {},
    h("thead", {}, h("tr", {}, columns.map((name, i) => h("th", { class: tone(i) }, name)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, row.map((value, i) => h("td", { class: tone(i) }, value)))))));
}

function range(bounds) {
  return bounds === null ? "–" : interval(bounds[0], bounds[1], 2);
}

start();
