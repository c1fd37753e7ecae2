"""Foundation of all parts: wire schema, errors, units, positions, vector files and statistics. Imports neither torch nor vllm."""
