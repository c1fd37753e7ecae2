from trait_client.experiment import Experiment
from trait_client.http import AsyncTraitClient
from trait_client.results import ResultStore
from trait_client.sweep.outcome import ProgressCallback, SweepOutcome


async def run_sweep(
    experiment: Experiment, client: AsyncTraitClient, store: ResultStore, progress: ProgressCallback | None = None
) -> SweepOutcome:
    """Run what the database does not hold yet, and score it."""
    raise NotImplementedError
