"""Experiments: what a sweep runs, read from `experiment.toml`."""

from trait_client.experiment.definition import Control, Experiment, TraitOverride
from trait_client.experiment.grid import ExperimentSize, GridPoint, grid, size_of
from trait_client.experiment.precision import PrecisionService

__all__ = [
    "Control",
    "Experiment",
    "ExperimentSize",
    "GridPoint",
    "PrecisionService",
    "TraitOverride",
    "grid",
    "size_of",
]
