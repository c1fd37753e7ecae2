"""Compare two runs, setting by setting."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trait_client.results.reader import ResultReader
from trait_client.results.rows import CellRow
from trait_client.results.runs import find_run
from trait_client.results.store import ResultStore
from trait_core.statistics import paired_delta

SHOWN = ("trait", "method", "layers", "coefficient", "operation", "measure")

_NOT_COMPARED = frozenset(
    [
        "cell_id",
        "setting_id",
        "baseline_id",
        "control_of",
        "kind",
        "trait_sign",
        "trait_sha256",
        "sha256",
        "layer",
        "read_layer",
        "seed",
        "precision",
        "adapter",
        "model",
        "config_digest",
        "chat_template_digest",
        "dtype",
        "quantization",
        "versions",
        "checkpoint_digest",
        "adapter_digest",
        "weights",
    ]
)
"""Columns of `cells` in which two runs may differ and still hold the same setting: ids, model, weights, seed."""

_OF_SETTING = tuple(each.name for each in dataclasses.fields(CellRow) if each.name not in {*_NOT_COMPARED, *SHOWN})
_KEY = (*SHOWN, *_OF_SETTING)

# By setting, measure and prompt: the mean over seeds of a run's replies, and of their baselines.
_SCORES = f"""
SELECT c.trait, c.method, coalesce(c.layers, [c.layer]) AS layers, c.coefficient, c.operation, d.measure,
       {", ".join(f"c.{name}" for name in _OF_SETTING)}, d.prompt_id, avg(d.delta) AS delta
FROM run_cells r
JOIN cells c ON c.cell_id = r.cell_id AND c.kind = 'steered'
JOIN trial_deltas d ON d.cell_id = c.cell_id
WHERE r.run_id = ? AND d.measure <> 'judge_coherence'
GROUP BY ALL
"""  # noqa: S608 - names of our own columns

_NATURE = """
SELECT list_sort(list(DISTINCT c.model)) AS model, list_sort(list(DISTINCT c.precision)) AS precision,
       list_sort(list(DISTINCT c.adapter)) AS adapter, list_sort(list(DISTINCT c.trait_sha256)) AS vectors,
       list_sort(list(DISTINCT c.versions::VARCHAR)) AS versions
FROM run_cells r JOIN cells c USING (cell_id) WHERE r.run_id = ?
"""


@dataclass(frozen=True)
class RunComparison:
    """The comparison of two runs, A and B.

    Attributes:
        differing: Those of model, precision, adapter, vectors and versions that differ: values of A, of B.
        rows: One for each setting and measure: both mean deltas, B minus A over their common prompts, its standard
            deviation and bootstrap interval, and whether the interval excludes 0.
        only_a: Number of settings that only A has.
        only_b: Number of settings that only B has.
    """

    run_a: str
    run_b: str
    name_a: str
    name_b: str
    differing: dict[str, tuple[str, str]]
    rows: list[dict[str, Any]]
    only_a: int
    only_b: int

    def as_json(self) -> dict[str, Any]:
        """As a JSON value."""
        return dataclasses.asdict(self)


def compare_runs(db: Path, run_a: str, run_b: str) -> RunComparison:
    """Compare two runs, each by its id, the beginning of one, `latest`, or the name of an experiment.

    Raises:
        InvalidRequestError: No such run, or several that match.
        ResultsError: The database does not exist or cannot be read.
    """
    with ResultStore(db).reader() as reader:
        (id_a, name_a, _), (id_b, name_b, _) = (find_run(reader.rows, run, sweeps_only=True) for run in (run_a, run_b))
        a, b = _by_setting(reader, id_a), _by_setting(reader, id_b)
        nature_a, nature_b = (reader.records(_NATURE, [run])[0] for run in (id_a, id_b))
    return RunComparison(
        run_a=id_a,
        run_b=id_b,
        name_a=name_a,
        name_b=name_b,
        differing={
            what: (_text(nature_a[what]), _text(nature_b[what]))
            for what in nature_a
            if nature_a[what] != nature_b[what]
        },
        rows=[_row(key, a[key], b[key]) for key in a if key in b and a[key].keys() & b[key].keys()],
        only_a=len(a.keys() - b.keys()),
        only_b=len(b.keys() - a.keys()),
    )


def _by_setting(reader: ResultReader, run: str) -> dict[str, dict[str, float]]:
    """Setting (as JSON) -> prompt -> delta."""
    found: dict[str, dict[str, float]] = {}
    for row in sorted(reader.records(_SCORES, [run]), key=lambda row: [str(row[name]) for name in _KEY]):
        found.setdefault(json.dumps([row[name] for name in _KEY]), {})[row["prompt_id"]] = row["delta"]
    return found


def _row(key: str, a: dict[str, float], b: dict[str, float]) -> dict[str, Any]:
    named = dict(zip(_KEY, json.loads(key), strict=True))
    pair = paired_delta(b, a)
    low, high = pair.interval or (None, None)
    verdict = "only one prompt in common"
    if low is not None and high is not None:
        verdict = "not distinguishable" if low <= 0 <= high else "differs"
    values = {"n": pair.n, "a": pair.baseline, "b": pair.steered, "b_minus_a": pair.delta, "sd": pair.sd}
    return {name: named[name] for name in SHOWN} | values | {"ci_low": low, "ci_high": high, "verdict": verdict}


def _text(values: list[Any] | None) -> str:
    return ", ".join(str(value)[:60] for value in values or [] if value is not None)
