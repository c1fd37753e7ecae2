// Two groups of values in equal bins over one axis.
import { h, responsive, s } from "../dom.js";
import { fixed, signed } from "../format.js";
import { extent, linear, ticks } from "../scale.js";

const BINS = 24;
const FRAME = { left: 44, right: 12, top: 22, bottom: 42 };

// groups: [{name, color, values}]; within: values that the axis reaches too; marked: an x with a dashed line
export function histogram({ groups, xLabel, yLabel, within = [], marked = null, height = 230, label = "" }) {
  const [low, high] = extent([...within, ...groups.flatMap((group) => group.values)]);
  const counted = groups.map((group) => ({ ...group, bins: counts(group.values, low, high) }));
  const most = Math.max(1, ...counted.flatMap((group) => group.bins));
  const draw = (box, width) => {
    const x = linear(low, high, FRAME.left, width - FRAME.right);
    const y = linear(0, most, height - FRAME.bottom, FRAME.top);
    box.replaceChildren(s("svg", { width, height, role: "img", "aria-label": label || `${yLabel} by ${xLabel}` },
      ticks(0, most, 4).filter(Number.isInteger).map((value) => [
        s("line", { class: value === 0 ? "zero" : "axis", x1: FRAME.left, x2: width - FRAME.right, y1: y(value), y2: y(value) }),
        s("text", { x: FRAME.left - 7, y: y(value) + 4, "text-anchor": "end" }, String(value))]),
      ticks(low, high, Math.max(2, Math.floor(width / 70))).map((value) =>
        s("text", { x: x(value), y: height - FRAME.bottom + 17, "text-anchor": "middle" }, signed(value, Number.isInteger(value) ? 0 : 1))),
      s("text", { x: 0, y: 11 }, yLabel),
      s("text", { x: (FRAME.left + width - FRAME.right) / 2, y: height - 6, "text-anchor": "middle" }, xLabel),
      counted.map((group) => bars(group, low, high, x, y)),
      marked === null ? null : s("line", { class: "cross", x1: x(marked), x2: x(marked), y1: FRAME.top, y2: height - FRAME.bottom })));
  };
  return h("div", {}, responsive(draw));
}

function bars({ name, color, bins }, low, high, x, y) {
  const edge = (i) => low + ((high - low) * i) / BINS;
  return bins.map((n, i) => (n === 0 ? null : s("rect", {
    x: x(edge(i)), width: x(edge(i + 1)) - x(edge(i)), y: y(n), height: y(0) - y(n), fill: color, "fill-opacity": 0.6,
  }, s("title", {}, `${name}: ${n} from ${fixed(edge(i), 2)} to ${fixed(edge(i + 1), 2)}`))));
}

// The last bin holds the largest value too.
function counts(values, low, high) {
  const bins = new Array(BINS).fill(0);
  for (const value of values) bins[Math.min(BINS - 1, Math.floor(((value - low) / (high - low)) * BINS))] += 1;
  return bins;
}
