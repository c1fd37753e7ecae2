// The selection of a prompt set: the same controls for the list and for one prompt.
import { field, h, select } from "./dom.js";

export function selectionOf(params) {
  return { set: params.set, outcome: params.outcome, text: params.text, order: params.order, where: params.where, descending: params.desc === "1" ? "true" : undefined };
}

// The wanted values of metadata fields: {field: value}; the address holds them as JSON.
export function wantedFields(params) {
  try {
    const found = JSON.parse(params.where ?? "{}");
    return found && typeof found === "object" ? found : {};
  } catch {
    return {};
  }
}

// A box for each metadata field with its values and their numbers.
function fieldBoxes(set, params, change) {
  const wanted = wantedFields(params);
  const names = Object.keys(set.fields ?? {});
  if (!names.length) return null;
  const choose = (name, value) => {
    const next = { ...wanted };
    if (value === "") delete next[name];
    else next[name] = JSON.parse(value);
    change({ where: Object.keys(next).length ? JSON.stringify(next) : null, page: null, id: null });
  };
  const cut = (text) => (text.length > 60 ? `${text.slice(0, 59)}…` : text);
  return h("div", { class: "row fields", role: "group", "aria-label": "metadata" },
    names.map((name) => field(name, select(
      [["", "all"], ...set.fields[name].map(([value, n]) => [JSON.stringify(value), `${cut(value)} (${n})`])],
      name in wanted ? JSON.stringify(wanted[name]) : "", (value) => choose(name, value), { "data-field": name }))));
}

// change(patch, quiet): `quiet` while the reader types.
export function filterBar(sets, set, params, change) {
  const orders = [["id", "name"], ["length", "length in tokens"],
    ...set.directions.map((each) => [each.key, `mean ${labelOf(each, set.directions)} of the reply`])];
  let waiting = null;
  const search = h("input", { type: "search", "data-search": true, value: params.text ?? "", placeholder: "in prompt, reply or name  ( / )", "aria-label": "find text", spellcheck: "false",
    oninput: (event) => {
      clearTimeout(waiting);
      waiting = setTimeout(() => change({ text: event.target.value || null, page: null, id: null }, true), 90);
    } });
  const named = set.outcomes.filter((each) => each.outcome !== null);
  const outcomes = [{ outcome: null, label: "all", n: set.n }, ...named,
    ...set.outcomes.filter((each) => each.outcome === null && named.length).map((each) => ({ ...each, outcome: "", label: "no outcome" }))];
  return h("div", {},
    h("div", { class: "row" },
      field("prompt set",
        select(sets.map((each) => [each.name, `${each.name} (${each.n})`]), set.name,
          (value) => change({ set: value, outcome: null, where: null, by: null, text: null, order: null, page: null, id: null }))),
      named.length ? h("span", { class: "row", role: "group", "aria-label": "outcome" }, outcomes.map((each) => h("button", {
        "aria-pressed": String((params.outcome ?? null) === each.outcome), "data-outcome": each.outcome ?? "all",
        onclick: () => change({ outcome: each.outcome, page: null, id: null }) }, `${each.label ?? each.outcome} `, h("span", { class: "num" }, String(each.n))))) : null,
      field("order",
        select(orders, params.order ?? "id",
          (value) => change({ order: value === "id" ? null : value, desc: value === "id" ? null : "1", page: null, id: null }))),
      h("button",
        { "aria-pressed": String(params.desc === "1"),
          onclick: () => change({ desc: params.desc === "1" ? null : "1", page: null, id: null }) }, "largest first")),
    fieldBoxes(set, params, change),
    h("div", { class: "searchline" }, search));
}

export function labelOf(direction, directions) {
  const alike = directions.filter((each) => each.trait === direction.trait);
  const parts = [direction.trait];
  if (new Set(alike.map((each) => each.layer)).size > 1) parts.push(`layer ${direction.layer}`);
  if (new Set(alike.map((each) => each.method)).size > 1) parts.push(direction.method);
  return parts.join(" ");
}

export function chosenSet(sets, params) {
  return sets.find((each) => each.name === params.set) ?? sets[0];
}

export function outcomeTag(outcome) {
  if (outcome === null) return null;
  const tone = { success: "good", ok: "good", safe: "good", failure: "bad", fail: "bad", jailbroken: "bad" }[outcome] ?? "";
  return h("span", { class: `tag ${tone}` }, outcome);
}

export function noSets() {
  return h("div", { class: "card empty" }, h("p", {}, "No prompt set has been projected yet. This stores the projection of every token of a prompt set:"),
    h("code", {}, "trait-client project --prompts prompts.jsonl --vector refusal --max-tokens 64 --db results.duckdb"));
}

