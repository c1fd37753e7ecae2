// The condition of steered terms: its controls, and its text, which the address, the command line and experiments share.
import { field, h, select } from "./dom.js";

const TEXT = /^([^@<>\s,]+)(?:@(\d+))?([<>])([^\s,]+)((?:,\s*(?:separation|latch|prompt|uncentred))*)$/;
const HOLDS = { token: "at each position by itself", latch: "from the first such position on", prompt: "by the mean over the prompt, for the reply" };

// A gate as a request holds it; null for text that is none.
export function readGate(text) {
  const found = TEXT.exec(text ?? "");
  if (!found || !Number.isFinite(Number(found[4]))) return null;
  const [, vector, layer, side, bound, more] = found;
  const words = more.split(",").map((word) => word.trim());
  return { vector, ...(layer === undefined ? {} : { layer: Number(layer) }), [side === ">" ? "above" : "below"]: Number(bound),
    unit: words.includes("separation") ? "separation" : "raw", hold: words.find((word) => word in HOLDS) ?? "token",
    centred: !words.includes("uncentred") };
}

export function gateText(gate) {
  const side = gate.above === undefined || gate.above === null ? `<${gate.below}` : `>${gate.above}`;
  const layer = gate.layer === undefined || gate.layer === null ? "" : `@${gate.layer}`;
  return [`${gate.vector}${layer}${side}`, gate.unit === "separation" ? "separation" : null, gate.hold === "token" ? null : gate.hold,
    gate.centred === false ? "uncentred" : null].filter(Boolean).join(", ");
}

// Controls of one gate; `changed` gets it, or null, after each change.
export function gateControls(vectors, holds, gate, changed) {
  const state = { vector: gate?.vector ?? "", layer: gate?.layer ?? "", side: gate && gate.below !== undefined ? "below" : "above",
    bound: gate?.above ?? gate?.below ?? 0, unit: gate?.unit ?? "raw", hold: gate?.hold ?? "token", centred: gate?.centred ?? true };
  const more = h("span", { class: "row" });
  const tell = () => changed(state.vector === "" ? null
    : { vector: state.vector, ...(state.layer === "" ? {} : { layer: Number(state.layer) }), [state.side]: state.bound, unit: state.unit,
      hold: state.hold, centred: state.centred });
  const set = (name) => (value) => { state[name] = value; tell(); };
  const draw = () => {
    const vector = vectors.find((each) => each.name === state.vector);
    if (!vector) return more.replaceChildren();
    const layers = Object.keys(vector.metadata.layers).map(Number).sort((a, b) => a - b);
    more.replaceChildren(
      select([["", `layer ${vector.metadata.chosen_layer} (chosen)`], ...layers.map((each) => [each, `layer ${each}`])], state.layer,
        set("layer"), { "aria-label": "layer of the condition" }),
      select([["above", "is above"], ["below", "is below"]], state.side, set("side"), { "aria-label": "side of the bound" }),
      h("input", { type: "number", step: 0.1, value: state.bound, "aria-label": "bound of the condition",
        onchange: (event) => { state.bound = Number(event.target.value) || 0; event.target.value = state.bound; tell(); } }),
      select([["raw", "residual units"], ["separation", "separations"]], state.unit, set("unit"), { "aria-label": "unit of the bound" }),
      select(holds.map((each) => [each, HOLDS[each] ?? each]), state.hold, set("hold"), { "aria-label": "how the condition holds" }));
  };
  draw();
  return h("div", { class: "row under", "data-gate": true },
    field("only where", select([["", "always"], ...vectors.map((each) => [each.name, `the projection on ${each.name}`])], state.vector,
      (value) => { state.vector = value; state.layer = ""; draw(); tell(); }, { "aria-label": "only where: condition of steering" })), more);
}
