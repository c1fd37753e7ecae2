// One prompt and its reply, token by token: the view and the report show the same card.
import { interlinear } from "./charts/interlinear.js";
import { sequenceChart } from "./charts/sequence.js";
import { field, h, select } from "./dom.js";
import { labelOf, outcomeTag } from "./filters.js";
import { plural, short, signed } from "./format.js";
import { hue, quantile, ticks } from "./scale.js";
import { patch, quietly } from "./url.js";

// The first positions are attention sinks: their projections are many times any other's and say nothing about the text.
const SINKS = 4;
const SHOWN_AT_FIRST = 4;
const SCALES = [["separation", "of the vector: ±1 is the average example of either side"], ["raw", "residual units"]];
const ZEROS = [["vector", "midpoint of the vector's two sides"], ["set", "mean reply of this prompt set"]];

export class ReadingCard {
  // params: unit, centre, smooth, hide, t of the address; nav: with links to the neighbours, and choices go into the address
  constructor(reading, directions, params, nav = true) {
    this.reading = reading;
    this.directions = directions;
    this.present = directions.filter((each) => reading.values[each.key]);
    this.state = stateOf(params, this.present);
    this.nav = nav;
    this.element = h("section", { class: "card dynamics" });
    this.tip = h("div", { class: "tip", hidden: true, role: "status" });
    this.legend = h("div", { class: "row traits" });
    this.note = h("p", { class: "muted small" });
    this.chart = sequenceChart(reading, () => this.scaled(), (token) => this.goTo(token), (token, quiet) => this.point(token, quiet));
    this.parts = this.makeParts();
    this.explain(this.scaled());
    this.element.append(
      this.head(), this.legend, this.controls(), this.note, this.chart.element,
      ...this.parts.map((part) => part.box), this.tip);
    this.element.addEventListener("pointerleave", () => { this.tip.hidden = true; });
    const { at } = this.state;
    if (at !== null) requestAnimationFrame(() => requestAnimationFrame(() => this.point(at, true)));
  }

  // True if the key was handled.
  keys(event) {
    const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (event.key === "Escape") this.tip.hidden = true;
    if (!move) return false;
    const from = this.state.at ?? this.reading.n_prompt - 1;
    const to = Math.min(Math.max(from + move, 0), this.reading.tokens.length - 1);
    this.point(to);
    this.spanOf(to)?.scrollIntoView({ block: "nearest" });
    return true;
  }

  // ---------------------------------------------------------------------------------------------------------- values

  // A direction's projections on the chosen scale.
  valuesOf(each) {
    return this.reading.values[each.key].map((value) => this.onScale(value, each));
  }

  onScale(value, each) {
    const zero = this.state.centre === "set" ? each.reply_mean ?? 0 : 0;
    return (value - zero) / (this.state.unit === "separation" ? Math.abs(each.half_separation) || 1 : 1);
  }

  // What the charts draw: a line for each shown direction, the largest value drawn, and the marks of the axis.
  scaled() {
    const shown = this.present.filter((each) => !this.state.hidden.has(nameOf(each)));
    const lines = shown.map((each) => {
      const exact = this.valuesOf(each);
      const values = smoothed(exact, this.reading.n_prompt, this.state.smooth);
      return { each, color: hue(this.present.indexOf(each)), exact, values };
    });
    const usual = lines.flatMap((line) => line.values.slice(SINKS).map(Math.abs));
    const limit = Math.max(quantile(usual, 0.995) * 1.08, this.state.unit === "separation" ? 1.2 : 1e-6);
    const top = ticks(0, limit, 1.9).at(-1) || limit;
    return { lines, limit, marks: [top, 0, -top].map((value) => ({ value, label: this.markLabel(value) })) };
  }

  markLabel(value) {
    return this.state.unit === "separation" ? signed(value, Number.isInteger(value) ? 0 : 1) : short(value, 3);
  }

  // -------------------------------------------------------------------------------------------------------- elements

  head() {
    const { reading } = this;
    const step = (label, id) => h("button", { disabled: !id, onclick: () => patch({ id, t: null }) }, label);
    return h("div", { class: "row" },
      h("h2", {}, reading.prompt_id), outcomeTag(reading.outcome),
      h("span", { class: "muted" }, reading.place === null ? "not in the selection" : `${reading.place + 1} of ${reading.total}`),
      this.nav ? [step("previous", reading.previous), step("next", reading.next)] : null);
  }

  controls() {
    const output = h("output", { class: "num" }, String(this.state.smooth));
    const smooth = (event) => {
      output.textContent = event.target.value;
      this.set({ smooth: Number(event.target.value) }, { smooth: event.target.value === "1" ? null : event.target.value });
    };
    const unit = (value) => this.set({ unit: value }, { unit: value === "raw" ? "raw" : null });
    const centre = (value) => this.set({ centre: value }, { centre: value === "set" ? "set" : null });
    return h("div", { class: "row" },
      field("scale", select(SCALES, this.state.unit, unit)),
      field("zero", select(ZEROS, this.state.centre, centre)),
      field("smoothing, tokens",
        h("input", { type: "range", min: 1, max: 25, step: 2, value: this.state.smooth, oninput: smooth }), output));
  }

