"""Client of a trait-steering service: wire schema, HTTP, sweeps, results. Imports neither torch nor vllm."""

__version__ = "0.1.0"
