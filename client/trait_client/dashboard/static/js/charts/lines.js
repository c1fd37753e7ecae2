// Lines with intervals over a numeric axis; hovering shows the values.
import { h, responsive, s } from "../dom.js";
import { short } from "../format.js";
import { extent, linear, ticks } from "../scale.js";

// series: [{name, color, points: [{x, y, low, high}], dots, dashed}]; band: {name, points: [{x, low, high}]}; within: values that the
// y axis reaches too, so that adjacent charts share it; marked: an x with a dashed line
export function lineChart({
  series, band = null, xLabel, yLabel, height = 240, yDomain = null, within = [], xTicks = null, whiskers = false,
  integers = false, label = "", marked = null, legend = true,
}) {
  const draw = (box, width) => box.replaceChildren(...plot(width));
  const plot = (width) => {
    const frame = { left: 50, right: 12, top: 22, bottom: 42 };
    const xs = series.flatMap((each) => each.points.map((point) => point.x));
    const ys = [...within, ...series.flatMap((each) => each.points.flatMap((point) => [point.y, point.low, point.high]))];
    if (band) ys.push(...band.points.flatMap((point) => [point.low, point.high]));
    let [x0, x1] = extent(xs);
    if (x0 === x1) [x0, x1] = [x0 - 1, x1 + 1];
    let [y0, y1] = yDomain ?? extent(ys);
    if (y0 === y1) [y0, y1] = [y0 - 1, y1 + 1];
    if (!yDomain) [y0, y1] = [y0 - (y1 - y0) * 0.05, y1 + (y1 - y0) * 0.05];
    const x = linear(x0, x1, frame.left + 6, width - frame.right - 6);
    const y = linear(y0, y1, height - frame.bottom, frame.top);
    const marks = xTicks && xTicks.length <= width / 34 ? xTicks : ticks(x0, x1, Math.max(2, Math.floor(width / 70))).filter((value) => !integers || Number.isInteger(value));
    const cross = s("line", { class: "cross", y1: frame.top, y2: height - frame.bottom, visibility: "hidden" });
    const tip = h("div", { class: "tip", hidden: true });
    const svg = s("svg", { width, height, role: "img", "aria-label": label || `${yLabel} by ${xLabel}` },
      ticks(y0, y1, 5).map((value) => [
        s("line", { class: value === 0 ? "zero" : "axis", x1: frame.left, x2: width - frame.right, y1: y(value), y2: y(value) }),
        s("text", { x: frame.left - 7, y: y(value) + 4, "text-anchor": "end" }, short(value, 4))]),
      marks.map((value) => s("text", { x: x(value), y: height - frame.bottom + 17, "text-anchor": "middle" }, short(value, 4))),
      s("text", { x: 0, y: 11 }, yLabel),
      s("text", { x: (frame.left + width - frame.right) / 2, y: height - 6, "text-anchor": "middle" }, xLabel),
      marked === null ? null : s("line", { class: "cross", x1: x(marked), x2: x(marked), y1: frame.top, y2: height - frame.bottom }),
      band ? s("path", { d: area(band.points, x, y), fill: "var(--faint)", "fill-opacity": 0.22 }) : null,
      series.map((each, i) => [
        whiskers ? bars(each, i, series.length, x, y) : shade(each, x, y),
        each.scatter ? null : s("path",
          { d: path(each.points, x, y), fill: "none", stroke: each.color, "stroke-width": 2,
            "stroke-dasharray": each.dashed ? "5 4" : null, "stroke-linejoin": "round" }),
        each.dots === false ? null : each.points.filter((point) => point.y !== null).map((point) => s("circle", { cx: x(point.x), cy: y(point.y), r: point.large ? 5.5 : 3, fill: each.color }))]),
      cross);
    const places = [...new Set(xs)].sort((a, b) => a - b);
    const hover = (event) => {
      const at = event.clientX - svg.getBoundingClientRect().left;
      const nearest = places.reduce((best, value) => (Math.abs(x(value) - at) < Math.abs(x(best) - at) ? value : best), places[0]);
      cross.setAttribute("x1", x(nearest));
      cross.setAttribute("x2", x(nearest));
      cross.setAttribute("visibility", "visible");
      tip.replaceChildren(h("b", {}, `${xLabel.split(",")[0]} ${short(nearest, 4)}`), ...series.map((each) => {
        const point = each.points.find((candidate) => candidate.x === nearest);
        if (!point || point.y === null) return null;
        const range = point.low !== null && point.low !== undefined ? ` [${short(point.low)}, ${short(point.high)}]` : "";
        return h("div", { class: "key" }, h("i", { style: { background: each.color } }), `${each.name} ${short(point.y)}${range}`);
      }).filter(Boolean).slice(0, 12).map((row) => h("div", {}, row)));
      tip.hidden = false;
      const room = width - tip.offsetWidth;
      tip.style.setProperty("left", `${Math.max(0, Math.min(room, x(nearest) + 12 > room ? x(nearest) - tip.offsetWidth - 12 : x(nearest) + 12))}px`);
      tip.style.setProperty("top", `${frame.top}px`);
    };
    svg.addEventListener("pointermove", hover);
    svg.addEventListener("pointerleave", () => {
      tip.hidden = true;
      cross.setAttribute("visibility", "hidden");
    });
    return [svg, tip];
  };
  return h("div", {}, responsive(draw),
    legend && (series.length > 1 || band) ? h("div", { class: "legend" },
      series.map((each) => legendKey(each.name, each.color, each.dashed)),
      band ? legendKey(band.name, "var(--faint)") : null) : null);
}

export function legendKey(name, color, dashed = false) {
  return h("span", { class: "key" },
    h("i",
      { style: { background: dashed ? `repeating-linear-gradient(90deg, ${color} 0 0.3em, transparent 0.3em 0.5em)` : color } }),
    name);
}

// Intervals as upright lines, a little apart where series share their places.
function bars(each, i, n, x, y) {
  const aside = (i - (n - 1) / 2) * Math.min(5, 24 / n);
  return each.points.filter((point) => point.low !== null && point.low !== undefined && point.low !== point.high).map((point) => s("line",
    { x1: x(point.x) + aside, x2: x(point.x) + aside, y1: y(point.low), y2: y(point.high), stroke: each.color, "stroke-width": 2,
      "stroke-opacity": 0.45 }));
}

function shade(each, x, y) {
  const known = each.points.some((point) => point.low !== null && point.low !== undefined);
  return known ? s("path", { d: area(each.points, x, y), fill: each.color, "fill-opacity": 0.14 }) : null;
}

function path(points, x, y) {
  let started = false;
  return points.map((point) => {
    if (point.y === null || point.y === undefined) {
      started = false;
      return "";
    }
    const step = `${started ? "L" : "M"}${x(point.x).toFixed(1)} ${y(point.y).toFixed(1)}`;
    started = true;
    return step;
  }).join("");
}

function area(points, x, y) {
  const known = points.filter((point) => point.low !== null && point.low !== undefined);
  if (!known.length) return "";
  const there = known.map((point) => `${x(point.x).toFixed(1)} ${y(point.high).toFixed(1)}`);
  const back = known.toReversed().map((point) => `${x(point.x).toFixed(1)} ${y(point.low).toFixed(1)}`);
  return `M${there.join("L")}L${back.join("L")}Z`;
}
