"""Sweeps: run every cell of an experiment on every prompt, in one batch, into one database."""

from trait_client.sweeps.outcome import ProgressCallback, SweepOutcome, SweepProgress
from trait_client.sweeps.run import run_sweep
from trait_client.sweeps.services import ServiceOutcome, sweep_services

__all__ = ["ProgressCallback", "ServiceOutcome", "SweepOutcome", "SweepProgress", "run_sweep", "sweep_services"]
