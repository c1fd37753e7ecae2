// Two models on the same tokens: effects with their verdicts, the texts of one prompt beside each other, the largest spans.
import { get } from "../api.js";
import { differenceText } from "../charts/difference.js";
import { emptyState, field, h, select } from "../dom.js";
import { labelOf } from "../filters.js";
import { fixed, interval, plural, short, signed } from "../format.js";
import { patch, quietly } from "../url.js";

// The first positions are attention sinks: their projections say nothing about the text.
const SINKS = 4;
const TEXTS = {
  own: "each model's own reply", base: "the base's reply", variant: "the variant's reply",
  given: "the given reply", prompt: "the prompt",
};
const TONES = { found: "good", "too few prompts": "warn" };

export async function variantsView(params) {
  const all = await get("comparisons");
  if (!all.length) return { element: h("div", {}, h("h1", {}, "Variants"), nothing()) };
  const chosen = all.find((each) => each.comparison_id === params.id) ?? all[0];
  const found = await get("comparison", { id: chosen.comparison_id });
  const direction = found.directions.find((each) => each.key === params.vector) ?? strongest(found);
  const spans = found.spans.filter((each) => keyOf(each) === direction.key && each.text !== "prompt").sort((a, b) => b.size - a.size);
  const prompt = found.prompts.includes(params.prompt) ? params.prompt : spans[0]?.prompt_id ?? found.prompts[0];
  const card = new PromptCard(await get("compared", { id: chosen.comparison_id, prompt }), direction, spans, params);
  const list = h("div", { class: "spans" }, spans.map((span, i) => item(span, i, direction)));
  const element = h("div", {},
    h("div", { class: "head" }, h("h1", {}, "Variants"),
      h("p", { class: "muted" }, `${chosen.variant_model} minus ${chosen.base_model} on the same tokens, ${plural(chosen.n, "prompt")} of ${chosen.name}`)),
    h("section", { class: "card" }, h("div", { class: "row" },
      field("comparison", select(all.map((each) => [each.comparison_id, `${each.variant_model} against ${each.base_model}, ${each.name}`]),
        chosen.comparison_id, (id) => patch({ id, vector: null, prompt: null, t: null }))),
      field("vector", select(found.directions.map((each) => [each.key, `${labelOf(each, found.directions)}, layer ${each.layer}`]),
        direction.key, (vector) => patch({ vector, t: null })))),
    effects(found.effects.filter((each) => keyOf(each) === direction.key))),
    h("section", { class: "card variants" }, h("div", { class: "row" },
      field("prompt", select(found.prompts, prompt, (id) => patch({ prompt: id, t: null }))),
      h("button", { disabled: prompt === found.prompts[0], onclick: () => step(-1) }, "previous"),
      h("button", { disabled: prompt === found.prompts.at(-1), onclick: () => step(1) }, "next")), card.element),
    h("section", { class: "card" }, h("h2", {}, "Where they differ most"),
      h("p", { class: "muted small" }, "Windows of at least four tokens with the largest mean |difference| over all prompts, none sharing a token; residual units."),
      spans.length ? list : h("p", { class: "empty" }, "No span differs by more than rounding can.")));
  const step = (by) => {
    const to = found.prompts[found.prompts.indexOf(prompt) + by];
    if (to !== undefined) patch({ prompt: to, t: null });
  };
  return {
    element,
    shown: () => card.shown(),
    keys: (event) => {
      if (event.key === "n") return step(1), true;
      if (event.key === "p") return step(-1), true;
      return moveInSpans(list, event) || card.keys(event);
    },
  };
}

function keyOf(row) {
  return `${row.sha256}|${row.layer}`;
}

// The direction of the clearest finding, else of the largest d_z.
function strongest({ effects, directions }) {
  const weight = (row) => (row.verdict === "found" ? 1000 : 0) + Math.abs(row.dz ?? 0);
  const best = effects.reduce((a, b) => (weight(b) > weight(a) ? b : a), effects[0]);
  return directions.find((each) => best && each.key === keyOf(best)) ?? directions[0];
}

function effects(rows) {
  const heads = ["text", "verdict", "n", "difference", "95 %", "separations", "d_z", "random d_z"];
  return h("div", { class: "wide", tabindex: 0 }, h("table", { class: "effects" },
    h("thead", {}, h("tr", {}, heads.map((head, i) => h("th", { class: i > 1 ? "num" : null }, head)))),
    h("tbody", {}, rows.map((row) => h("tr", { "data-text": row.text },
      h("td", {}, TEXTS[row.text]), h("td", {}, h("span", { class: `tag ${TONES[row.verdict] ?? ""}` }, row.verdict)),
      [String(row.n), signed(row.difference, 2), interval(row.low, row.high, 2), signed(row.separations, 2),
        row.dz === null ? "–" : `${signed(row.dz, 2)} ${interval(row.dz_low, row.dz_high, 2)}`, fixed(row.random_dz, 2)].map((text) =>
        h("td", { class: "num nowrap" }, text)))))));
}

