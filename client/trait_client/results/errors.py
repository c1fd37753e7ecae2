from trait_core.errors import TraitError


class ResultsError(TraitError):
    """A result database is missing, cannot be opened, or is written by another process."""


class ResultsMissingError(ResultsError):
    """There is no result database yet."""
