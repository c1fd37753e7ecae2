"""Rows of a plan's vectors, prompts and cells, and the stored replies and scores of its trials."""

import dataclasses
import json
from typing import Any

from trait_client.results import ResultWriter
from trait_client.results.rows import PENDING, CellRow, ProjectionRow, PromptRow, Row, ScoreRow, VectorRow
from trait_client.sweeps.cells import Cell
from trait_client.sweeps.plan import Key, ProjectionKey, ScoreKey, SweepPlan


def definition_rows(plan: SweepPlan) -> list[Row]:
    """Vectors, prompts and cells that the plan's trials refer to, as rows."""
    prompts = {trial.prompt_id: trial.prompt for trial in plan.trials.values()}
    return [
        *(VectorRow.of(vector.name, vector.sha256, vector.file.metadata) for vector in plan.vectors.values()),
        *(PromptRow(prompt_id, text) for prompt_id, text in prompts.items()),
        *(_cell_row(cell, plan) for cell in plan.cells),
    ]


def stored_texts(writer: ResultWriter, plan: SweepPlan) -> dict[str, str]:
    """Stored replies of the plan's trials by trial id."""
    return dict(
        writer.query(
            "SELECT trial_id, text FROM trials WHERE status = 'done' AND trial_id IN (SELECT unnest(?::VARCHAR[]))",
            [list(plan.trials)],
        )
    )


def stored_keys(writer: ResultWriter, plan: SweepPlan) -> dict[str, set[Key]]:
    """Stored scores of the plan's trials by trial id, without the pending ones."""
    ids = list(plan.trials)
    keys: dict[str, set[Key]] = {trial_id: set() for trial_id in ids}
    scores = (
        "SELECT trial_id, trait, name, definition FROM scores "
        "WHERE mode <> ? AND trial_id IN (SELECT unnest(?::VARCHAR[]))"
    )
    for trial_id, trait, name, definition in writer.query(scores, [PENDING, ids]):
        keys[trial_id].add(ScoreKey(trait, name, definition))
    projections = (
        "SELECT trial_id, sha256, layer, reader FROM projections WHERE trial_id IN (SELECT unnest(?::VARCHAR[]))"
    )
    for trial_id, sha256, layer, reader in writer.query(projections, [ids]):
        keys[trial_id].add(ProjectionKey(sha256, layer, reader))
    return keys


def key_of(row: ScoreRow | ProjectionRow) -> Key:
    """Key of the score or projection in a row."""
    if isinstance(row, ProjectionRow):
        return ProjectionKey(row.sha256, row.layer, row.reader)
    return ScoreKey(row.trait, row.name, row.definition)


def _cell_row(cell: Cell, plan: SweepPlan) -> CellRow:
    change = cell.intervention
    values: dict[str, Any] = dataclasses.asdict(cell.model) | dataclasses.asdict(cell.sampling)
    if change is not None:
        values |= change.columns() | {"trait_sign": plan.evaluations[change.trait].sign}
    values |= {
        "cell_id": cell.cell_id,
        "setting_id": cell.setting_id,
        "baseline_id": cell.baseline.cell_id,
        "control_of": cell.control_of,
        "kind": cell.kind,
        "versions": json.dumps(dict(cell.model.versions)),
        "weights": json.dumps(plan.weights),
    }
    columns: dict[str, Any] = {field.name: values.get(field.name) for field in dataclasses.fields(CellRow)}
    return CellRow(**columns)
