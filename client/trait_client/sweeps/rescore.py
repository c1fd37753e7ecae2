"""`rescore`: ask the judge for the missing scores of a run's stored replies; no engine is needed."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trait_client.judge import Judge, JudgeConfig, JudgeUsage, Rubric
from trait_client.judge.cache import DatabaseCache
from trait_client.judge.judge import judge_row
from trait_client.judge.rubric import COHERENCE
from trait_client.judge.session import recording
from trait_client.results import ResultStore, ResultWriter
from trait_client.results.rows import Row, RunJudgeRow
from trait_client.results.runs import OutcomeStatus, find_run
from trait_client.sweeps.judging import Judging, Unjudged, score_key
from trait_client.sweeps.plan import ScoreKey
from trait_core.errors import InvalidRequestError

# Steered replies of one trait, optionally those of random directions, and the baselines that they are compared with.
_REPLIES = """
WITH asked AS (
    SELECT t.trial_id, t.prompt_id, t.text, c.trait, c.baseline_id
    FROM run_cells r
    JOIN cells c ON c.cell_id = r.cell_id AND (c.kind = 'steered' OR (c.kind = 'control' AND $controls))
    JOIN trials t ON t.cell_id = c.cell_id AND t.status = 'done'
    WHERE r.run_id = $run_id AND ($trait = '*' OR c.trait = $trait)
),
replies AS (
    SELECT trial_id, prompt_id, text FROM asked
    UNION
    SELECT b.trial_id, b.prompt_id, b.text
    FROM asked a
    JOIN trials b ON b.cell_id = a.baseline_id AND b.prompt_id = a.prompt_id AND b.status = 'done'
)
SELECT r.trial_id, p.text, r.text
FROM replies r
JOIN prompts p ON p.prompt_id = r.prompt_id
LEFT JOIN scores s ON s.trial_id = r.trial_id AND s.trait = $trait AND s.name = $name AND s.definition = $definition
                  AND s.mode <> 'pending'
