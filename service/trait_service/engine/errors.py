"""Errors at start-up: the engine is not served."""

from trait_core.errors import TraitError


class UnsupportedEngineError(TraitError):
    """The engine's configuration is one that steering was not tested with."""


class UnsupportedModelError(TraitError):
    """The model's layers were not found, or what they return is not known."""
