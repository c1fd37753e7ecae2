// Elements from data. Text only ever becomes a text node: nothing here parses markup.
const SVG_SPACE = "http://www.w3.org/2000/svg";

function fill(element, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, v] of Object.entries(value)) element.style.setProperty(key, v);
    else if (name === "value" && "value" in element) element.value = value;
    else if (name === "checked") element.checked = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function h(tag, props = {}, ...children) {
  return fill(document.createElement(tag), props, children);
}

export function s(tag, props = {}, ...children) {
  return fill(document.createElementNS(SVG_SPACE, tag), props, children);
}

export function select(options, value, onchange, props = {}) {
  const entries = options.map((option) => (Array.isArray(option) ? option : [option, option]));
  const box = h("select", { ...props, onchange: (event) => onchange(event.target.value) },
    entries.map(([key, label]) => h("option", { value: key, selected: String(key) === String(value) }, String(label))));
  return box;
}

export function field(label, control, after = null) {
  return h("label", { class: "field" }, h("span", {}, label), control, after);
}

// A missing database is not an error: the message says how to create one.
export function failure(error) {
  if (error.kind !== "ResultsMissingError") return h("div", { class: "notice bad", role: "alert" }, error.message);
  return emptyState(h("p", { role: "alert" }, error.message), ...firstSteps("results.duckdb"),
    h("p", {}, "Results in another file: ", h("code", {}, "trait-client dashboard --db PATH")));
}

// The commands of a first visit, which fill a database.
export function firstSteps(path) {
  const steps = [
    ["Serve a model, and leave it running:", "trait-service serve smollm2"],
    ["In another terminal, make vectors of three traits:",
      `trait-extract run --trait refusal --trait question_asking --trait sycophancy --db ${path}`],
    ["In a checkout, sweep them; results appear here while it runs:", `trait-client sweep experiments/demo/experiment.toml --db ${path}`],
  ];
  return [h("p", {}, "Three commands fill the database:"),
    h("ol", {}, steps.map(([what, command]) => h("li", {}, h("p", {}, what), h("code", {}, command))))];
}

export function emptyState(...children) {
  return h("div", { class: "card empty" }, ...children);
}

// Redraw a chart when its width changes; the first drawing is immediate if it is already in the page.
export function responsive(draw, className = "plot") {
  const box = h("div", { class: className });
  let width = 0;
  new ResizeObserver(() => {
    const now = Math.floor(box.clientWidth);
    if (now && now !== width) {
      width = now;
      draw(box, now);
    }
  }).observe(box);
  return box;
}
