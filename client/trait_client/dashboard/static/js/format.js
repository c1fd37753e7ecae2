// Numbers and times as people read them.
export function fixed(value, digits = 1) {
  return value === null || value === undefined ? "–" : value.toFixed(digits).replace("-", "−");
}

export function signed(value, digits = 1) {
  if (value === null || value === undefined) return "–";
  const text = fixed(value, digits);
  if (Number(value.toFixed(digits)) === 0) return text.replace("−", "");
  return (value > 0 ? "+" : "") + text;
}

export function short(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  const text = size !== 0 && (size >= 1e5 || size < 1e-3) ? value.toExponential(2) : String(Number(value.toPrecision(digits)));
  return text.replace("-", "−");
}

export function interval(low, high, digits = 1) {
  return low === null || low === undefined ? "no interval" : `[${fixed(low, digits)}, ${fixed(high, digits)}]`;
}

export function whole(value) {
  return value === null || value === undefined ? "–" : Number(value).toLocaleString("en-GB");
}

export function plural(n, one, many = one + "s") {
  return `${whole(n)} ${n === 1 ? one : many}`;
}

export function when(stamp) {
  if (!stamp) return "–";
  const date = new Date(stamp.replace(" ", "T") + "Z");
  const pad = (n) => String(n).padStart(2, "0");
  return `${date.getFullYear()}-${pad(date.getMonth() + 1)}-${pad(date.getDate())} ${pad(date.getHours())}:${pad(date.getMinutes())}`;
}

export function span(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${fixed(seconds / 3600, 1)} h`;
}

export function elapsed(from, to) {
  if (!from) return "–";
  const at = (stamp) => new Date(stamp.replace(" ", "T") + "Z").getTime();
  return span(((to ? at(to) : Date.now()) - at(from)) / 1000);
}

// Units of the measures: lexical and judge scores are points of 0..100, projections residual units.
export function unitOf(measure) {
  return measure === "projection" ? "residual units" : "points";
}

export function measureName(measure) {
  return { lexical: "lexical metric", projection: "projection" }[measure] ?? measure;
}

export function coefficientUnit(unit) {
  return { dose: "dose: tenths of the residual norm", separation: "separations", raw: "residual units" }[unit] ?? unit ?? "";
}
