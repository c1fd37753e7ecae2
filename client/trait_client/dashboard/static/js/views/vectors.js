// Evidence by layer and method; how similar the directions of traits are.
import { get } from "../api.js";
import { lineChart } from "../charts/lines.js";
import { emptyState, field, h, select } from "../dom.js";
import { fixed, plural } from "../format.js";
import { diverging, extent, hue, inks } from "../scale.js";
import { link, patch } from "../url.js";

const MEASURES = {
  auc: { name: "AUC, held out", y: (row) => row.auc, low: (row) => row.auc_low, high: (row) => row.auc_high, label: "AUC" },
  accuracy: { name: "accuracy, held out", y: (row) => row.accuracy, low: (row) => row.accuracy_low,
    high: (row) => row.accuracy_high, label: "accuracy" },
  cohens_d: { name: "Cohen's d, held out", y: (row) => row.cohens_d, label: "Cohen's d" },
  relative: { name: "separation / residual norm", y: (row) => (row.residual_norm ? row.separation / row.residual_norm : null),
    label: "separation / residual norm" },
  massive: { name: "massive dimensions in the direction", y: (row) => row.massive_share_of_direction, label: "share of the squared length" },
  previous: { name: "cosine with the layer before", y: (row) => row.cosine_previous_layer, label: "cosine" },
};

export async function vectorsView(params) {
  const { layers, cosines } = await get("vectors");
  if (!layers.length) return {
    element: h("div", {}, h("h1", {}, "Vectors"),
      emptyState(h("p", {}, "No vector is stored yet. This extracts one and stores its evidence:"),
        h("code", {}, "trait-extract run --trait refusal --db results.duckdb"))) };
  const models = [...new Set(layers.map((row) => row.model))];
  const model = models.includes(params.model) ? params.model : models[0];
  const rows = layers.filter((row) => row.model === model);
  const vectors = [...Map.groupBy(rows, (row) => row.sha256).values()];
  const measure = MEASURES[params.measure] ? params.measure : "auc";
  const methods = [...new Set(rows.map((row) => row.method))];
  const method = methods.includes(params.method) ? params.method : "all";
  const element = h("div", {},
    h("div", { class: "head" }, h("h1", {}, "Vectors"), h("p", { class: "muted" }, `${plural(vectors.length, "vector")} of ${model}`)),
    h("section", { class: "card" },
      h("div", { class: "row" }, h("h2", {}, "Evidence by layer"), field("measure",
        select(Object.entries(MEASURES).map(([key, each]) => [key, each.name]), measure, (value) => patch({ measure: value }),
          { "data-search": true })),
        field("method", select([["all", "all"], ...methods], method, (value) => patch({ method: value === "all" ? null : value }))),
        models.length > 1 ? field("model", select(models, model, (value) => patch({ model: value }))) : null),
      h("p", { class: "muted small" },
        "Large dots: the chosen layer of each vector file. Shaded: 95 % bootstrap intervals over splits, seeds and scenarios. " +
          "Near-perfect discrimination on most layers does not say where a vector steers; a sweep does."),
      evidence(vectors, MEASURES[measure], method)),
    cosineCard(rows, cosines.filter((row) => row.model === model), params),
    table(vectors));
  return { element };
}

function evidence(vectors, measure, method) {
  // One scale for all traits, so that they can be compared.
  const [low, high] = extent(vectors.flat().flatMap((row) => [measure.y(row), measure.low?.(row), measure.high?.(row)]));
  const room = (high - low || 1) * 0.05;
  const methods = [...new Set(vectors.map((rows) => rows[0].method))];
  const groups = Map.groupBy(vectors.filter((rows) => method === "all" || rows[0].method === method), (rows) => rows[0].trait);
  return h("div", { class: "panels" }, [...groups].map(([trait, found]) => h("section", { "data-trait": trait }, h("h3", {}, trait),
    lineChart({ xLabel: "layer", integers: true, yDomain: [low - room, high + room], yLabel: measure.label, height: 210, label: `${measure.name} of ${trait} by layer`,
      series: found.map((rows) => ({ name: nameOf(rows[0], found), color: hue(methods.indexOf(rows[0].method)), dashed: rows !== found.find((each) => each[0].method === rows[0].method),
        points: rows.map((row) => ({ x: row.layer, y: measure.y(row), low: measure.low?.(row) ?? null, high: measure.high?.(row) ?? null, large: row.chosen })) })) }))));
}

