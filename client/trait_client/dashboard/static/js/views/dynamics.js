// One prompt and its reply, token by token.
import { get } from "../api.js";
import { interlinear } from "../charts/interlinear.js";
import { failure, field, h, responsive, s, select } from "../dom.js";
import { chosenSet, filterBar, labelOf, noSets, outcomeTag, selectionOf } from "../filters.js";
import { plural, short, signed } from "../format.js";
import { hue, linear, quantile, ticks } from "../scale.js";
import { patch, quietly } from "../url.js";

// The first positions are attention sinks: their projections are many times any other's and say nothing of the text.
const SINKS = 4;
const SHOWN_AT_FIRST = 4;

export async function dynamicsView(params) {
  const sets = await get("sets", { set: params.set });
  if (!sets.length) return { element: h("div", {}, h("h1", {}, "Trait dynamics"), noSets()) };
  const set = chosenSet(sets, params);
  const change = (changes, quiet) => {
    typing = quiet === true;
    patch({ id: null, t: null, ...changes });
  };
  const head = h("div", {}, h("div", { class: "head" }, h("h1", {}, "Trait dynamics"), h("p", { class: "muted" }, "Projection of every token on each trait's direction, under the text.")),
    h("section", { class: "card" }, filterBar(sets, set, params, change)));
  let reading;
  try {
    reading = await get("reading", { ...selectionOf({ ...params, set: set.name }), id: params.id });
  } catch (error) {
    head.append(failure(error));
    return { element: head, shown: () => keepTyping(head) };
  }
  const body = readingCard(reading, set.directions, params);
  head.append(body.element);
  const step = (id) => id && patch({ id, t: null });
  return {
    element: head,
    shown: () => keepTyping(head),
    keys: (event) => {
      if (["n", "j"].includes(event.key)) return step(reading.next), true;
      if (["p", "k"].includes(event.key)) return step(reading.previous), true;
      return body.keys(event);
    },
  };
}

// The view is drawn anew while somebody types in the search box: the cursor stays there.
let typing = false;

function keepTyping(root) {
  const box = root.querySelector("[data-search]");
  if (typing && box) {
    box.focus();
    box.setSelectionRange(box.value.length, box.value.length);
  }
  typing = false;
}