WHERE s.trial_id IS NULL
ORDER BY r.trial_id
"""

_LACKING = """
SELECT count(*)
FROM run_cells r
JOIN trials t ON t.cell_id = r.cell_id
LEFT JOIN scores s ON s.trial_id = t.trial_id AND s.name = 'coherence'
WHERE r.run_id = ? AND (t.status = 'failed' OR s.trial_id IS NULL)
"""


@dataclass(frozen=True)
class RescoreOutcome:
    """Outcome of a rescoring.

    Attributes:
        run_id: Run whose replies were judged.
        status: `partial` if scores are still pending.
        missing: Scores that were missing before.
        pending: Scores that are still missing.
        judge: Usage of the judge.
        errors: Distinct reasons, most frequent first, with their counts.
    """

    run_id: str
    status: OutcomeStatus
    missing: int
    pending: int
    judge: JudgeUsage
    errors: tuple[tuple[str, int], ...]

    @property
    def line(self) -> str:
        """Status and counts in one line."""
        return (
            f"{self.status}: run {self.run_id[:8]} lacked {self.missing} scores of the judge, "
            f"{self.pending} are still pending"
        )


async def rescore(
    store: ResultStore, run: str, config: JudgeConfig | None = None, datasets: Path | None = None
) -> RescoreOutcome:
    """Judge the stored replies of a run's cells that have no score by this judge.

    Args:
        store: The database; it is held for writing until the end.
        run: A run's id, the beginning of one, `latest`, or the name of an experiment.
        config: The judge; None uses the run's own.
        datasets: Folder of the rubrics; None uses those that the run was judged by.

    Raises:
        InvalidRequestError: No run matches, it had no judge and none is given, or the judge's key is not set.
        DatasetError: A trait has no rubric.
        ResultsError: Another process writes the database.
    """
    _demand(store)
    with store.writer() as writer:
        run_id, own = _find_run(writer, run)
        config = config or own
        if config is None:
            raise InvalidRequestError(
                f"run {run_id[:8]} had no judge: give one with --judge-url and --judge-model", param="judge"
            )
        rubrics = _rubrics(writer, run_id, config, datasets)
        judges = [judge_row(config, rubric) for rubric in rubrics.values()]
        async with recording(writer) as recorder, Judge(config, DatabaseCache(writer, recorder)) as judge:
            rows: list[Row] = [*judges, *(RunJudgeRow(run_id, row.definition) for row in judges)]
            recorder.put(rows)
            judging = Judging(judge, rubrics, recorder)
            work = await recorder.call(_missing, writer, run_id, config, rubrics)
            for reply in work:
                judging.put(reply)
            judging.close()
            await judging.run()
            await recorder.drained()
            pending = len(await recorder.call(_missing, writer, run_id, config, rubrics))
            usage = judge.usage
        if pending == 0 and _is_complete(writer, run_id):
            writer.finish_run(run_id, "ok", None)
    return RescoreOutcome(
        run_id=run_id,
        status="partial" if pending else "ok",
        missing=len(work),
        pending=pending,
        judge=usage,
        errors=tuple(judging.errors.most_common()),
    )


def judge_of_run(store: ResultStore, run: str) -> JudgeConfig | None:
    """Find the judge of a run; None if it had none.

    Raises:
        InvalidRequestError: No run matches, or there is no database.
        ResultsError: Another process writes the database.
    """
    _demand(store)
    with store.writer() as writer:
        return _find_run(writer, run)[1]


def _demand(store: ResultStore) -> None:
    if not store.path.exists():
        raise InvalidRequestError(f"no results at {store.path}: run a sweep first, or give --db", param="db")


def _find_run(writer: ResultWriter, text: str) -> tuple[str, JudgeConfig | None]:
    """A run and the judge of its experiment."""
    run = find_run(writer.query, text, sweeps_only=True)
    judge = json.loads(run.definition).get("judge")
    return run.run_id, JudgeConfig.model_validate(judge) if judge is not None else None


def _rubrics(writer: ResultWriter, run_id: str, config: JudgeConfig, datasets: Path | None) -> dict[str, Rubric]:
    """Rubrics by trait, from the datasets or from the run's earlier judging."""
    sql = (
        "SELECT DISTINCT c.trait FROM run_cells r JOIN cells c ON c.cell_id = r.cell_id "
        "WHERE r.run_id = ? AND c.trait IS NOT NULL ORDER BY 1"
    )
    traits = [trait for (trait,) in writer.query(sql, [run_id])]
    if datasets is not None:
        rubrics = {trait: Rubric.load(datasets, trait) for trait in traits}
    else:
        sql = (
            "SELECT j.trait, any_value(j.rubric) FROM run_judges r JOIN judges j ON j.definition = r.definition "
            "WHERE r.run_id = ? AND j.trait <> ? GROUP BY j.trait"
        )
        rubrics = {trait: Rubric(trait, text) for trait, text in writer.query(sql, [run_id, COHERENCE])}
        if unknown := sorted(set(traits) - set(rubrics)):
            raise InvalidRequestError(
                f"run {run_id[:8]} was never judged for {unknown[0]}: give the rubrics with --datasets",
                param="datasets",
            )
    return rubrics | ({COHERENCE: Rubric.coherence()} if config.coherence else {})


def _missing(writer: ResultWriter, run_id: str, config: JudgeConfig, rubrics: Mapping[str, Rubric]) -> list[Unjudged]:
    """Stored replies without a score by this judge, one entry for each score."""
    return [
        Unjudged(trial_id, prompt, text, frozenset({key}))
        for key in (score_key(config, rubric) for rubric in rubrics.values())
        for trial_id, prompt, text in _lacking(writer, run_id, key, controls=config.controls)
    ]


def _lacking(writer: ResultWriter, run_id: str, key: ScoreKey, *, controls: bool) -> list[tuple[str, str, str]]:
    values = {"trait": key.trait, "name": key.name, "definition": key.definition}
    rows = writer.query(_REPLIES, {"run_id": run_id, "controls": controls} | values)
    return [(trial_id, prompt, text) for trial_id, prompt, text in rows]


def _is_complete(writer: ResultWriter, run_id: str) -> bool:
    """Return whether every planned reply is stored and scored, apart from the judge's scores."""
    ((planned,),) = writer.query("SELECT n_trials FROM runs WHERE run_id = ?", [run_id])
    sql = "SELECT count(*) FROM run_cells r JOIN trials t ON t.cell_id = r.cell_id WHERE r.run_id = ?"
    ((stored,),) = writer.query(sql, [run_id])
    ((lacking,),) = writer.query(_LACKING, [run_id])
    return bool(stored >= planned and lacking == 0)
