"""Which settings a run planned: a trial that an earlier run stored is not run again, and belongs to both."""

import json
from typing import Any

from trait_client.results import ResultReader
from trait_client.sweeps.experiment import Experiment
from trait_core.errors import InvalidRequestError


def runs_of_settings(reader: ResultReader, rows: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Setting -> ids of the runs that stored a trial of it, or whose definition asks for it."""
    found: dict[str, set[str]] = {}
    made = "SELECT DISTINCT c.setting_id, t.run_id FROM cells c JOIN trials t USING (cell_id) WHERE c.kind = 'steered'"
    for setting_id, run_id in reader.query(made).rows:
        found.setdefault(setting_id, set()).add(run_id)
    chosen = dict(reader.query("SELECT sha256, chosen_layer FROM vectors").rows)
    for run_id, experiment in _experiments(reader):
        for row in rows:
            if _plans(experiment, row, chosen.get(row["trait_sha256"])):
                found.setdefault(row["setting_id"], set()).add(run_id)
    return {setting_id: sorted(run_ids) for setting_id, run_ids in found.items()}


def _experiments(reader: ResultReader) -> list[tuple[str, Experiment]]:
    known = []
    for run_id, definition in reader.query("SELECT run_id, definition FROM runs").rows:
        try:
            known.append((run_id, Experiment.from_values(json.loads(definition))))
        except InvalidRequestError:  # a corpus, or an experiment of another version
            continue
    return known


def _plans(experiment: Experiment, row: dict[str, Any], chosen_layer: int | None) -> bool:
    trait = row["trait"]
    if trait not in experiment.traits or row["method"] not in experiment.methods:
        return False
    layers = experiment.layers_of(trait)
    sets = [[chosen_layer]] if layers == "chosen" else [each if isinstance(each, list) else [each] for each in layers]
    return (
        row["layers"] in sets
        and (row["operation"] == "ablate" or row["coefficient"] in experiment.coefficients_of(trait))
        and experiment.precision in (None, row["precision"])
        and row["operation"] in experiment.operations
        and row["scope"] in {each if isinstance(each, str) else row["scope"] for each in experiment.scopes}
        and row["adapter"] in {each or experiment.adapter for each in experiment.served_adapters}
        and row["temperature"] in experiment.temperatures
        and row["top_p"] in experiment.top_ps
        and (experiment.unit, experiment.preserve_norm, experiment.max_tokens, experiment.system)
        == (row["unit"], row["preserve_norm"], row["max_tokens"], row["system"])
    )