// Drawn for the view and for the report. `params`: unit, centre, smooth, hide, t.
export function readingCard(reading, directions, params, nav = true) {
  const present = directions.filter((each) => reading.values[each.key]);
  const hidden = new Set(params.hide === undefined ? present.slice(SHOWN_AT_FIRST).map((each) => each.key.slice(0, 12) + each.layer) : params.hide.split(",").filter(Boolean));
  const state = { unit: params.unit === "raw" ? "raw" : "separation", centre: params.centre === "set" ? "set" : "vector", smooth: Math.min(Math.max(Number(params.smooth ?? 1) || 1, 1), 25), hidden, at: params.t === undefined ? null : Number(params.t) };
  const name = (each) => each.key.slice(0, 12) + each.layer;
  const card = h("section", { class: "card dynamics" });
  const n = reading.n_prompt;
  let parts = [];
  let chart = null;

  const shownDirections = () => present.filter((each) => !state.hidden.has(name(each)));
  const valuesOf = (each) => {
    const shift = state.centre === "set" ? each.reply_mean ?? 0 : 0;
    const divisor = state.unit === "separation" ? Math.abs(each.half_separation) || 1 : 1;
    return reading.values[each.key].map((value) => (value - shift) / divisor);
  };
  const scaled = () => {
    const lines = shownDirections().map((each) => ({ each, color: hue(present.indexOf(each)), exact: valuesOf(each) }));
    for (const line of lines) line.values = smoothed(line.exact, n, state.smooth);
    const usual = lines.flatMap((line) => line.values.slice(SINKS).map(Math.abs));
    const limit = Math.max(quantile(usual, 0.995) * 1.08, state.unit === "separation" ? 1.2 : 1e-6);
    return { lines, limit, marks: [niceBelow(limit), 0, -niceBelow(limit)].map(mark) };
  };
  const redraw = () => {
    const { lines, limit, marks } = scaled();
    for (const part of parts) part.redraw(lines, limit, marks);
    chart.draw();
    note.replaceChildren(...caption(lines, limit, state));
    legend.replaceChildren(...legendOf());
  };
  const set = (changes, address) => {
    Object.assign(state, changes);
    if (nav) quietly(address);
    redraw();
  };
  const toggle = (each) => {
    const next = new Set(state.hidden);
    if (!next.delete(name(each))) next.add(name(each));
    set({ hidden: next }, { hide: [...next].join(",") || "," });
  };
  const tip = h("div", { class: "tip", hidden: true, role: "status" });
  const mark = (value) => ({ value, label: state.unit === "separation" ? signed(value, Number.isInteger(value) ? 0 : 1) : short(value, 3) });
  const point = (token, quiet = false) => {
    state.at = token;
    for (const old of card.querySelectorAll(".tok.at")) old.classList.remove("at");
    const span = card.querySelector(`.tok[data-token="${token}"]`);
    if (!span) return;
    span.classList.add("at");
    chart.cross(token);
    const { lines } = scaled();
    tip.replaceChildren(h("div", {}, h("code", {}, JSON.stringify(reading.tokens[token])), h("span", { class: "muted" }, `  position ${token}, ${token < n ? "prompt" : `reply token ${token - n}`}`)),
      ...lines.map((line) => h("div", { class: "key" }, h("i", { style: { background: line.color } }), `${labelOf(line.each, directions)} `, h("b", { class: "num" }, signed(line.exact[token], 2)),
        state.smooth > 1 ? h("span", { class: "muted num" }, ` smoothed ${signed(line.values[token], 2)}`) : "", h("span", { class: "muted num" }, state.unit === "separation" ? ` (${short(reading.values[line.each.key][token])} residual units)` : ""))).map((row) => h("div", {}, row)));
    tip.hidden = false;
    const place = span.getBoundingClientRect();
    const frame = card.getBoundingClientRect();
    const left = Math.min(Math.max(place.left - frame.left, 4), Math.max(4, frame.width - tip.offsetWidth - 6));
    tip.style.setProperty("left", `${left}px`);
    tip.style.setProperty("top", `${place.top - frame.top - tip.offsetHeight - 6}px`);
    if (nav && !quiet) quietly({ t: token });
  };
  const legendOf = () => present.map((each, i) => h("button", { class: "trait", "aria-pressed": String(!state.hidden.has(name(each))), onclick: () => toggle(each), title: `${each.method}, layer ${each.layer}` },
    h("i", { style: { background: hue(i) } }), labelOf(each, directions), h("span", { class: "muted num small" }, ` layer ${each.layer} · reply mean ${signed((valuesMean(reading, each) - (state.centre === "set" ? each.reply_mean ?? 0 : 0)) / (state.unit === "separation" ? Math.abs(each.half_separation) || 1 : 1), 2)}`)));
  const legend = h("div", { class: "row traits" });
  const note = h("p", { class: "muted small" });
  const smoothOut = h("output", { class: "num" }, String(state.smooth));
  const controls = h("div", { class: "row" },
    field("scale", select([["separation", "of the vector: ±1 is the average example of either side"], ["raw", "residual units"]], state.unit, (value) => set({ unit: value }, { unit: value === "raw" ? "raw" : null }))),
    field("zero", select([["vector", "midpoint of the vector's two sides"], ["set", "mean reply of this prompt set"]], state.centre, (value) => set({ centre: value }, { centre: value === "set" ? "set" : null }))),
    field("smoothing, tokens", h("input", { type: "range", min: 1, max: 25, step: 2, value: state.smooth, oninput: (event) => { smoothOut.textContent = event.target.value; set({ smooth: Number(event.target.value) }, { smooth: event.target.value === "1" ? null : event.target.value }); } }), smoothOut));

  const { lines, limit, marks } = scaled();
  const make = (from, to, part) => interlinear({ tokens: reading.tokens, from, to, part, lines, limit, marks, onToken: point });
  chart = sequenceChart(reading, scaled, (token) => { point(token); card.querySelector(`.tok[data-token="${token}"]`)?.scrollIntoView({ block: "center", behavior: "smooth" }); }, point);
  const promptPart = make(0, n, "prompt");
  const replyPart = reading.tokens.length > n ? make(n, reading.tokens.length, "reply") : null;
  parts = [promptPart, replyPart].filter(Boolean);
  note.replaceChildren(...caption(lines, limit, state));
  legend.replaceChildren(...legendOf());
  card.append(
    h("div", { class: "row" }, h("h2", {}, reading.prompt_id), outcomeTag(reading.outcome), h("span", { class: "muted" }, reading.place === null ? "not in the selection" : `${reading.place + 1} of ${reading.total}`),
      nav ? [h("button", { disabled: !reading.previous, onclick: () => patch({ id: reading.previous, t: null }) }, "previous"), h("button", { disabled: !reading.next, onclick: () => patch({ id: reading.next, t: null }) }, "next")] : null),
    legend, controls, note, chart.element,
    h("section", { class: "partbox prompt", "data-part": "prompt" }, h("h3", {}, `Prompt, ${plural(n, "token")}`), promptPart.element),
    replyPart ? h("section", { class: "partbox reply", "data-part": "reply" }, h("h3", {}, `Reply, ${plural(reading.tokens.length - n, "token")}${reading.given ? ", given" : ""}${reading.finish_reason === "length" ? ", stopped at the token limit" : ""}`), replyPart.element) : null,
    tip);
  card.addEventListener("pointerleave", () => { tip.hidden = true; });
  if (state.at !== null) requestAnimationFrame(() => requestAnimationFrame(() => point(state.at, true)));
  const keys = (event) => {
    const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (event.key === "Escape") tip.hidden = true;
    if (!move) return false;
    const to = Math.min(Math.max((state.at ?? n - 1) + move, 0), reading.tokens.length - 1);
    point(to);
    card.querySelector(`.tok[data-token="${to}"]`)?.scrollIntoView({ block: "nearest" });
    return true;
  };
  return { element: card, keys };
}

