// The projections of a whole sequence in one chart; a click goes to a token.
import { responsive, s } from "../dom.js";
import { linear, ticks } from "../scale.js";

const HEIGHT = 150;
const FRAME = { left: 44, right: 8, top: 20, bottom: 34 };

// scaled() -> {lines: [{color, values}], limit: largest value drawn, marks: [{value, label}]}; go(token), hover(token, true)
export function sequenceChart(reading, scaled, go, hover) {
  let box = null;
  let width = 0;
  let x = null;
  const cross = s("line", { class: "cross", y1: FRAME.top, y2: HEIGHT - FRAME.bottom, visibility: "hidden" });
  const draw = () => {
    if (!box) return;
    const n = reading.tokens.length;
    x = linear(0, Math.max(n - 1, 1), FRAME.left + 4, width - FRAME.right);
    const svg = drawn(reading, scaled(), x, width, cross);
    const token = (event) => tokenAt(event.clientX - svg.getBoundingClientRect().left, width, n);
    svg.addEventListener("click", (event) => go(token(event)));
    svg.addEventListener("pointermove", (event) => hover(token(event), true));
    box.replaceChildren(svg);
  };
  const element = responsive((made, now) => {
    box = made;
    width = now;
    draw();
  });
  const mark = (token) => {
    if (!x) return;
    cross.setAttribute("x1", x(token));
    cross.setAttribute("x2", x(token));
    cross.setAttribute("visibility", "visible");
  };
  return { element, draw, mark };
}

function drawn(reading, { lines, limit, marks }, x, width, cross) {
  const n = reading.tokens.length;
  const y = linear(-limit, limit, HEIGHT - FRAME.bottom, FRAME.top);
  const edge = x(reading.n_prompt - 0.5);
  return s("svg", { width, height: HEIGHT, role: "img", "aria-label": "projections over all tokens", "data-chart": "sequence" },
    s("rect", {
      class: "prompt", x: FRAME.left, y: FRAME.top,
      width: Math.max(0, edge - FRAME.left), height: HEIGHT - FRAME.top - FRAME.bottom }),
    s("text", { x: FRAME.left + 4, y: 14 }, "prompt"),
    n > reading.n_prompt ? s("text", { x: Math.max(edge + 4, FRAME.left + 52), y: 14, class: "strong" }, "reply") : null,
    marks.map((mark) => [
      s("line", {
        class: mark.value === 0 ? "zero" : "axis",
        x1: FRAME.left, x2: width - FRAME.right, y1: y(mark.value), y2: y(mark.value) }),
      s("text", { x: FRAME.left - 6, y: y(mark.value) + 4, "text-anchor": "end" }, mark.label)]),
    ticks(0, n - 1, Math.max(2, Math.floor(width / 90))).filter((value) => Number.isInteger(value))
      .map((value) => s("text", { x: x(value), y: HEIGHT - 18, "text-anchor": "middle" }, String(value))),
    s("text", { x: width / 2, y: HEIGHT - 4, "text-anchor": "middle" }, "token position"),
    lines.map((line) => s("path", {
      d: course(line.values, x, y, limit), fill: "none", stroke: line.color, "stroke-width": 1.5, "stroke-linejoin": "round" })),
    cross);
}

function course(values, x, y, limit) {
  const clipped = (value) => Math.min(Math.max(value, -limit), limit);
  return values.map((value, i) => `${i ? "L" : "M"}${x(i).toFixed(1)} ${y(clipped(value)).toFixed(1)}`).join("");
}

function tokenAt(offset, width, n) {
  const share = (offset - FRAME.left - 4) / (width - FRAME.right - FRAME.left - 4);
  return Math.min(Math.max(Math.round(share * (n - 1)), 0), n - 1);
}
