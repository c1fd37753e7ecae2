"""Client of a trait-steering service: wire schema, HTTP, sweeps, results. Imports neither torch nor vllm."""

from trait_core import __version__

__all__ = ["__version__"]
