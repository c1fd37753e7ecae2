// The address holds the whole state of a view: #/view?name=value.
export function here() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  return { view: path || "overview", params: Object.fromEntries(new URLSearchParams(query)) };
}

export function link(view, params = {}) {
  const kept = Object.entries(params).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const query = new URLSearchParams(kept.map(([key, value]) => [key, String(value)])).toString();
  return `#/${view}${query ? "?" + query : ""}`;
}

export function go(view, params = {}) {
  location.hash = link(view, params);
}

// Change some parameters and redraw the view.
export function patch(changes) {
  const { view, params } = here();
  go(view, { ...params, ...changes });
}

// The same without a redraw, for views that redraw themselves; Back skips it.
export function quietly(changes) {
  const { view, params } = here();
  history.replaceState(null, "", link(view, { ...params, ...changes }));
}
