"""`trait-client report`: a run as one HTML file that asks nobody for anything."""

import base64
import hashlib
import json
import re
from importlib import resources
from typing import Any

from trait_client import __version__
from trait_client.dashboard.data import readings, runs, settings
from trait_client.dashboard.data.corpus_index import CorpusIndex, Selection
from trait_client.results import ResultReader
from trait_client.results.json_values import json_value
from trait_client.results.rows import utc_now
from trait_core.errors import InvalidRequestError

MOST_READINGS = 200
"""Of a prompt set in one file; 200 prompts of 200 tokens and 8 directions are about 5 MB."""

_IMPORT = re.compile(r'^import \{ (?P<names>[^}]+) \} from "(?P<path>[^"]+)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?P<what>(?:async )?function\*?|const) (?P<name>\w+)", re.MULTILINE)

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; base-uri 'none'; form-action 'none'; style-src '{style_hash}'; script-src '{script_hash}'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main id="main"><noscript>The charts and texts of this report need JavaScript; nothing is loaded from elsewhere.</noscript></main>
<script type="application/json" id="data">{data}</script>
<script type="module">{script}</script>
</body>
</html>
"""


def report(reader: ResultReader, wanted: str) -> tuple[dict[str, Any], str]:
    """The page of a run.

    Args:
        reader: The results.
        wanted: A run's id, its beginning, or the name of its experiment, whose newest run is taken.

    Returns:
        The run and the page's HTML.

    Raises:
        InvalidRequestError: No run fits, or the beginning of several ids.
    """
    every = runs.runs(reader)
    run = _find(every, wanted)
    alike = {each["run_id"] for each in every if _same(each, run)}
    content = _corpus(reader, run, alike) if run["kind"] == "corpus" else _sweep(reader, alike)
    definition = run.pop("definition")
    data = {
        **content, "kind": run["kind"], "run": run, "definition": definition, "version": __version__,
        "made_at": utc_now(),
    }  # fmt: skip
    return run, _page(f"{run['experiment']} · trait-steering", data)


def _find(every: list[dict[str, Any]], wanted: str) -> dict[str, Any]:
    named = [run for run in every if run["experiment"] == wanted][:1]
    found = [run for run in every if wanted and run["run_id"].startswith(wanted)] or named
    if len(found) != 1:
        known = ", ".join(f"{run['run_id'][:8]} ({run['experiment']})" for run in (found or every)[:8]) or "none"
        reason = "begins several runs" if found else "is no run"
        raise InvalidRequestError(f"{wanted!r} {reason}: there are {known}", param="run")
    return found[0]


def _same(run: dict[str, Any], other: dict[str, Any]) -> bool:
    """A run that was taken up again is one with those before it."""
    return (run["experiment"], run["definition"]) == (other["experiment"], other["definition"])


def _sweep(reader: ResultReader, run_ids: set[str]) -> dict[str, Any]:
    rows = [row for row in settings.all_settings(reader) if run_ids.intersection(row["runs"])]
    texts = {row["setting_id"]: None for row in rows}
    return {"settings": rows, "texts": {each: settings.setting(reader, each)["pairs"] for each in texts}}


def _corpus(reader: ResultReader, run: dict[str, Any], run_ids: set[str]) -> dict[str, Any]:
    index = CorpusIndex.read(reader, run["experiment"])
    made = reader.query(
        "SELECT reading_id FROM readings WHERE run_id IN (SELECT unnest(?::VARCHAR[]))", [sorted(run_ids)]
    )
    of_run = {reading_id for (reading_id,) in made.rows}
    ids = [each for each in index.select(Selection(index.name)) if each in of_run]
    return {
        "set": {"name": index.name, "directions": index.directions},
        "readings": [readings.tokenwise(reader, each) for each in ids[:MOST_READINGS]],
        "total": len(ids),
    }


def _page(title: str, data: dict[str, Any]) -> str:
    static = resources.files("trait_client.dashboard") / "static"
    style = (static / "style.css").read_text(encoding="utf-8")
    script = bundle("report.js")
    # "<" cannot end the element it stands in when it is written as an escape of JSON.
    text = json.dumps(json_value(data), ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    return _PAGE.format(
        title=title.replace("&", "&amp;").replace("<", "&lt;"),
        style=style,
        style_hash=_hash(style),
        script=script,
        script_hash=_hash(script),
        data=text,
    )


def bundle(entry: str) -> str:
    """A module and all that it imports as one script: each module a function, in the order of need."""
    root = resources.files("trait_client.dashboard") / "static" / "js"
    done: dict[str, str] = {}

    def take(path: str) -> None:
        if path in done:
            return
        source = (root / path).read_text(encoding="utf-8")
        folder = path.rpartition("/")[0]
        for found in _IMPORT.finditer(source):
            take(_resolved(folder, found["path"]))
        body = _IMPORT.sub(
            lambda m: f"const {{ {m['names'].replace(' as ', ': ')} }} = {_variable(_resolved(folder, m['path']))};\n",
            source,
        )
        names = ", ".join(found["name"] for found in _EXPORT.finditer(body))
        body = _EXPORT.sub(lambda m: f"{m['what']} {m['name']}", body)
        done[path] = f"const {_variable(path)} = (() => {{\n{body}return {{ {names} }};\n}})();\n"

    take(entry)
    return "".join(done.values())


def _resolved(folder: str, path: str) -> str:
    parts = [part for part in folder.split("/") if part]
    for part in path.split("/"):
        if part == "..":
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)


def _variable(path: str) -> str:
    return "m_" + re.sub(r"\W", "_", path)


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
