// Activation patching: what each position and layer of the source restores in the target, as a heat map.
import { get } from "../api.js";
import { moveInMap, squareMap } from "../charts/squares.js";
import { emptyState, field, h, select } from "../dom.js";
import { plural, signed } from "../format.js";
import { patch } from "../url.js";

export async function patchingView(params) {
  const all = await get("patchings");
  if (!all.length) return { element: h("div", {}, h("h1", {}, "Patching"), nothing()) };
  const chosen = all.find((each) => each.patching_id === params.id) ?? all[0];
  const { patching, cells } = await get("patching", { id: chosen.patching_id });
  const points = [...new Set(cells.map((cell) => cell.hook_point))];
  const at = points.includes(params.at) ? params.at : points[0];
  const [first, second] = patching.answer_tokens.map((token) => JSON.stringify(token));
  const element = h("div", {},
    h("div", { class: "head" }, h("h1", {}, "Patching"),
      h("p", { class: "muted" }, `${patching.model}: the target with streams of the source in it, ${plural(cells.length, "cell")}`)),
    h("section", { class: "card patching" },
      h("div", { class: "row" },
        field("patching", select(all.map((each) => [each.patching_id, `${each.name}, ${each.model}`]), chosen.patching_id,
          (id) => patch({ id, at: null }))),
        field("hook point", select(points, at, (point) => patch({ at: point })))),
      side("source", patching), side("target", patching),
      h("p", { class: "muted small" }, `Restored share of log p(${first}) − log p(${second}): 0 is the target's own answer, 1 the source's. `,
        "Layers run down, the target's tokens across; whole parts come last."),
      map(patching, cells.filter((cell) => cell.hook_point === at))));
  return { element, keys: (event) => moveInMap(element, event) };
}

function side(name, patching) {
  const left = new Set(patching[`${name}_left_out`]);
  return h("p", {}, h("b", {}, `${name} `), h("span", { class: "num muted" }, `${signed(patching[`${name}_difference`], 2)} nats `),
    patching[`${name}_tokens`].map((token, i) => (left.has(i) ? h("s", { title: "no partner in the other prompt" }, token) : token)));
}

function map(patching, cells) {
  const places = new Map();
  for (const cell of cells) {
    const key = `${String(cell.n > 1).padEnd(5)}${String(cell.position).padStart(6, "0")} ${cell.part} ${cell.n}`;
    if (!places.has(key)) places.set(key, cell);
  }
  const columns = [...places.keys()].sort().map((key, index) => ({ key, index, ...named(patching, places.get(key)) }));
  const index = new Map(columns.map((column) => [column.place, column.index]));
  const layers = [...new Set(cells.map((cell) => cell.layer))].sort((a, b) => a - b);
  const rows = layers.map((layer) => ({ label: `layer ${layer}`, cells: columns.map(() => undefined) }));
  const row = new Map(layers.map((layer, i) => [layer, rows[i]]));
  for (const cell of cells) row.get(cell.layer).cells[index.get(place(cell))] = [cell.restored, cell];
  return squareMap({
    columns, rows, limit: 1, label: "Restored share by layer and token",
    say: (line, column, [value]) => `${line.label}, ${column.title}: ${signed(value, 2)} restored`,
    lines: (line, column, [value, cell]) => [h("div", {}, column.title),
      h("div", { class: "num" }, `${signed(value, 3)} restored, difference ${signed(cell.difference, 2)} nats`),
      h("div", { class: "num muted" }, `from position ${cell.source_positions.join(", ")} of the source`)],
  });
}

function place(cell) {
  return `${cell.part} ${cell.position} ${cell.n}`;
}

function named(patching, cell) {
  const token = JSON.stringify(patching.target_tokens[cell.position]);
  const whole = cell.n > 1;
  return { place: place(cell), label: whole ? `${cell.part} (${cell.n})` : patching.target_tokens[cell.position],
    title: whole ? `${cell.n} positions of ${cell.part} together` : `position ${cell.position}, ${token}` };
}

function nothing() {
  return emptyState(h("p", {}, "No prompt has been patched yet. This asks which position and layer carry the answer:"),
    h("code", {}, "trait-client patch --raw --source \"The capital of France is\" --target \"The capital of Italy is\" " +
      "--span France Italy --answers \" Paris\" \" Rome\" --db results.duckdb"));
}
