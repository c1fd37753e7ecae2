"""One HTML file from the dashboard's own JavaScript and JSON data. It loads nothing, and it works from a disk."""

import base64
import hashlib
import json
import re
from importlib import resources
from typing import Any

_SPECIFIER = re.compile(r'^((?:import|export)\b(?:[^;"\']*?\bfrom)?\s*)"(\.{1,2}/[^"]+)"', re.MULTILINE)

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'">
<title>{title}</title>
<style nonce="{nonce}">{style}</style>
<script type="importmap" nonce="{nonce}">{import_map}</script>
</head>
<body>
<main id="main"><noscript>The charts and texts of this page need JavaScript; nothing is loaded from elsewhere.</noscript></main>
<script type="application/json" id="data">{data}</script>
<script type="module" nonce="{nonce}">import "{entry}";</script>
</body>
</html>
"""


def single_file(entry: str, title: str, data: dict[str, Any]) -> str:
    """Build a page whose scripts, style and data are all in one file.

    The modules are kept as they are, in an import map of `data:` URLs; only relative specifiers become paths below
    `static/js`, because a `data:` URL has no folder. A nonce, which the modules inherit, allows no other script. It is a
    digest of the page's content, so that no text in the data can name it.

    Args:
        entry: Module below `static/js` that draws the page from the element `data`, for example `report.js`.
        title: Title of the page.
        data: Content of the element `data`; JSON values only.

    Returns:
        HTML; the same for the same arguments.

    Raises:
        ValueError: The data hold NaN or an infinity.
    """
    style = (resources.files("trait_client.dashboard") / "static" / "style.css").read_text(encoding="utf-8")
    import_map = json.dumps({"imports": {path: _data_url(source) for path, source in modules(entry).items()}})
    # Written as an escape of JSON, "<" cannot end the element.
    text = json.dumps(data, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    digest = hashlib.sha256(f"{title}\0{style}\0{import_map}\0{text}".encode()).digest()
    return _PAGE.format(
        nonce=base64.b64encode(digest[:18]).decode(),
        title=title.replace("&", "&amp;").replace("<", "&lt;"),
        style=style,
        import_map=import_map,
        data=text,
        entry=entry,
    )


def modules(entry: str) -> dict[str, str]:
    """A module and all that it imports: path below `static/js` -> source with such paths as specifiers."""
    root = resources.files("trait_client.dashboard") / "static" / "js"
    found: dict[str, str] = {}

    def take(path: str) -> None:
        if path in found:
            return
        folder = path.rpartition("/")[0]
        source = (root / path).read_text(encoding="utf-8")
        needed = [_resolved(folder, match[2]) for match in _SPECIFIER.finditer(source)]
        found[path] = _SPECIFIER.sub(lambda match: f'{match[1]}"{_resolved(folder, match[2])}"', source)
        for each in needed:
            take(each)

    take(entry)
    return found


def _data_url(source: str) -> str:
    return "data:text/javascript;base64," + base64.b64encode(source.encode()).decode()


def _resolved(folder: str, path: str) -> str:
    parts = [part for part in folder.split("/") if part]
    for part in path.split("/"):
        if part == "..":
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)
