// Points over two axes, each a link; some of them are on a front, which a line joins.
import { h, responsive, s } from "../dom.js";
import { short } from "../format.js";
import { extent, linear, ticks } from "../scale.js";

const FINE = 0.01; // below this the x axis is linear, above it logarithmic
const MARKS = [0, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30];

// points: [{x, y, low, high, front, label, href, chosen}], x at least 0
export function scatter({ points, xLabel, yLabel, label, height = 300 }) {
  const draw = (box, width) => {
    const focused = box.querySelector("a:focus")?.dataset.point;
    box.replaceChildren(plot(width));
    if (focused !== undefined) box.querySelector(`[data-point="${focused}"]`)?.focus({ preventScroll: true });
  };
  const plot = (width) => {
    const frame = { left: 50, right: 14, top: 24, bottom: 42 };
    const bent = (value) => Math.log1p(value / FINE);
    const most = Math.max(...points.map((point) => point.x), FINE);
    const along = linear(0, bent(most) * 1.04, frame.left + 6, width - frame.right);
    const x = (value) => along(bent(value));
    const [low, high] = extent([0, ...points.flatMap((point) => [point.y, point.low, point.high])]);
    const room = (high - low || 1) * 0.06;
    const y = linear(low - room, high + room, height - frame.bottom, frame.top);
    const front = points.filter((point) => point.front).sort((a, b) => a.x - b.x);
    const steps = front.map((point, i) => (i ? `H${x(point.x).toFixed(1)}V${y(point.y).toFixed(1)}` : `M${x(point.x).toFixed(1)} ${y(point.y).toFixed(1)}`)).join("");
    const svg = s("svg", { width, height, role: "group", "aria-label": label },
      ticks(low - room, high + room, 5).map((value) => [
        s("line", { class: value === 0 ? "zero" : "axis", x1: frame.left, x2: width - frame.right, y1: y(value), y2: y(value) }),
        s("text", { x: frame.left - 7, y: y(value) + 4, "text-anchor": "end" }, short(value, 4))]),
      MARKS.filter((value) => value <= most * 1.05).map((value) => s("text", { x: x(value), y: height - frame.bottom + 17, "text-anchor": "middle" }, String(value))),
      s("text", { x: 0, y: 12 }, yLabel),
      s("text", { x: (frame.left + width - frame.right) / 2, y: height - 6, "text-anchor": "middle" }, xLabel),
      steps ? s("path", { d: steps, fill: "none", stroke: "var(--accent)", "stroke-width": 2 }) : null,
      points.map((point, i) => s("a", { class: "point", href: point.href, "aria-label": point.label, "data-point": i, "data-front": String(point.front) },
        point.low === null ? null : s("line", { class: "whisker", x1: x(point.x), x2: x(point.x), y1: y(point.low), y2: y(point.high) }),
        s("circle", { class: "halo", cx: x(point.x), cy: y(point.y), r: 12 }),
        s("circle", { class: [point.front ? "on" : "off", point.chosen && "chosen"].filter(Boolean).join(" "), cx: x(point.x), cy: y(point.y), r: point.front ? 6 : 4 }),
        s("title", {}, point.label))));
    svg.addEventListener("keydown", (event) => move(svg, event));
    return svg;
  };
  return h("div", { class: "scatter" }, responsive(draw));
}

// Left and right go from point to point along the x axis.
function move(svg, event) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  const from = event.target.closest?.("a.point");
  if (!step || !from) return;
  const left = (each) => Number(each.querySelector("circle").getAttribute("cx"));
  const all = [...svg.querySelectorAll("a.point")].sort((a, b) => left(a) - left(b));
  all[Math.min(Math.max(all.indexOf(from) + step, 0), all.length - 1)].focus();
  event.preventDefault();
  event.stopPropagation();
}