function valuesMean(reading, each) {
  const values = reading.values[each.key].slice(reading.n_prompt);
  return values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : 0;
}

function caption(lines, limit, state) {
  const unit = state.unit === "separation" ? "half separations (±1: the average positive and negative example)" : "residual units";
  const zero = state.centre === "set" ? "0 is the mean over all replies of this set" : "0 is the midpoint between the vector's two sides";
  const far = lines.some((line) => line.values.slice(0, SINKS).some((value) => Math.abs(value) > limit));
  return [`In ${unit}; ${zero}. A reply token has the value of the position before it, which produced it.`, far ? " Triangles: off the scale; the first positions are attention sinks and far from any text." : ""];
}

// Moving average over `width` tokens, within the part; sinks stay out of their neighbours' means.
export function smoothed(values, nPrompt, width) {
  if (width <= 1) return values;
  const half = (width - 1) / 2;
  return values.map((value, i) => {
    if (i < SINKS) return value;
    const [low, high] = i < nPrompt ? [Math.min(SINKS, nPrompt), nPrompt] : [nPrompt, values.length];
    let sum = 0;
    let count = 0;
    for (let j = Math.max(low, i - half); j < Math.min(high, i + half + 1); j++) {
      sum += values[j];
      count++;
    }
    return sum / count;
  });
}

function niceBelow(limit) {
  return ticks(0, limit, 1.9).at(-1) || limit;
}

// The whole course in one look; a click goes to the token.
function sequenceChart(reading, scaled, go, hover) {
  const height = 150;
  const frame = { left: 44, right: 8, top: 20, bottom: 34 };
  let box = null;
  let width = 0;
  let x = null;
  const cross = s("line", { class: "cross", y1: frame.top, y2: height - frame.bottom, visibility: "hidden" });
  const draw = () => {
    if (!box) return;
    const { lines, limit, marks } = scaled();
    const n = reading.tokens.length;
    x = linear(0, Math.max(n - 1, 1), frame.left + 4, width - frame.right);
    const y = linear(-limit, limit, height - frame.bottom, frame.top);
    const edge = x(reading.n_prompt - 0.5);
    const svg = s("svg", { width, height, role: "img", "aria-label": "projections over all tokens", "data-chart": "sequence" },
      s("rect", { class: "prompt", x: frame.left, y: frame.top, width: Math.max(0, edge - frame.left), height: height - frame.top - frame.bottom }),
      s("text", { x: frame.left + 4, y: 14 }, "prompt"),
      n > reading.n_prompt ? s("text", { x: Math.max(edge + 4, frame.left + 52), y: 14, class: "strong" }, "reply") : null,
      marks.map((mark) => [s("line", { class: mark.value === 0 ? "zero" : "axis", x1: frame.left, x2: width - frame.right, y1: y(mark.value), y2: y(mark.value) }), s("text", { x: frame.left - 6, y: y(mark.value) + 4, "text-anchor": "end" }, mark.label)]),
      ticks(0, n - 1, Math.max(2, Math.floor(width / 90))).filter((value) => Number.isInteger(value)).map((value) => s("text", { x: x(value), y: height - 18, "text-anchor": "middle" }, String(value))),
      s("text", { x: width / 2, y: height - 4, "text-anchor": "middle" }, "token position"),
      lines.map((line) => s("path", { fill: "none", stroke: line.color, "stroke-width": 1.5, "stroke-linejoin": "round",
        d: line.values.map((value, i) => `${i ? "L" : "M"}${x(i).toFixed(1)} ${y(Math.min(Math.max(value, -limit), limit)).toFixed(1)}`).join("") })),
      cross);
    const token = (event) => Math.min(Math.max(Math.round(((event.clientX - svg.getBoundingClientRect().left - frame.left - 4) / (width - frame.right - frame.left - 4)) * (n - 1)), 0), n - 1);
    svg.addEventListener("click", (event) => go(token(event)));
    svg.addEventListener("pointermove", (event) => hover(token(event), true));
    box.replaceChildren(svg);
  };
  const element = responsive((made, now) => { box = made; width = now; draw(); });
  return { element, draw, cross: (token) => { if (!x) return; cross.setAttribute("x1", x(token)); cross.setAttribute("x2", x(token)); cross.setAttribute("visibility", "visible"); } };
}