  makeParts() {
    const { reading } = this;
    const n = reading.n_prompt;
    const parts = [this.part("prompt", 0, n, `Prompt, ${plural(n, "token")}`)];
    if (reading.tokens.length > n) {
      const title = `Reply, ${plural(reading.tokens.length - n, "token")}${reading.given ? ", given" : ""}` +
        (reading.finish_reason === "length" ? ", stopped at the token limit" : "");
      parts.push(this.part("reply", n, reading.tokens.length, title));
    }
    return parts;
  }

  part(name, from, to, title) {
    const text = interlinear({ tokens: this.reading.tokens, from, to, part: name, ...this.scaled(), onToken: (token) => this.point(token) });
    const box = h("section", { class: `partbox ${name}`, "data-part": name }, h("h3", {}, title), text.element);
    return { box, redraw: text.redraw };
  }

  legendOf() {
    return this.present.map((each, i) => h("button", {
      class: "trait", "aria-pressed": String(!this.state.hidden.has(nameOf(each))),
      onclick: () => this.toggle(each), title: `${each.method}, layer ${each.layer}` },
    h("i", { style: { background: hue(i) } }), labelOf(each, this.directions),
    h("span", { class: "muted num small" },
      ` layer ${each.layer} · reply mean ${signed(this.onScale(replyMean(this.reading, each), each), 2)}`)));
  }

  explain({ lines, limit }) {
    this.note.replaceChildren(...caption(lines, limit, this.state));
    this.legend.replaceChildren(...this.legendOf());
  }

  // --------------------------------------------------------------------------------------------------------- changes

  set(changes, address) {
    Object.assign(this.state, changes);
    if (this.nav) quietly(address);
    const scaled = this.scaled();
    for (const part of this.parts) part.redraw(scaled.lines, scaled.limit, scaled.marks);
    this.chart.draw();
    this.explain(scaled);
  }

  toggle(each) {
    const next = new Set(this.state.hidden);
    if (!next.delete(nameOf(each))) next.add(nameOf(each));
    this.set({ hidden: next }, { hide: [...next].join(",") || "," });
  }

  spanOf(token) {
    return this.element.querySelector(`.tok[data-token="${token}"]`);
  }

  goTo(token) {
    this.point(token);
    this.spanOf(token)?.scrollIntoView({ block: "center", behavior: "smooth" });
  }

  // Mark a token and show its values; `quiet` leaves the address as it is.
  point(token, quiet = false) {
    this.state.at = token;
    for (const old of this.element.querySelectorAll(".tok.at")) old.classList.remove("at");
    const span = this.spanOf(token);
    if (!span) return;
    span.classList.add("at");
    this.chart.mark(token);
    this.tip.replaceChildren(...this.tipOf(token));
    this.tip.hidden = false;
    const place = span.getBoundingClientRect();
    const frame = this.element.getBoundingClientRect();
    const left = Math.min(Math.max(place.left - frame.left, 4), Math.max(4, frame.width - this.tip.offsetWidth - 6));
    this.tip.style.setProperty("left", `${left}px`);
    this.tip.style.setProperty("top", `${place.top - frame.top - this.tip.offsetHeight - 6}px`);
    if (this.nav && !quiet) quietly({ t: token });
  }

  tipOf(token) {
    const { reading, state } = this;
    const where = token < reading.n_prompt ? "prompt" : `reply token ${token - reading.n_prompt}`;
    const row = (line) => h("div", {}, h("div", { class: "key" },
      h("i", { style: { background: line.color } }), `${labelOf(line.each, this.directions)} `,
      h("b", { class: "num" }, signed(line.exact[token], 2)),
      state.smooth > 1 ? h("span", { class: "muted num" }, ` smoothed ${signed(line.values[token], 2)}`) : "",
      h("span", { class: "muted num" },
        state.unit === "separation" ? ` (${short(reading.values[line.each.key][token])} residual units)` : "")));
    return [
      h("div", {}, h("code", {}, JSON.stringify(reading.tokens[token])), h("span", { class: "muted" }, `  position ${token}, ${where}`)),
      ...this.scaled().lines.map(row)];
  }
}

function stateOf(params, present) {
  const hidden = params.hide === undefined ? present.slice(SHOWN_AT_FIRST).map(nameOf) : params.hide.split(",").filter(Boolean);
  return {
    unit: params.unit === "raw" ? "raw" : "separation",
    centre: params.centre === "set" ? "set" : "vector",
    smooth: Math.min(Math.max(Number(params.smooth ?? 1) || 1, 1), 25),
    hidden: new Set(hidden),
    at: params.t === undefined ? null : Number(params.t),
  };
}

// A direction's short name in the address.
function nameOf(each) {
  return each.key.slice(0, 12) + each.layer;
}

function replyMean(reading, each) {
  const values = reading.values[each.key].slice(reading.n_prompt);
  return values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : 0;
}

function caption(lines, limit, state) {
  const unit = state.unit === "separation" ? "half separations (±1: the average positive and negative example)" : "residual units";
  const zero = state.centre === "set" ? "0 is the mean over all replies of this set" : "0 is the midpoint between the vector's two sides";
  const far = lines.some((line) => line.values.slice(0, SINKS).some((value) => Math.abs(value) > limit));
  return [
    `In ${unit}; ${zero}. A reply token has the value of the position before it, which produced it.`,
    far ? " Triangles: off the scale; the first positions are attention sinks, far from the values of any text." : ""];
}

// Moving average over `width` tokens, within the part; sinks stay out of their neighbours' means.
function smoothed(values, nPrompt, width) {
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
