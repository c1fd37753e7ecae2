"""`trait-client sweep --dry-run`: an experiment's grid, its size and a time estimate."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trait_core.chat_templates import kwargs_text
from trait_core.console import out, plain, print_fields, print_json
from trait_core.gate_text import NO_GATE, gate_text

if TYPE_CHECKING:
    from trait_client.sweeps.experiment import Experiment

_LAST_RATE = """
SELECT sum(t.n_generated) / nullif(epoch(max(t.finished_at)) - epoch(any_value(r.started_at)), 0), any_value(c.model)
FROM runs r JOIN trials t ON t.run_id = r.run_id JOIN cells c ON c.cell_id = t.cell_id
WHERE t.status = 'done'
GROUP BY r.run_id
HAVING count(*) >= 20
ORDER BY max(t.finished_at) DESC
LIMIT 1
"""


def print_dry_run(experiment: "Experiment", db: Path, rate: float | None, *, as_json: bool) -> None:
    """Print the planned grid; no service is contacted.

    Args:
        experiment: The experiment to describe.
        db: Results database; its last sweep gives the rate, if the file exists.
        rate: Generated tokens per second; None takes the rate of the last sweep in `db`.
        as_json: Print one JSON document instead of a table.
    """
    from trait_client.sweeps.experiment import size_of  # noqa: PLC0415 - imports the judge's client

    size, dimensions = size_of(experiment), _dimensions(experiment)
    source = "as given"
    if rate is None:
        rate, source = _last_rate(db)
    seconds = size.generated_tokens / rate if rate else None
    if as_json:
        estimate = {"tokens_per_second": rate, "seconds": seconds}
        print_json({"name": experiment.name} | dataclasses.asdict(size) | {"grid": dimensions, "estimate": estimate})
        return
    print_fields({name: ", ".join(map(str, values)) for name, values in dimensions.items()})
    out.print(
        plain(
            f"{experiment.name}: {size.cells} cells and {size.control_cells} of random directions; "
            f"{size.trials} replies, {size.baseline_trials} of them baselines"
            + (f"; at most {size.judge_scores} scores by a judge" if size.judge_scores else "")
            + (f"; {size.damage_readings} prompts read for the damage" if size.damage_readings else "")
        ),
        soft_wrap=True,
    )
    known = (
        f"about {_time(seconds)} at {rate:.4g} tokens/s ({source})"
        if seconds and rate
        else "no rate known: give --rate"
    )
    out.print(
        plain(f"at most {size.generated_tokens} generated tokens: {known}; reading replies back takes extra time"),
        soft_wrap=True,
    )


def _dimensions(experiment: "Experiment") -> dict[str, list[Any]]:
    """Every dimension with its values; a trait with other values has separate lines."""
    values: dict[str, list[Any]] = {
        "precision": [
            f"{name} ({service.url or 'starts ' + str(service.model)})" if service else name or "as served"
            for name, service in experiment.services.items()
        ],
        "adapter": [adapter or experiment.adapter for adapter in experiment.served_adapters],
        "trait": list(experiment.traits),
        "method": list(experiment.methods),
        "hook point": [at or "as each vector" for at in experiment.hook_points],
        "layers": _layers(experiment.layers),
        "operation": list(experiment.operations),
        "scope": [scope if isinstance(scope, str) else str(scope.positions) for scope in experiment.scopes],
        "gate": [NO_GATE if gate is None else gate_text(gate) for gate in experiment.gates],
        f"coefficient ({experiment.unit})": list(experiment.coefficients),
        "temperature": list(experiment.temperatures),
        "top_p": list(experiment.top_ps),
        "seed": list(experiment.seeds),
    }
    if experiment.raw:
        values["prompts are"] = ["raw text"]
    if experiment.chat_template_kwargs:
        values["chat template"] = [kwargs_text(experiment.chat_template_kwargs)]
    for trait, own in experiment.trait.items():
        if own.layers is not None:
            values[f"layers of {trait}"] = _layers(own.layers)
        if own.coefficients is not None:
            values[f"coefficient of {trait}"] = list(own.coefficients)
    prompts = {trait: len(experiment.prompts_of(trait)) for trait in experiment.traits}
    return values | {"prompts": [f"{trait}: {n}" for trait, n in prompts.items()]}


def _layers(layers: Any) -> list[Any]:
    if layers == "chosen":
        return ["chosen by each vector file"]
    return ["+".join(map(str, each)) if isinstance(each, list) else each for each in layers]


def _last_rate(db: Path) -> tuple[float | None, str]:
    if not db.exists():
        return None, ""
    from trait_client.results import ResultStore  # noqa: PLC0415 - DuckDB takes a while to import

    rows = ResultStore(db).query(_LAST_RATE)[1]
    return (rows[0][0], f"the last sweep of {rows[0][1]} in {db}") if rows else (None, "")


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
