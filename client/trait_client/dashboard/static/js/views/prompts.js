// A prompt set in pages of fifty whole texts, or as a heat map of its fingerprints, with filters by outcome, metadata and text.
import { get } from "../api.js";
import { failure, h, responsive, s } from "../dom.js";
import { chosenSet, filterBar, labelOf, noSets, outcomeTag, selectionOf } from "../filters.js";
import { fingerprintCard } from "../fingerprint_card.js";
import { fixed, plural, signed, whole } from "../format.js";
import { extent, hue, linear, ticks } from "../scale.js";
import { here, link, patch, quietly } from "../url.js";

export async function promptsView(params) {
  const sets = await get("sets", { set: params.set });
  if (!sets.length) return { element: h("div", {}, h("h1", {}, "Prompts"), noSets()) };
  const set = chosenSet(sets, params);
  const list = h("div", { class: "prompts" });
  let newest = 0;
  let rows = { total: 0, size: 50 };
  const fillList = async () => {
    const mine = ++newest;
    const now = here().params;
    const page = Number(now.page ?? 0);
    const began = performance.now();
    try {
      const answer = await get("readings", { ...selectionOf({ ...now, set: set.name }), page });
      if (mine !== newest) return;
      rows = answer;
      list.replaceChildren(...content(answer, set, now, turn));
    } catch (error) {
      if (mine === newest) list.replaceChildren(failure(error));
    }
    list.dataset.milliseconds = String(Math.round(performance.now() - began));
    list.dataset.shown = String(mine);
  };
  const turn = async (page) => {
    quietly({ page: page || null, at: null });
    await fillList();
    list.scrollIntoView({ block: "start" });
  };
  const bar = h("div", {});
  const change = (changes, quiet = false) => {
    if ("set" in changes || "show" in changes) return patch(changes);
    quietly(changes);
    if (!quiet) redraw(bar, filterBar(sets, set, here().params, change));
    return fill();
  };
  const map = params.show === "fingerprints" ? fingerprintCard(set, change) : null;
  const fill = map ? map.fill : fillList;
  bar.append(filterBar(sets, set, params, change));
  await fill();
  const element = h("div", {},
    h("div", { class: "head" }, h("h1", {}, "Prompts"),
      h("p", { class: "muted" },
        `${plural(set.n, "prompt")}, ${whole(set.prompt_tokens)} prompt and ${whole(set.tokens)} reply tokens, ${set.model}`),
      h("span", { class: "row", role: "group", "aria-label": "show" }, [[null, "texts"], ["fingerprints", "fingerprints"]].map(([show, name]) =>
        h("button", { "aria-pressed": String((params.show ?? null) === show), "data-show": name,
          onclick: () => change({ show, page: null }) }, name)))),
    h("section", { class: "card" }, bar), map ? map.element : [byOutcome(set), h("section", { class: "card" }, list)]);
  const last = map ? map.last : () => Math.max(0, Math.ceil(rows.total / rows.size) - 1);
  return {
    element,
    keys: (event) => {
      const page = Number(here().params.page ?? 0);
      if (map) {
        if (event.key === "n") return page < last() && change({ page: page + 1 }), true;
        if (event.key === "p") return page > 0 && change({ page: page - 1 || null }), true;
        return map.keys(event);
      }
      if (event.key === "n" || event.key === "ArrowRight") return page < last() && turn(page + 1), true;
      if (event.key === "p" || event.key === "ArrowLeft") return page > 0 && turn(page - 1), true;
      return moveInItems(list, event);
    },
  };
}

function content(answer, set, params, turn) {
  const { total, page, size } = answer;
  const pages = Math.max(1, Math.ceil(total / size));
  const pager = (place) => h("nav", { class: "pager", "aria-label": `pages, ${place}` },
    h("button", { disabled: page <= 0, onclick: () => turn(page - 1) }, "previous"),
    h("button", { disabled: page >= pages - 1, onclick: () => turn(page + 1) }, "next"),
    h("span", { class: "muted num" },
      total ? `${whole(page * size + 1)}–${whole(Math.min(total, (page + 1) * size))} of ${whole(total)}, page ${page + 1} of ${pages}` : "0 prompts"));
  if (!total) return [pager("above"), h("p", { class: "empty" }, "No prompt of this set fits the filter.")];
  return [pager("above"), ...answer.rows.map((row) => item(row, set, params)), pages > 1 ? pager("below") : null].filter(Boolean);
}

