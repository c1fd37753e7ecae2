// One prompt and its reply, token by token.
import { get } from "../api.js";
import { failure, h } from "../dom.js";
import { chosenSet, filterBar, noSets, selectionOf } from "../filters.js";
import { ReadingCard } from "../reading.js";
import { patch } from "../url.js";

export async function dynamicsView(params) {
  const sets = await get("sets", { set: params.set });
  if (!sets.length) return { element: h("div", {}, h("h1", {}, "Trait dynamics"), noSets()) };
  const set = chosenSet(sets, params);
  const change = (changes, quiet) => {
    typing = quiet === true;
    patch({ id: null, t: null, ...changes });
  };
  const head = h("div", {},
    h("div", { class: "head" }, h("h1", {}, "Trait dynamics"),
      h("p", { class: "muted" }, "The projection of every token on each trait's direction, below the text.")),
    h("section", { class: "card" }, filterBar(sets, set, params, change)));
  let reading;
  try {
    reading = await get("reading", { ...selectionOf({ ...params, set: set.name }), id: params.id });
  } catch (error) {
    head.append(failure(error));
    return { element: head, shown: () => keepTyping(head) };
  }
  const body = new ReadingCard(reading, set.directions, params);
  head.append(body.element);
  const step = (id) => id && patch({ id, t: null });
  return {
    element: head,
    shown: () => keepTyping(head),
    keys: (event) => {
      if (["n", "j"].includes(event.key)) return step(reading.next), true;
      if (["p", "k"].includes(event.key)) return step(reading.previous), true;
      return body.keys(event);
    },
  };
}

// The view is redrawn while the reader types in the search box; keep the cursor there.
let typing = false;

function keepTyping(root) {
  const box = root.querySelector("[data-search]");
  if (typing && box) {
    box.focus();
    box.setSelectionRange(box.value.length, box.value.length);
  }
  typing = false;
}
