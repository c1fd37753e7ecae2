// A map of squares with names at the left and columns above: one value each as colour, with a tooltip.
import { h } from "../dom.js";
import { signed } from "../format.js";
import { diverging, inks } from "../scale.js";

// columns: [{key, label, index, title, sorted}]; rows: [{label, href, n, cells}], a cell's first number is its value.
// say(row, column, found) is the square's name, lines(row, column, found) the tooltip's lines below the row's label.
// onColumn(key), if given, sorts by a column.
export function squareMap({ columns, rows, limit, label, digits = 1, say, lines, onColumn }) {
  const tip = h("div", { class: "tip", hidden: true, role: "status" });
  const box = h("div", { class: "fingers", role: "group", "aria-label": label,
    style: { "grid-template-columns": `fit-content(18rem) repeat(${columns.length}, minmax(1.1rem, 3.4rem))` } },
  h("div", { class: "corner" }),
  columns.map((column) => h(onColumn ? "button" : "div", { class: "column", title: column.title, "data-direction": column.key,
    "aria-sort": column.sorted, onclick: onColumn ? () => onColumn(column.key) : null }, h("span", {}, column.label))),
  rows.map((row) => [
    h("div", { class: "name" }, row.href ? h("a", { href: row.href, title: row.label }, row.label) : h("b", { title: row.label }, row.label),
      row.n === undefined ? null : h("span", { class: "muted small num" }, ` ${row.n}`)),
    columns.map((column) => square(row, column))]));
  const frame = h("div", { class: "fingerframe" }, h("div", { class: "wide", tabindex: 0 }, box), tip);

  function square(row, column) {
    const found = row.cells[column.index];
    const value = found?.[0] ?? null;
    if (value === null) return h("div", { class: "cell none" });
    const share = value / limit;
    const show = (event) => point(event.currentTarget, row, column, found);
    return h(row.href ? "a" : "div", {
      class: `cell ${inks(share)}`, href: row.href, role: row.href ? undefined : "img", tabindex: row.href ? undefined : 0,
      "aria-label": say(row, column, found), "data-value": value, style: { "background-color": diverging(share) },
      onpointerenter: show, onfocus: show, onpointerleave: hide, onblur: hide },
    columns.length <= 16 ? h("span", {}, signed(value, digits)) : null);
  }

  function point(cell, row, column, found) {
    tip.replaceChildren(h("div", {}, h("b", {}, row.label)), ...lines(row, column, found));
    tip.hidden = false;
    const [place, outer] = [cell.getBoundingClientRect(), frame.getBoundingClientRect()];
    const left = Math.min(Math.max(place.left - outer.left, 4), Math.max(4, outer.width - tip.offsetWidth - 6));
    tip.style.setProperty("left", `${left}px`);
    tip.style.setProperty("top", `${place.bottom - outer.top + 6}px`);
  }

  function hide() {
    tip.hidden = true;
  }

  return frame;
}

// Arrow keys between the squares of a map in `root`; true if the key was handled.
export function moveInMap(root, event) {
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -1, ArrowDown: 1 }[event.key];
  const box = root.querySelector(".fingers");
  if (!step || !box) return false;
  const across = box.querySelectorAll(".column").length;
  const cells = [...box.querySelectorAll(".cell")];
  const from = cells.indexOf(document.activeElement);
  if (from < 0) {
    cells.find((cell) => !cell.classList.contains("none"))?.focus();
    return cells.length > 0;
  }
  const move = event.key === "ArrowUp" || event.key === "ArrowDown" ? step * across : step;
  const sameRow = Math.floor((from + move) / across) === Math.floor(from / across);
  if (Math.abs(move) === 1 && !sameRow) return true;
  cells[from + move]?.focus();
  return true;
}