function item(row, set, params) {
  const turns = row.messages ?? [{ role: "text", content: row.text ?? "" }];
  return h("article", { class: "item", tabindex: -1, "data-reading": row.reading_id },
    h("div", { class: "row" }, h("a",
      { class: "open", href: link("dynamics", { ...onlySelection(params), set: set.name, id: row.reading_id }) },
      row.prompt_id), outcomeTag(row.outcome),
      h("span", { class: "muted small num" },
        `${row.n_prompt} prompt + ${row.n_response} reply tokens${row.given ? ", reply given" : ""}${row.finish_reason === "length" ? ", stopped at the token limit" : ""}`)),
    notes(row.metadata),
    h("div", { class: "sides" },
      h("section", { class: "side" },
        turns.map((each) => h("div", {}, h("h3", {}, each.role === "user" ? "prompt" : each.role),
          h("div", { class: "text" }, marked(each.content, params.text))))),
      row.response === null ? null : h("section", { class: "side" }, h("h3", {}, "reply"),
        h("div", { class: "text" }, marked(row.response, params.text)))),
    h("div", { class: "bars" }, set.directions.map((each, i) => bar(each, row.means[each.key], i, set.directions))));
}

function onlySelection({ outcome, text, order, desc, where }) {
  return { outcome, text, order, desc, where };
}

