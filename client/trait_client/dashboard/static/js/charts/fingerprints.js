// Prompts, or groups of them, by traits: one square per mean projection.
import { h } from "../dom.js";
import { fixed, signed } from "../format.js";
import { squareMap } from "./squares.js";

// As `squareMap`; a cell is [separations, projection, cosine, n], and `tokens` names what n counts.
export function fingerprintMap({ tokens, ...map }) {
  return squareMap({
    ...map,
    say: (row, column, [value]) => `${row.label}, ${column.label}: ${signed(value, 2)} separations`,
    lines: (row, column, [value, projection, cosine, n]) => [h("div", {}, column.title),
      h("div", { class: "num" }, `${signed(value, 3)} separations, ${signed(projection, 2)} residual units`),
      h("div", { class: "num muted" }, cosine === null ? "no cosine stored" : `cosine ${fixed(cosine, 3)}`, `, mean of ${n} ${tokens}`)],
  });
}
