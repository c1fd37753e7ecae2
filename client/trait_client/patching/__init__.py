"""Activation patching: runs, and what they stored."""

from trait_client.patching.run import PatchOutcome, run_patch
from trait_client.patching.stored import StoredPatching, read_patching

__all__ = ["PatchOutcome", "StoredPatching", "read_patching", "run_patch"]
