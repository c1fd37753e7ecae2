// The frame of the page: navigation, keys, theme and the current view.
import { failure, h } from "./dom.js";
import { startTheme, toggleTheme } from "./theme.js";
import { go, here, link } from "./url.js";
import { dynamicsView } from "./views/dynamics.js";
import { overviewView } from "./views/overview.js";
import { patchingView } from "./views/patching.js";
import { playgroundView } from "./views/playground.js";
import { promptsView } from "./views/prompts.js";
import { sqlView } from "./views/sql.js";
import { sweepView } from "./views/sweep.js";
import { variantsView } from "./views/variants.js";
import { vectorsView } from "./views/vectors.js";

const VIEWS = [
  ["overview", "Overview", overviewView],
  ["sweep", "Sweep", sweepView],
  ["dynamics", "Trait dynamics", dynamicsView],
  ["prompts", "Prompts", promptsView],
  ["vectors", "Vectors", vectorsView],
  ["playground", "Playground", playgroundView],
  ["sql", "SQL", sqlView],
  ["variants", "Variants", variantsView],
  ["patching", "Patching", patchingView],
];

const main = document.getElementById("main");
let shown = { name: null, keys: null, leave: null };
let turn = 0;

async function show() {
  const { view, params } = here();
  const entry = VIEWS.find(([name]) => name === view) ?? VIEWS[0];
  const mine = ++turn;
  navigation(entry[0]);
  document.title = `${entry[1]} · trait-steering`;
  if (shown.name !== entry[0]) main.replaceChildren(h("p", { class: "loading" }, "Reading…"));
  main.setAttribute("aria-busy", "true");
  let made;
  try {
    made = await entry[2](params);
  } catch (error) {
    made = { element: h("div", {}, h("h1", {}, entry[1]), failure(error)) };
  }
  if (mine !== turn) {
    made.leave?.();
    return;
  }
  main.removeAttribute("aria-busy");
  shown.leave?.();
  const same = shown.name === entry[0];
  shown = { name: entry[0], keys: made.keys, leave: made.leave };
  main.replaceChildren(made.element);
  if (!same) scrollTo(0, 0);
  made.shown?.();
  main.dataset.ready = String(mine);
}

function navigation(current) {
  document.getElementById("bar").replaceChildren(
    h("a", { class: "brand", href: "#/overview" }, "trait-steering"),
    h("nav", { "aria-label": "Views" },
      VIEWS.map(([name, label]) => h("a", { href: link(name), "aria-current": name === current ? "page" : null }, label))),
    h("span", { class: "nowrap" },
      h("button", { class: "plain", onclick: help, "aria-label": "Keyboard shortcuts", title: "Keyboard shortcuts (?)" }, "?"),
      h("button", { class: "plain", onclick: toggleTheme, "aria-label": "Light or dark", title: "Light or dark (t)" }, "◐")));
}

function help() {
  const rows = [
    [["1", "–", String(VIEWS.length)], "go to a view"],
    [["j", "k"], "next, previous: setting, pair, token, prompt, span"],
    [["↑", "↓", "←", "→"], "between cells of a heatmap; between tokens"],
    [["Enter"], "open the marked item"],
    [["n", "p"], "next, previous page or prompt"],
    [["/"], "search"],
    [["t"], "light or dark"],
    [["?"], "show this list"],
  ];
  const box = h("dialog", { onclose: () => box.remove() },
    h("h2", {}, "Keyboard shortcuts"),
    h("dl", { class: "keys" }, rows.map(([keys, what]) => [
      h("dt", {}, keys.map((key) => (key === "–" ? " – " : [h("kbd", {}, key), " "]))), h("dd", {}, what)])),
    h("form", { method: "dialog" }, h("button", { class: "primary" }, "Close")));
  document.body.append(box);
  box.showModal();
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.target.closest("input, textarea, select")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (shown.keys?.(event)) return event.preventDefault();
  if (event.key === "/") {
    const box = main.querySelector("[data-search]");
    if (!box) return;
    box.focus();
    box.select?.();
  } else if (event.key === "t") toggleTheme();
  else if (event.key === "?") help();
  else if (/^[1-9]$/.test(event.key) && VIEWS[event.key - 1]) go(VIEWS[event.key - 1][0]);
  else return;
  event.preventDefault();
}

startTheme();
document.getElementById("foot").append(
  "Read-only. ", h("kbd", {}, "?"), " lists the keyboard shortcuts. Every view has an address that can be shared.");
addEventListener("hashchange", show);
addEventListener("keydown", onKey);
show();
