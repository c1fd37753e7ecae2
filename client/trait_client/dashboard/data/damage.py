"""Effect beside damage: the settings whose damage was measured."""

from typing import Any

from trait_client.dashboard.data.settings import layer_name
from trait_client.results import ResultReader


def effect_and_damage(reader: ResultReader) -> list[dict[str, Any]]:
    """One row per setting with its effect, its damage, and whether it is on the front; least damage first."""
    rows = reader.records("SELECT * FROM effect_and_damage ORDER BY trait, kl, setting_id")
    for row in rows:
        row["layer"] = layer_name(row)
    return rows