// Several vectors of one trait and method (other scenarios, another chosen layer) are distinguished by their digests.
function nameOf(row, found) {
  return found.filter((rows) => rows[0].method === row.method).length > 1 ? `${row.method} ${row.sha256.replace("sha256:", "").slice(0, 6)}` : row.method;
}

function cosineCard(rows, cosines, params) {
  if (!cosines.length) return h("section", { class: "card" }, h("h2", {}, "Cosines between traits"),
    h("p", { class: "muted" }, "No cosines are stored: ", h("code", {}, "trait-extract run --db"),
      " stores them when there are at least two vectors."));
  const layers = [...new Set(cosines.map((row) => row.layer))].sort((a, b) => a - b);
  const usual = rows.find((row) => row.chosen && layers.includes(row.layer))?.layer ?? layers[Math.floor(layers.length / 2)];
  const layer = layers.includes(Number(params.layer)) ? Number(params.layer) : usual;
  const names = new Map();
  for (const row of rows) if (row.layer === layer) names.set(row.sha256, { trait: row.trait, method: row.method });
  const ids = [...names.keys()].filter((id) => cosines.some((row) => row.sha256 === id)).sort((a, b) => tell(a).localeCompare(tell(b)));
  function tell(id) {
    const found = names.get(id);
    return `${found.trait} ${found.method}`;
  }
  const known = new Map(cosines.filter((row) => row.layer === layer).map((row) => [`${row.sha256}|${row.other_sha256}`, row.cosine]));
  const shortName = (id) => h("span", {}, names.get(id).trait.split("_").map((part, i) => (i ? [h("wbr", {}), "_", part] : part)),
    h("br", {}), h("span", { class: "small muted" }, names.get(id).method));
  const square = (a, b) => {
    const value = a === b ? 1 : known.get(`${a}|${b}`) ?? null;
    return h("div",
      { class: `val ${value === null ? "" : inks(value)}`,
        title: `${tell(a)} and ${tell(b)}: ${fixed(value, 3)}`,
        style: { "background-color": value === null ? "transparent" : diverging(value) } }, fixed(value, 2));
  };
  return h("section", { class: "card" },
    h("div", { class: "row" }, h("h2", {}, "Cosines between directions"), field("layer", select(layers, layer, (value) => patch({ layer: value })))),
    h("p", { class: "row muted small" }, h("span", { class: "ramp" }, "−1", h("i", { class: "diverging" }), "+1"),
      "0: the directions are orthogonal; in many dimensions, random directions are close to 0."),
    h("div", { class: "matrix", role: "group", "aria-label": `cosines on layer ${layer}`,
      style: { "grid-template-columns": `minmax(4.5rem, 8rem) repeat(${ids.length}, minmax(0, 6rem))`,
        "max-width": `${8 + 6 * ids.length}rem` } },
      h("div", {}), ids.map((id) => h("div", { class: "lab x" }, shortName(id))),
      ids.map((a) => [h("div", { class: "lab" }, shortName(a)), ids.map((b) => square(a, b))])));
}

function table(vectors) {
  return h("section", { class: "card" }, h("h2", {}, "Chosen layers"), h("div", { class: "wide", tabindex: 0 }, h("table", {},
    h("thead", {},
      h("tr", {}, h("th", {}, "trait"), h("th", {}, "method"),
        ["layer", "AUC", "95 %", "Cohen's d", "separation, residual units",
          "/ norm"].map((name) => h("th", { class: "num" }, name)), h("th", {}, "sha256"))),
    h("tbody", {}, vectors.map((rows) => {
      const row = rows.find((each) => each.chosen) ?? rows[0];
      return h("tr", {}, h("td", {}, h("a", { href: link("sweep", { trait: row.trait }) }, row.trait)), h("td", {}, row.method),
        [row.layer, fixed(row.auc, 2), row.auc_low === null ? "–" : `${fixed(row.auc_low, 2)}–${fixed(row.auc_high, 2)}`,
          fixed(row.cohens_d, 2), fixed(row.separation, 2),
          fixed(row.residual_norm ? row.separation / row.residual_norm : null, 2)].map((value) => h("td", { class: "num nowrap" }, value)),
        h("td", {}, h("code", { title: row.sha256 }, row.sha256.replace("sha256:", "").slice(0, 10))));
    })))));
}
