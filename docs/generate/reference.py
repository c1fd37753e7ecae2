"""The pages of docs/reference, each from the program that it describes."""

from pathlib import Path

import command_lines
import experiment_keys
import http_routes
import known_models
import not_run
import python_names
import sql_schema

FOLDER = Path(__file__).resolve().parents[1] / "reference"


def pages() -> dict[str, str]:
    """File name -> text."""
    return {
        **command_lines.pages(),
        "python.md": python_names.page(),
        "http.md": http_routes.page(),
        "experiment.md": experiment_keys.page(),
        "sql.md": sql_schema.page(),
        "models.md": known_models.page(),
        "not-run.md": not_run.page(),
    }