// The filter bar anew, with the keyboard's focus where it was.
function redraw(bar, made) {
  const focused = bar.contains(document.activeElement) ? document.activeElement.dataset.field : null;
  bar.replaceChildren(made);
  if (focused) bar.querySelector(`[data-field="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}

// The further fields of a prompt.
function notes(metadata) {
  const known = Object.entries(metadata ?? {});
  if (!known.length) return null;
  return h("div", { class: "muted small notes" }, known.map(([name, value]) =>
    h("span", {}, `${name}: `, h("b", {}, typeof value === "string" ? value : JSON.stringify(value)))));
}

// The text with matches of the search marked.
function marked(text, wanted) {
  if (!wanted) return text;
  const parts = [];
  const [low, key] = [text.toLowerCase(), wanted.toLowerCase()];
  let from = 0;
  for (let at = low.indexOf(key); at >= 0 && parts.length < 400; at = low.indexOf(key, from)) {
    parts.push(text.slice(from, at), h("mark", {}, text.slice(at, at + key.length)));
    from = at + key.length;
  }
  parts.push(text.slice(from));
  return parts;
}

// The reply's mean on the vector's scale, -1.5..1.5.
function bar(direction, mean, index, directions) {
  if (mean === null || mean === undefined) return null;
  const value = mean / (Math.abs(direction.half_separation) || 1);
  const end = Math.min(Math.max(value, -1.5), 1.5) * 20;
  return h("span", { class: "bar", title: `mean projection of the reply: ${fixed(mean, 2)} residual units` }, labelOf(direction, directions),
    s("svg", { width: 62, height: 10, "aria-hidden": "true" }, s("line", { class: "axis", x1: 0, x2: 62, y1: 5, y2: 5 }),
      s("rect",
        { x: Math.min(31, 31 + end), width: Math.max(1, Math.abs(end)), y: 2, height: 6, rx: 1,
          fill: hue(index) }), s("line", { class: "zero", x1: 31, x2: 31, y1: 0, y2: 10 })),
    h("span", { class: "num" }, signed(value, 2)));
}

// Mean of the replies of each outcome, with 95 % intervals of the mean.
function byOutcome(set) {
  const outcomes = set.outcomes.filter((each) => each.outcome !== null).map((each) => each.outcome);
  if (outcomes.length < 2) return null;
  const tone = (outcome) => ({ success: "var(--good)", failure: "var(--bad)" })[outcome] ?? hue(outcomes.indexOf(outcome));
  const rows = set.directions.map((direction) => ({ direction, groups: (direction.outcomes ?? []).filter((each) => each.outcome !== null && each.n).map((each) => {
    const scale = Math.abs(direction.half_separation) || 1;
    const half = each.n > 1 && each.sd !== null ? (1.96 * each.sd) / Math.sqrt(each.n) : 0;
    return { outcome: each.outcome, n: each.n, mean: each.mean / scale, low: (each.mean - half) / scale, high: (each.mean + half) / scale };
  }) }));
  const [low, high] = extent([0, ...rows.flatMap((row) => row.groups.flatMap((each) => [each.low, each.high]))]);
  const scaleOf = (width) => linear(low - 0.04, high + 0.04, 8, width - 8);
  const lane = (row) => responsive((box, width) => {
    const x = scaleOf(width);
    const step = 14;
    const height = row.groups.length * step + 8;
    box.replaceChildren(s("svg", { width, height, role: "img",
      "aria-label": row.groups.map((each) => `${each.outcome} ${signed(each.mean, 2)}`).join(", ") },
      s("line", { class: "zero", x1: x(0), x2: x(0), y1: 0, y2: height }),
      row.groups.map((each, i) => [s("line",
          { x1: x(each.low), x2: x(each.high), y1: 11 + i * step, y2: 11 + i * step, stroke: tone(each.outcome),
            "stroke-width": 3, "stroke-linecap": "round", "stroke-opacity": 0.55 }),
        s("circle", { cx: x(each.mean), cy: 11 + i * step, r: 4.5, fill: tone(each.outcome) })])));
  }, "lane");
  return h("section", { class: "card outcomes" }, h("h2", {}, "By outcome"),
    h("p", { class: "muted small" },
      "Mean projection of the replies with its 95 % interval (normal), on each vector's scale: ±1 is the average example of either side."),
    h("div", { class: "legend" }, outcomes.map((outcome) => h("span", { class: "key" }, h("i", { style: { background: tone(outcome) } }), outcome))),
    h("div", { class: "forest" }, rows.map((row) => h("div", { class: "frow" }, h("div", { class: "what" },
      h("b", {}, labelOf(row.direction, set.directions)),
      h("span", { class: "muted small" }, `${row.direction.method}, layer ${row.direction.layer}`)), lane(row),
      h("div", { class: "value num small" }, row.groups.map((each) => h("div", { class: "nowrap" }, `${each.outcome} ${signed(each.mean, 2)}`))))),
    responsive((box, width) => {
      const x = scaleOf(width);
      box.replaceChildren(s("svg", { width, height: 38, "aria-hidden": "true" }, s("line", { class: "axis", x1: 0, x2: width, y1: 0.5, y2: 0.5 }),
        ticks(low, high, width < 400 ? 4 : 8).map((value) => s("text", { x: x(value), y: 16, "text-anchor": "middle" }, signed(value, 2).replace(/\.?0+$/, ""))),
        s("text", { x: width / 2, y: 33, "text-anchor": "middle" }, "mean projection of the reply, half separations")));
    }, "axisrow")));
}

function moveInItems(list, event) {
  const step = { j: 1, k: -1 }[event.key];
  const items = [...list.querySelectorAll(".item")];
  const at = items.findIndex((each) => each.classList.contains("current"));
  if (event.key === "Enter" && at >= 0 && document.activeElement === items[at]) {
    items[at].querySelector("a.open").click();
    return true;
  }
  if (!step || !items.length) return false;
  const to = items[Math.min(Math.max(at + step, 0), items.length - 1)];
  items[at]?.classList.remove("current");
  to.classList.add("current");
  to.focus({ preventScroll: true });
  to.scrollIntoView({ block: "start" });
  return true;
}
