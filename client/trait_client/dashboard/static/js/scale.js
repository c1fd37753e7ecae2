// Linear scales, round tick marks, colours.
export function linear(d0, d1, r0, r1) {
  const slope = d1 === d0 ? 0 : (r1 - r0) / (d1 - d0);
  return (value) => r0 + (value - d0) * slope;
}

export function ticks(low, high, wanted = 5) {
  if (!(high > low)) return [low];
  const rough = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((size) => size >= rough);
  const marks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) marks.push(Number((i * step).toPrecision(12)));
  return marks;
}

export function extent(values) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (value === null || value === undefined || Number.isNaN(value)) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return low > high ? [0, 1] : [low, high];
}

// The q-th quantile of a sorted copy; q in 0..1.
export function quantile(values, q) {
  const sorted = Float64Array.from(values).sort();
  return sorted.length ? sorted[Math.round(q * (sorted.length - 1))] : 0;
}

export function hue(index) {
  return `var(--c${index % 8})`;
}

// -1..1 on the diverging ramp.
export function diverging(value) {
  const share = Math.round(Math.min(Math.abs(value), 1) * 100);
  return `color-mix(in oklab, var(${value < 0 ? "--neg" : "--pos"}) ${share}%, var(--mid))`;
}

// Shares of a ramp from which on the other ink contrasts more: white in the light theme, black in the dark one. With these the
// contrast is at least 4.5 everywhere.
const SWITCH = { pos: { deep: 0.94, bright: 0.68 }, neg: { deep: 0.86, bright: 0.71 }, accent: { deep: 0.87, bright: 0.61 } };

// Class names for text on a colour of a ramp; style.css has the inks of both themes.
export function inks(value, ramp = value < 0 ? "neg" : "pos") {
  const share = Math.round(Math.min(Math.abs(value), 1) * 100) / 100;
  const { deep, bright } = SWITCH[ramp];
  return ["inked", share >= deep && "deep", share >= bright && "bright"].filter(Boolean).join(" ");
}

// 0..1 on the sequential ramp.
export function sequential(value) {
  return `color-mix(in oklab, var(--accent) ${Math.round(Math.min(Math.max(value, 0), 1) * 100)}%, var(--mid))`;
}
