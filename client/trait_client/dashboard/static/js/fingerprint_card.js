// The heat map of a prompt set with its controls; its choices go into the address.
import { get } from "./api.js";
import { fingerprintMap } from "./charts/fingerprints.js";
import { moveInMap } from "./charts/squares.js";
import { failure, field, h, select } from "./dom.js";
import { labelOf, selectionOf } from "./filters.js";
import { plural, signed, whole } from "./format.js";
import { quantile } from "./scale.js";
import { here, link } from "./url.js";

const PARTS = [["response", "reply"], ["prompt", "prompt"]];
const SORTS = [["name", "name"], ["mean", "mean of these rows, largest first"], ["spread", "spread over these rows, largest first"]];

// change(patch): as of the filter bar; it redraws the card.
export function fingerprintCard(set, change) {
  const element = h("section", { class: "card", "data-card": "fingerprints" });
  let answer = { total: 0, size: 50 };
  let newest = 0;
  const fill = async () => {
    const mine = ++newest;
    const params = here().params;
    try {
      const found = await get("fingerprints", { ...selectionOf({ ...params, set: set.name }), part: partOf(params),
        by: params.by, page: Number(params.page ?? 0) });
      if (mine !== newest) return;
      answer = found;
      element.replaceChildren(...content(found, set, params, change));
    } catch (error) {
      if (mine === newest) element.replaceChildren(failure(error));
    }
    element.dataset.shown = String(mine);
  };
  return { element, fill, last: () => lastPage(answer), keys: (event) => moveInMap(element, event) };
}

function partOf(params) {
  return params.part === "prompt" ? "prompt" : "response";
}

function lastPage({ total, size }) {
  return Math.max(0, Math.ceil(total / size) - 1);
}

function content(answer, set, params, change) {
  const [by, part] = [params.by ?? "", partOf(params)];
  const columns = ordered(answer.rows, set.directions, params);
  const rows = answer.rows.map((row) => ({ ...row, href: row.id === null ? null : link("dynamics", { ...kept(params), set: set.name, id: row.id }) }));
  const values = rows.flatMap((row) => row.cells.filter((cell) => cell?.[0] != null).map((cell) => Math.abs(cell[0])));
  const limit = Math.max(quantile(values, 0.98), 0.5);
  const page = answer.page;
  const groups = [["", "prompts"], ...(set.outcomes.length > 1 ? ["outcome"] : []).concat(Object.keys(set.fields ?? {})).map((name) => [name, `means by ${name}`])];
  return [
    h("div", { class: "row" }, h("h2", {}, "Fingerprints"),
      field("rows", select(groups, by, (value) => change({ by: value || null, page: null }), { "data-by": true })),
      field("tokens of the", select(PARTS, part, (value) => change({ part: value === "response" ? null : value }), { "data-part": true })),
      field("columns by", select(SORTS, params.columns ?? "name", (value) => change({ columns: value === "name" ? null : value }), { "data-columns": true }))),
    h("p", { class: "row muted small" },
      h("span", { class: "ramp" }, signed(-limit, 1), h("i", { class: "diverging" }), signed(limit, 1)),
      "mean projection minus the vector's centre, in separations: +0.5 is the average positive example, −0.5 the average negative one. ",
      by ? "" : "A column's name orders the prompts by the mean of its reply."),
    h("nav", { class: "pager", "aria-label": "pages" },
      h("button", { disabled: page <= 0, onclick: () => change({ page: page - 1 || null }) }, "previous"),
      h("button", { disabled: page >= lastPage(answer), onclick: () => change({ page: page + 1 }) }, "next"),
      h("span", { class: "muted num" }, `${plural(answer.total, by ? "group" : "prompt")}, page ${page + 1} of ${whole(lastPage(answer) + 1)}; ${plural(columns.length, "direction")}`)),
    values.length ? fingerprintMap({ columns, rows, limit, tokens: by ? "prompts" : "tokens",
      label: `mean projection of the ${part} on each trait`,
      onColumn: (key) => change({ by: null, page: null, order: key, desc: params.order === key && params.desc === "1" ? null : "1" }) })
      : h("p", { class: "empty" }, part === "response" ? "These prompts have no reply: choose the tokens of the prompt." : "No prompt of this set fits the filter."),
  ];
}

function kept({ outcome, text, order, desc, where }) {
  return { outcome, text, order, desc, where };
}

function ordered(rows, directions, params) {
  const columns = directions.map((each, index) => {
    const own = rows.map((row) => row.cells[index]?.[0]).filter((value) => value != null);
    const mean = own.reduce((sum, value) => sum + value, 0) / (own.length || 1);
    const spread = own.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (own.length || 1);
    const sorted = params.order === each.key && !params.by ? (params.desc === "1" ? "descending" : "ascending") : null;
    return { key: each.key, index, mean, spread, sorted, label: labelOf(each, directions), title: `${each.vector}, ${each.trait}, layer ${each.layer}` };
  });
  const by = { mean: (a, b) => b.mean - a.mean, spread: (a, b) => b.spread - a.spread }[params.columns];
  return by ? columns.sort(by) : columns;
}
