"""Experiments: definitions of sweeps, read from `experiment.toml`."""

from trait_client.sweeps.experiment.definition import Experiment
from trait_client.sweeps.experiment.grid import ExperimentSize, GridPoint, grid, size_of
from trait_client.sweeps.experiment.precision import PrecisionService
from trait_client.sweeps.experiment.tables import Control, DamageSpec, TraitOverride

__all__ = [
    "Control",
    "DamageSpec",
    "Experiment",
    "ExperimentSize",
    "GridPoint",
    "PrecisionService",
    "TraitOverride",
    "grid",
    "size_of",
]