function item(span, i, direction) {
  return h("article", { class: "item", tabindex: -1 },
    h("a", { class: "open num", href: "#", onclick: (event) => {
      event.preventDefault();
      patch({ vector: direction.key, prompt: span.prompt_id, t: `${span.text}.${span.start}` });
    } }, `${i + 1}. ${signed(span.difference, 2)}`),
    h("span", { class: "muted small" }, ` ${span.prompt_id}, ${TEXTS[span.text]} `),
    h("span", { class: "text" }, span.before, h("mark", {}, span.words), span.after));
}

// The texts of one prompt, coloured by variant minus base.
class PromptCard {
  constructor(prompt, direction, spans, params) {
    this.direction = direction;
    const values = (text, side) => text.values[direction.key][side];
    this.texts = prompt.texts.map((text) => ({
      ...text, base: values(text, "base"), variant: values(text, "variant"),
      difference: values(text, "variant").map((value, i) => value - values(text, "base")[i]),
    }));
    const sizes = this.texts.flatMap((text) => text.difference.slice(SINKS).map(Math.abs));
    this.limit = Math.max(...sizes, 1e-6);
    this.tip = h("p", { class: "muted small reading", role: "status" }, "Point at a token, or move with ← and →, for both models' values.");
    const one = this.texts[0];
    this.prompt = this.draw(one, "prompt", SINKS, one.n_prompt, []);
    this.replies = this.texts.filter((text) => text.tokens.length > text.n_prompt).map((text) => ({
      name: text.text,
      box: this.draw(text, text.text, text.n_prompt, text.tokens.length, spans.filter((span) => span.prompt_id === prompt.prompt_id && span.text === text.text)),
    }));
    this.element = h("div", {},
      h("p", { class: "row small muted" }, h("span", { class: "ramp" }, `−${short(this.limit, 2)}`, h("i", { class: "diverging" }), `+${short(this.limit, 2)}`),
        `residual units; one separation of the vector is ${short(direction.separation, 3)}. Underlined: the largest spans of all prompts.`),
      h("details", { class: "asked" }, h("summary", {}, "The prompt"), this.prompt),
      h("div", { class: "sides" }, this.replies.map((reply) => h("section", { class: "side", "data-text": reply.name }, h("h2", {}, TEXTS[reply.name]), reply.box))),
      this.tip);
    this.at = params.t ?? null;
  }

  draw(text, name, from, to, spans) {
    return differenceText({ text, name, from, to, spans, limit: this.limit, onToken: (span) => this.point(span) });
  }

  shown() {
    const [name, position] = (this.at ?? "").split(".");
    const span = this.element.querySelector(`.tok[data-text="${CSS.escape(name)}"][data-token="${CSS.escape(position ?? "")}"]`);
    if (!span) return;
    this.point(span);
    span.scrollIntoView({ block: "center" });
  }

  point(span) {
    this.element.querySelector(".tok.at")?.classList.remove("at");
    span.classList.add("at");
    const { text: name, token } = span.dataset;
    const text = this.texts.find((each) => each.text === name) ?? this.texts[0];
    this.tip.replaceChildren(h("code", {}, JSON.stringify(text.tokens[token])), ` position ${token}: base `,
      h("b", { class: "num" }, signed(text.base[token], 2)), ", variant ", h("b", { class: "num" }, signed(text.variant[token], 2)),
      ", difference ", h("b", { class: "num" }, signed(text.difference[token], 2)));
    quietly({ t: `${name}.${token}` });
  }

  // True if the key was handled.
  keys(event) {
    const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!move) return false;
    const tokens = [...this.element.querySelectorAll(".side .tok")];
    if (!tokens.length) return false;
    const at = tokens.findIndex((each) => each.classList.contains("at"));
    const to = tokens[at < 0 ? 0 : Math.min(Math.max(at + move, 0), tokens.length - 1)];
    this.point(to);
    to.scrollIntoView({ block: "nearest" });
    return true;
  }
}

function moveInSpans(list, event) {
  const step = { j: 1, k: -1 }[event.key];
  const items = [...list.querySelectorAll(".item")];
  const at = items.findIndex((each) => each.classList.contains("current"));
  if (event.key === "Enter" && at >= 0 && document.activeElement === items[at]) {
    items[at].querySelector("a.open").click();
    return true;
  }
  if (!step || !items.length) return false;
  items[at]?.classList.remove("current");
  const to = items[Math.min(Math.max(at + step, 0), items.length - 1)];
  to.classList.add("current");
  to.focus({ preventScroll: true });
  to.scrollIntoView({ block: "nearest" });
  return true;
}

function nothing() {
  return emptyState(h("p", {}, "No two models have been compared yet. This reads the same tokens with a base model and its adapter or fine-tune:"),
    h("code", {}, "trait-client compare-variants --prompts prompts.jsonl --vector refusal --variant my-adapter --db results.duckdb"));
}
