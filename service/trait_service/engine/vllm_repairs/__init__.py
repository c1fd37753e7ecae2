"""Work-arounds for faults of vLLM, each to be deleted once vLLM has the fix."""
