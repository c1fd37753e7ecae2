"""Foundation of all parts: wire schema, errors, units, positions, vector files and statistics. Imports neither torch nor vllm."""

__version__ = "0.2.0"
