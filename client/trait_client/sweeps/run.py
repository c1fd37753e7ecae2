"""`run_sweep`: plan, resume, generate, score."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence

from trait_client.http import AsyncTraitClient
from trait_client.judge import Judge, JudgeConfig, Rubric
from trait_client.judge.cache import DatabaseCache
from trait_client.judge.judge import judge_row
from trait_client.results import ResultStore, ResultWriter
from trait_client.results.recorder import Recorder
from trait_client.results.rows import PENDING, ProjectionRow, Row, RunCellRow, RunJudgeRow, ScoreRow, TrialRow
from trait_client.results.runs import recorded_run
from trait_client.sweeps.damage import DamageMeter, DamageSet
from trait_client.sweeps.experiment import Experiment
from trait_client.sweeps.judging import Judging, Unjudged, split, want_judged
from trait_client.sweeps.outcome import ProgressCallback, SweepOutcome, SweepProgress
from trait_client.sweeps.plan import Key, SweepPlan, plan_sweep
from trait_client.sweeps.rows import definition_rows, key_of, stored_keys, stored_texts
from trait_client.sweeps.scoring import Scoring, Unscored
from trait_client.sweeps.trial_runner import TrialRunner
from trait_core.schema import ServiceInfo

logger = logging.getLogger(__name__)


async def run_sweep(
    experiment: Experiment, client: AsyncTraitClient, store: ResultStore, progress: ProgressCallback | None = None
) -> SweepOutcome:
    """Run and score every trial of an experiment that is not in the database yet.

    All trials are sent concurrently, up to twice what the engine runs at once, and committed as they finish. A sweep
    that is cancelled or killed keeps the committed trials; the next one runs the rest and tries failed trials again. A
    judge works in parallel with the engine; scores that it fails to give are pending, for the next sweep or `rescore`.

    Args:
        experiment: Experiment to run.
        client: The service that steers.
        store: The database; it is held for writing until the sweep is over.
        progress: Called after each commit.

    Raises:
        InvalidRequestError: The experiment does not fit the service (vectors, layers, doses, questions), or the judge's
            key is not set.
        DatasetError: A trait's evaluation or rubric is missing or malformed.
        ServiceError: The service does not answer at the start.
        ResultsError: Another process writes the database.
    """
    judge, rubrics = experiment.judge, experiment.rubrics()
    if judge is not None:
        judge.api_key()  # fail now if the key is missing
    meter = meter_of(experiment, client)
    info = await client.info()
    plan = await plan_sweep(experiment, client)
    if judge is not None:
        want_judged(plan, judge, rubrics)
    with store.writer() as writer:
        writer.write(definition_rows(plan))
        with recorded_run(writer, experiment.name, experiment.model_dump_json(), len(plan.trials)) as run:
            writer.write(_run_rows(run.run_id, plan, judge, rubrics))
            writer.publish_snapshot()
            run.outcome = outcome = await run_plan(
                plan, client, writer, run.run_id, info, progress, judge, rubrics, meter
            )
    return outcome


def meter_of(experiment: Experiment, client: AsyncTraitClient) -> DamageMeter | None:
    """The meter of an experiment's damage; None if it asks for none.

    Raises:
        DatasetError: The damage set is missing or malformed.
        InvalidRequestError: It has fewer passages or questions than are asked for.
    """
    if experiment.damage is None:
        return None
    asked = experiment.damage
    damage_set = DamageSet.load(experiment.damage_folder, asked.passages, asked.questions)
    return DamageMeter(client, damage_set, controls=asked.controls)


async def run_plan(
    plan: SweepPlan,
    client: AsyncTraitClient,
    writer: ResultWriter,
    run_id: str,
    info: ServiceInfo,
    progress: ProgressCallback | None = None,
    judge: JudgeConfig | None = None,
    rubrics: Mapping[str, Rubric] | None = None,
    meter: DamageMeter | None = None,
) -> SweepOutcome:
    """Run and score the trials of a plan that are not in the database yet; its definition rows are stored already."""
    return await _Sweep(plan, client, writer, run_id, info, progress, judge, rubrics or {}, meter).run()


def _run_rows(run_id: str, plan: SweepPlan, judge: JudgeConfig | None, rubrics: Mapping[str, Rubric]) -> list[Row]:
    """Cells and judges that the run asked for."""
    rows: list[Row] = [RunCellRow(run_id, cell.cell_id) for cell in plan.cells]
    if judge is not None:
        judges = [judge_row(judge, rubric) for rubric in rubrics.values()]
        rows += [*judges, *(RunJudgeRow(run_id, row.definition) for row in judges)]
    return rows


class _Sweep:
    """State of one run: stored trials and scores, work in progress, and counts."""

    def __init__(
        self,
        plan: SweepPlan,
        client: AsyncTraitClient,
        writer: ResultWriter,
        run_id: str,
        info: ServiceInfo,
        progress: ProgressCallback | None,
        judge: JudgeConfig | None,
        rubrics: Mapping[str, Rubric],
        meter: DamageMeter | None,
    ) -> None:
        self._plan = plan
        self._writer = writer
        self._meter = meter
        self._progress = progress
        self._run_id = run_id
        self._concurrency = 2 * info.limits.max_num_seqs
        self._recorder = Recorder(writer, self._committed)
        self._runner = TrialRunner(client, self._recorder, run_id, info.reasoning_markers)
        self._scoring = Scoring(client, self._recorder, plan, info.limits.max_activation_inputs)
        self._judge = Judge(judge, DatabaseCache(writer, self._recorder)) if judge is not None else None
        self._judging = Judging(self._judge, rubrics, self._recorder) if self._judge is not None else None
        self._started = time.monotonic()
        self._texts = stored_texts(writer, plan)
        self._have = stored_keys(writer, plan)
        self._scored = {trial_id for trial_id in self._texts if not self._missing(trial_id)}
        self._resumed = len(self._texts)
        self._failures: Counter[str] = Counter()
        self._tokens = 0

    async def run(self) -> SweepOutcome:
        try:
            await self._recorder.run_beside(self._work())
        finally:
            if self._judge is not None:
                await self._judge.close()
        return self._outcome()

    async def _work(self) -> None:
        scoring = asyncio.create_task(self._scoring.run())
        judging = asyncio.create_task(self._judging.run() if self._judging is not None else _nothing())
        damage = asyncio.create_task(
            self._meter.run(self._plan, self._writer, self._recorder) if self._meter is not None else _nothing()
        )
        try:
            for trial_id in self._texts:
                self._score_later(trial_id)
            pending = [trial for trial_id, trial in self._plan.trials.items() if trial_id not in self._texts]
            await self._runner.run(pending, min(self._concurrency, max(1, len(pending))))
            await self._recorder.drained()
            self._scoring.close()
            if self._judging is not None:
                self._judging.close()
            await asyncio.gather(scoring, judging, damage)
            await self._recorder.drained()
        finally:
            scoring.cancel()
            judging.cancel()
            damage.cancel()
            await asyncio.gather(scoring, judging, damage, return_exceptions=True)

    def _score_later(self, trial_id: str) -> None:
        computed, judged = split(self._missing(trial_id))
        trial, text = self._plan.trials[trial_id], self._texts[trial_id]
        if computed:
            self._scoring.put(Unscored(trial, text, computed))
        if judged and self._judging is not None:
            self._judging.put(Unjudged(trial_id, trial.prompt, text, judged))

    def _missing(self, trial_id: str) -> frozenset[Key]:
        return frozenset(self._plan.wanted[trial_id] - self._have[trial_id])

    def _committed(self, rows: Sequence[Row]) -> None:
        for row in rows:
            if isinstance(row, TrialRow):
                self._trial_committed(row)
            elif isinstance(row, ScoreRow | ProjectionRow):
                self._score_committed(row)
        if self._progress is not None:
            self._progress(self._now())

    def _trial_committed(self, row: TrialRow) -> None:
        if row.status == "failed":
            self._failures[row.error or ""] += 1
            return
        self._texts[row.trial_id] = row.text or ""
        self._tokens += row.n_generated or 0
        self._score_later(row.trial_id)

    def _score_committed(self, row: ScoreRow | ProjectionRow) -> None:
        if isinstance(row, ScoreRow) and row.mode == PENDING:
            return
        self._have[row.trial_id].add(key_of(row))
        if not self._missing(row.trial_id):
            self._scored.add(row.trial_id)

    def _now(self) -> SweepProgress:
        return SweepProgress(
            trials_total=len(self._plan.trials),
            trials_done=len(self._texts),
            trials_failed=self._failures.total(),
            scored=len(self._scored),
            tokens=self._tokens,
            seconds=time.monotonic() - self._started,
        )

    def _outcome(self) -> SweepOutcome:
        now = self._now()
        unmeasured = self._meter.missing if self._meter is not None else 0
        complete = now.scored == now.trials_total and not unmeasured
        judging = self._judging.errors if self._judging is not None else Counter[str]()
        damage = self._meter.errors if self._meter is not None else Counter[str]()
        errors = (self._failures + self._scoring.errors + judging + damage).most_common()
        return SweepOutcome(
            run_id=self._run_id,
            status="ok" if complete else "partial",
            trials_total=now.trials_total,
            trials_resumed=self._resumed,
            trials_run=now.trials_done - self._resumed,
            trials_failed=now.trials_failed,
            unscored=now.trials_done - now.scored,
            tokens=now.tokens,
            seconds=now.seconds,
            errors=tuple(errors),
            judge_pending=sum(len(split(self._missing(trial_id))[1]) for trial_id in self._texts),
            judge=self._judge.usage if self._judge is not None else None,
            damage_missing=unmeasured,
        )


async def _nothing() -> None:
    pass
