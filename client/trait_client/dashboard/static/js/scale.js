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

// 0..1 on the sequential ramp.
export function sequential(value) {
  return `color-mix(in oklab, var(--accent) ${Math.round(Math.min(Math.max(value, 0), 1) * 100)}%, var(--mid))`;
}
