// One row per trait: the delta with its interval, and the range of random directions of the same dose.
import { h, responsive, s } from "../dom.js";
import { extent, linear, ticks } from "../scale.js";

// rows: {what: Node, value: Node, delta, low, high, controlLow, controlHigh}; all in one unit.
export function forest(rows, axis) {
  const [low, high] = extent([0, ...rows.flatMap((row) => [row.delta, row.low, row.high, row.controlLow, row.controlHigh])]);
  const margin = (high - low || 1) * 0.05;
  const place = (width) => linear(low - margin, high + margin, 8, width - 8);
  const lanes = rows.map((row) => h("div", { class: "frow" },
    h("div", { class: "what" }, row.what), responsive((box, width) => box.replaceChildren(lane(row, place(width), width)), "lane"),
    h("div", { class: "value num" }, row.value)));
  const bottom = responsive((box, width) => box.replaceChildren(scaleBar(place(width), low, high, width, axis)), "axisrow");
  return h("div", { class: "forest" }, lanes, bottom);
}

function lane(row, x, width) {
  const at = 20;
  const tone = row.effect ? "var(--accent)" : "var(--muted)";
  return s("svg", { width, height: 40, role: "img", "aria-label": row.label },
    s("line", { class: "zero", x1: x(0), x2: x(0), y1: 0, y2: 40 }),
    row.controlLow !== null && row.controlLow !== undefined
      ? s("rect",
        { x: x(row.controlLow) - 2, width: Math.max(0, x(row.controlHigh) - x(row.controlLow)) + 4, y: at - 11, height: 22, rx: 3,
          fill: "var(--faint)", "fill-opacity": 0.28 })
      : null,
    row.low !== null && row.low !== undefined
      ? s("line", { x1: x(row.low), x2: x(row.high), y1: at, y2: at, stroke: tone, "stroke-width": 3, "stroke-linecap": "round" })
      : null,
    s("circle", { cx: x(row.delta), cy: at, r: 5.5, fill: tone, stroke: "var(--card)", "stroke-width": 1.5 }));
}

function scaleBar(x, low, high, width, label) {
  return s("svg", { width, height: 40, "aria-hidden": "true" },
    s("line", { class: "axis", x1: 0, x2: width, y1: 0.5, y2: 0.5 }),
    ticks(low, high, width < 400 ? 4 : 8).map((value) => [
      s("line", { class: "axis", x1: x(value), x2: x(value), y1: 0, y2: 5 }),
      s("text", { x: x(value), y: 18, "text-anchor": "middle" }, String(value).replace("-", "−"))]),
    s("text", { x: width / 2, y: 35, "text-anchor": "middle" }, label));
}
