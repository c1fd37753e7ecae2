"""Sweeps: every cell of an experiment on every prompt, in one batch, into one database."""

from trait_client.sweep.outcome import ProgressCallback, SweepOutcome, SweepProgress
from trait_client.sweep.run import run_sweep
from trait_client.sweep.services import ServiceOutcome, sweep_services

__all__ = ["ProgressCallback", "ServiceOutcome", "SweepOutcome", "SweepProgress", "run_sweep", "sweep_services"]
