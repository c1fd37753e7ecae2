// Text with lines below it: the value of each direction for each token, drawn under the token.
import { h, s } from "../dom.js";
import { linear } from "../scale.js";

const STRIP = 54;
const GAP = 3;

// tokens: texts; from, to: the part; lines: [{color, values}] by token; limit: largest value drawn; marks: [{value, label}]
export function interlinear({ tokens, from, to, part, lines, limit, marks, onToken }) {
  const box = h("div", { class: `inter ${part}`, style: { "line-height": `${STRIP + 26}px`, "padding-bottom": "30px", "margin-top": "-14px" } });
  const spans = [];
  for (let i = from; i < to; i++) {
    const text = tokens[i];
    const shown = shownText(tokens, i);
    const span = h("span", { class: `tok in-${part}${isSpecial(text) ? " special" : ""}`, "data-token": i }, shown.visible);
    spans.push(span);
    box.append(span);
    if (shown.breaks) box.append("\n");
  }
  box.addEventListener("pointerover", (event) => {
    const span = event.target.closest?.(".tok");
    if (span) onToken(Number(span.dataset.token));
  });
  const draw = () => {
    for (const old of box.querySelectorAll("svg")) old.remove();
    const origin = box.getBoundingClientRect();
    if (!origin.width) return;
    const rows = rowsOf(spans, from, origin);
    const art = rows.map((row) => strip(row, origin.width, lines, limit, marks, box));
    box.append(...art);
  };
  const observer = new ResizeObserver(draw);
  observer.observe(box);
  return { element: box, spans, redraw: (newLines, newLimit, newMarks) => { lines = newLines; limit = newLimit; marks = newMarks; draw(); } };
}

export function isSpecial(text) {
  return /^<[|/]?[a-z_|]+[|]?>$/i.test(text);
}

// A line break is shown as a sign and breaks the line, but not the one after a role's name in a chat template.
function shownText(tokens, i) {
  const text = tokens[i];
  if (text === "") return { visible: "·", breaks: false };
  if (!text.includes("\n")) return { visible: text, breaks: false };
  return { visible: text.replaceAll("\n", "⏎"), breaks: text.endsWith("\n") && !followsRole(tokens, i) };
}

function followsRole(tokens, i) {
  for (let j = i - 1; j >= Math.max(0, i - 3); j--) {
    if (isSpecial(tokens[j])) return /start|header/i.test(tokens[j]);
    if (tokens[j].includes("\n")) return false;
  }
  return false;
}

// Tokens of one text line, with their centres.
function rowsOf(spans, from, origin) {
  const rows = [];
  spans.forEach((span, i) => {
    const rects = span.getClientRects();
    const rect = rects[rects.length - 1];
    if (!rect) return;
    const middle = rect.top + rect.height / 2 - origin.top;
    let row = rows[rows.length - 1];
    if (!row || Math.abs(row.middle - middle) > 12) rows.push((row = { middle, bottom: 0, points: [] }));
    row.bottom = Math.max(row.bottom, rect.bottom - origin.top);
    row.points.push({ token: from + i, x: rect.left + rect.width / 2 - origin.left, left: rect.left - origin.left, right: rect.right - origin.left });
  });
  return rows;
}

function strip(row, width, lines, limit, marks, box) {
  const left = Number.parseFloat(getComputedStyle(box).paddingLeft);
  const end = Math.max(...row.points.map((point) => point.right));
  const y = linear(-limit, limit, STRIP - 1, 1);
  return s("svg", { width, height: STRIP, "aria-hidden": "true", style: { top: `${row.bottom + GAP}px` } },
    marks.map((mark) => [
      s("line", { class: mark.value === 0 ? "zero" : "axis", x1: left, x2: end, y1: y(mark.value), y2: y(mark.value) }),
      s("text", { x: left - 6, y: y(mark.value) + 3.5, "text-anchor": "end", "font-size": 10 }, mark.label)]),
    lines.map((line) => s("path",
      { d: course(row.points, line.values, y, limit), fill: "none", stroke: line.color, "stroke-width": 1.8,
        "stroke-linejoin": "round", "stroke-linecap": "round" })),
    row.points.length === 1 ? lines.map((line) => dot(row.points[0], line, y, limit)) : null,
    row.points.flatMap((point) => lines.filter((line) => Math.abs(line.values[point.token]) > limit).map((line) => arrow(point.x, line.values[point.token] > 0, line.color))));
}

function clipped(value, limit) {
  return Math.min(Math.max(value, -limit), limit);
}

function course(points, values, y, limit) {
  return points.map((point, i) => `${i ? "L" : "M"}${point.x.toFixed(1)} ${y(clipped(values[point.token], limit)).toFixed(1)}`).join("");
}

function dot(point, line, y, limit) {
  return s("circle", { cx: point.x, cy: y(clipped(line.values[point.token], limit)), r: 2, fill: line.color });
}

// Mark of a value outside the drawn range.
function arrow(x, up, color) {
  const [tip, base] = up ? [0, 6] : [STRIP, STRIP - 6];
  return s("path", { d: `M${x - 4} ${base}L${x + 4} ${base}L${x} ${tip}Z`, fill: color });
}
