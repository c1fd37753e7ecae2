// Layer by coefficient, one link per cell.
import { h } from "../dom.js";
import { short } from "../format.js";

// cell(layer, coefficient) -> null or {text, note, fill, inks, faded, best, chosen, href, title}
export function heatmap({ layers, coefficients, cell, xLabel, label }) {
  const columns = `minmax(2.2rem, 3rem) repeat(${coefficients.length}, minmax(0, 5.5rem)) minmax(0, 1fr)`;
  return h("div", { class: "heat", role: "group", "aria-label": label,
    style: { "grid-template-columns": columns, width: `${Math.max(22, 3.2 + 5.7 * coefficients.length)}rem` } },
    h("div", { class: "tick y" }, "layer"),
    h("div", { class: "title", style: { "grid-column": `2 / -1` } }, xLabel),
    h("div", { class: "first" }), coefficients.map((value) => h("div", { class: "tick" }, short(value))),
    layers.map((layer) => [
      h("div", { class: "tick y" }, String(layer)),
      coefficients.map((coefficient) => square(cell(layer, coefficient), layer, coefficient))]));
}

function square(found, layer, coefficient) {
  if (!found) return h("div", { class: "cell none", title: "not run" }, "·");
  const kind = ["cell", found.faded ? "faded" : found.inks, found.best && "best", found.chosen && "chosen"];
  return h("a", {
    class: kind.filter(Boolean).join(" "), href: found.href, title: found.title,
    "aria-label": found.title, "data-layer": layer, "data-coefficient": coefficient,
    style: { "background-color": found.fill } },
  h("span", {}, found.text), found.note ? h("small", {}, found.note) : null);
}

// Arrow keys between the cells of all heatmaps in `root`; true if the key was handled.
export function moveInHeatmap(root, event) {
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1], h: [-1, 0], l: [1, 0] };
  const step = steps[event.key];
  const from = document.activeElement?.closest?.(".heat .cell") ?? null;
  if (!step) return false;
  const cells = [...root.querySelectorAll(".heat a.cell")];
  if (!cells.length) return false;
  if (!from) {
    (root.querySelector(".heat a.chosen") ?? root.querySelector(".heat a.best") ?? cells[0]).focus();
    return true;
  }
  const a = from.getBoundingClientRect();
  const [x, y] = [a.x + a.width / 2, a.y + a.height / 2];
  let best = null;
  for (const other of cells) {
    const b = other.getBoundingClientRect();
    const dx = b.x + b.width / 2 - x;
    const dy = b.y + b.height / 2 - y;
    const along = dx * step[0] + dy * step[1];
    const across = Math.abs(dx * step[1]) + Math.abs(dy * step[0]);
    if (along < 4 || across > along * 2 || across > a.height * 1.5) continue;
    const cost = along + 4 * across;
    if (!best || cost < best.cost) best = { other, cost };
  }
  best?.other.focus();
  return true;
}
