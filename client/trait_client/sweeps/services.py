"""An experiment on several services, one after another: `[precision.NAME]`."""

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from trait_client.http import AsyncTraitClient, AsyncTraitReplicas
from trait_client.http.local_service import started_service
from trait_client.results import ResultStore
from trait_client.sweeps.experiment import Experiment, PrecisionService
from trait_client.sweeps.outcome import ProgressCallback, SweepOutcome
from trait_client.sweeps.run import run_sweep
from trait_core.errors import TraitError


@dataclass(frozen=True)
class ServiceOutcome:
    """Outcome of one service's run, or the error that prevented it."""

    precision: str
    outcome: SweepOutcome | None
    error: TraitError | None


async def sweep_services(
    experiment: Experiment,
    store: ResultStore,
    api_key: str | None = None,
    on_begin: Callable[[str], None] | None = None,
    progress: ProgressCallback | None = None,
) -> list[ServiceOutcome]:
    """Run an experiment on each of its services in turn, as one run each; if one fails, the others still run.

    Args:
        experiment: Experiment with a table `precision`.
        store: The database; logs of started services are written to its folder.
        api_key: API key of services that are running already.
        on_begin: Called with each precision.
        progress: See `run_sweep`.
    """
    outcomes = []
    for precision, service in experiment.services.items():
        if service is None:
            raise ValueError("the experiment names no service")
        if on_begin is not None:
            on_begin(precision)
        try:
            log = store.path.with_name(f"{store.path.name}.{precision}.log")
            async with _client_of(service, experiment.folder, log, api_key) as client:
                service.check_weights(precision, await client.info())
                outcome = await run_sweep(experiment.on_service(precision), client, store, progress)
        except TraitError as error:
            outcomes.append(ServiceOutcome(precision, None, error))
        else:
            outcomes.append(ServiceOutcome(precision, outcome, None))
    return outcomes


@contextlib.asynccontextmanager
async def _client_of(
    service: PrecisionService, folder: Path, log: Path, api_key: str | None
) -> AsyncIterator[AsyncTraitClient]:
    if service.url is None:
        async with started_service(service.serve_arguments(folder), log) as client:
            yield client
    else:
        async with AsyncTraitReplicas([service.url], api_key) as client:
            yield client
