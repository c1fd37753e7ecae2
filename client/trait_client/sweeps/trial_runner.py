"""Generates the replies of trials, as many at once as the engine can batch."""

import asyncio
import logging
import time
from collections.abc import Iterable, Iterator

from trait_client.http import AsyncTraitClient
from trait_client.http.chat_requests import CommonOptions
from trait_client.http.replies import ChatResult
from trait_client.results.recorder import Recorder
from trait_client.results.rows import TrialRow, utc_now
from trait_client.scoring.scores import chat_of
from trait_client.sweeps.cells import Trial
from trait_core.errors import ServiceUnreachableError, TraitError
from trait_core.reasoning import split_reasoning

logger = logging.getLogger(__name__)


class TrialRunner:
    """Runs trials and records each when it ends, done or failed.

    Args:
        client: The service.
        recorder: Takes the rows.
        run_id: Run that the rows belong to.
        markers: The model's markers of reasoning, which is kept apart from the answer; None: it has none.
    """

    def __init__(self, client: AsyncTraitClient, recorder: Recorder, run_id: str, markers: str | None = None) -> None:
        self._client = client
        self._recorder = recorder
        self._run_id = run_id
        self._markers = markers
        self._stopped = False

    async def run(self, trials: Iterable[Trial], concurrency: int) -> None:
        """Run trials, `concurrency` at once; when the service is gone, the rest is left for the next run."""
        pending = iter(trials)
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(self._work(pending))

    async def _work(self, pending: Iterator[Trial]) -> None:
        for trial in pending:
            if self._stopped:
                return
            self._recorder.put([await self._run(trial)])

    async def _run(self, trial: Trial) -> TrialRow:
        started = time.perf_counter()
        try:
            result = await self._reply(trial)
        except TraitError as error:
            logger.debug("trial %s failed: %s", trial.trial_id, error)
            if isinstance(error, ServiceUnreachableError) and not self._stopped:
                self._stopped = not await self._answers()
            return self._row(trial, time.perf_counter() - started, error=f"{type(error).__name__}: {error}")
        return self._row(trial, time.perf_counter() - started, result)

    async def _reply(self, trial: Trial) -> ChatResult:
        sampling, change, model = trial.cell.sampling, trial.cell.intervention, trial.cell.model.asked_as
        options: CommonOptions = {
            "steering": change.steering() if change is not None else None,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed,
        }
        if sampling.raw:
            return await self._client.complete(trial.prompt, model=model, **options)
        messages = chat_of(trial.prompt, sampling.system)
        return await self._client.chat(messages, model=model, chat_template_kwargs=sampling.template_kwargs, **options)

    async def _answers(self) -> bool:
        """Return whether the service still answers: one broken connection does not end a sweep."""
        try:
            await self._client.info()
        except TraitError:
            return False
        return True

    def _row(
        self, trial: Trial, seconds: float, result: ChatResult | None = None, error: str | None = None
    ) -> TrialRow:
        report = result.steering if result is not None else None
        # The layers of a cell have one scope and one gate, and act at the same positions.
        acted = report.applied[-1].acted if report is not None else None
        reasoning, answer = (None, None) if result is None else self._parts(result, raw=trial.cell.sampling.raw)
        return TrialRow(
            trial_id=trial.trial_id,
            cell_id=trial.cell.cell_id,
            prompt_id=trial.prompt_id,
            run_id=self._run_id,
            status="failed" if result is None else "done",
            text=answer,
            finish_reason=result.finish_reason if result is not None else None,
            n_prompt=result.usage.prompt_tokens if result is not None else None,
            n_generated=result.usage.completion_tokens if result is not None else None,
            steering=report.model_dump_json() if report is not None else None,
            seconds=seconds,
            error=error,
            finished_at=utc_now(),
            reasoning=reasoning,
            acted_prompt=acted.prompt if acted is not None else None,
            acted_generated=acted.generated if acted is not None else None,
        )

    def _parts(self, result: ChatResult, *, raw: bool) -> tuple[str | None, str]:
        """Reasoning and answer: as the service separates them, else by the model's markers; raw text has no reasoning."""
        if result.reasoning is not None or self._markers is None or raw:
            return result.reasoning, result.text
        return split_reasoning(result.text, self._markers)
