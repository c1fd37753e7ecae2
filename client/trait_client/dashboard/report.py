"""`trait-client report`: a run as one HTML file that works offline."""

from typing import Any

from trait_client import __version__
from trait_client.dashboard.data import readings, runs, settings
from trait_client.dashboard.data.prompt_set_index import PromptSetIndex, Selection
from trait_client.dashboard.single_file import single_file
from trait_client.results import ResultReader
from trait_client.results.json_values import json_value
from trait_client.results.rows import utc_now
from trait_client.results.runs import find_run
from trait_core.errors import InvalidRequestError

MOST_READINGS = 200
"""Maximum number of prompts in one file; 200 prompts of 200 tokens and 8 directions are about 5 MB."""


def report(reader: ResultReader, wanted: str) -> tuple[dict[str, Any], str]:
    """Build the page of a run.

    Args:
        reader: The results database.
        wanted: A run's id, its beginning, `latest`, or the name of its experiment, whose newest run is taken.

    Returns:
        The run and the page's HTML.

    Raises:
        InvalidRequestError: No such run, or several that match.
    """
    every = runs.runs(reader)
    run_id = find_run(reader.rows, wanted).run_id
    run = next(each for each in every if each["run_id"] == run_id)
    if run["kind"] == "comparison":
        raise InvalidRequestError(
            f"run {run_id[:8]} compares two models, and a report shows a sweep or a prompt set: `trait-client dashboard`, view "
            "Variants, shows it",
            param="run",
        )
    alike = {each["run_id"] for each in every if _same(each, run)}
    content = _prompt_set(reader, run, alike) if run["kind"] == "corpus" else _sweep(reader, alike)
    definition = run.pop("definition")
    data = {
        **content, "kind": run["kind"], "run": run, "definition": definition, "version": __version__,
        "made_at": utc_now(),
    }  # fmt: skip
    return run, single_file("report.js", f"{run['experiment']} · trait-steering", json_value(data))


def _same(run: dict[str, Any], other: dict[str, Any]) -> bool:
    """True for runs of the same definition: a resumed run belongs to the runs before it."""
    return (run["experiment"], run["definition"]) == (other["experiment"], other["definition"])


def _sweep(reader: ResultReader, run_ids: set[str]) -> dict[str, Any]:
    rows = [row for row in settings.all_settings(reader) if run_ids.intersection(row["runs"])]
    texts = {row["setting_id"]: None for row in rows}
    return {"settings": rows, "texts": {each: settings.setting(reader, each)["pairs"] for each in texts}}


def _prompt_set(reader: ResultReader, run: dict[str, Any], run_ids: set[str]) -> dict[str, Any]:
    index = PromptSetIndex.read(reader, run["experiment"])
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
