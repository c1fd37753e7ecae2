// A text coloured token by token with the difference of two models.
import { h } from "../dom.js";
import { signed } from "../format.js";
import { diverging, inks } from "../scale.js";
import { isSpecial } from "./interlinear.js";

const STRONG = 0.62;

// text: {tokens, difference}; from, to: the tokens shown; spans: [{start, stop}] that are underlined; limit: full colour
export function differenceText({ text, name, from, to, spans, limit, onToken }) {
  const box = h("div", { class: "text difference" });
  for (let i = from; i < to; i++) {
    const share = text.difference[i] / limit;
    const kind = ["tok", inks(share), isSpecial(text.tokens[i]) && "special", Math.abs(share) > STRONG && "strong",
      spans.some((span) => span.start <= i && i < span.stop) && "in-span"];
    box.append(h("span", {
      class: kind.filter(Boolean).join(" "), "data-token": i, "data-text": name, title: signed(text.difference[i], 2),
      style: { "background-color": diverging(share) } }, text.tokens[i] === "" ? "·" : text.tokens[i]));
  }
  box.addEventListener("pointerover", (event) => {
    const span = event.target.closest?.(".tok");
    if (span) onToken(span);
  });
  return box;
}
