// Light or dark: the system's choice until the reader makes one.
const KEY = "trait-theme";

export function startTheme() {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const apply = () => {
    document.documentElement.dataset.theme = chosen() ?? (system.matches ? "dark" : "light");
  };
  system.addEventListener("change", apply);
  apply();
}

export function toggleTheme() {
  const now = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = now;
  try {
    localStorage.setItem(KEY, now);
  } catch {
    // Private windows may refuse to store it: the choice then lasts until the page is closed.
  }
}

function chosen() {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null;
  }
}
