"""Coefficient search: the strongest setting that is still coherent, in fewer trials than a grid."""

from trait_client.sweeps.search.run import SearchOutcome, run_search
from trait_client.sweeps.search.settings import SearchSettings

__all__ = ["SearchOutcome", "SearchSettings", "run_search"]
