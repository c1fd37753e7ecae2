"""Prompt sets: captured into shards, or projected token by token into DuckDB."""

from trait_client.prompt_sets.capture import CaptureOutcome, run_capture
from trait_client.prompt_sets.manifest import CaptureOptions, parse_layers
from trait_client.prompt_sets.progress import ProgressCallback, PromptSetProgress
from trait_client.prompt_sets.prompts import SetPrompt, read_prompts
from trait_client.prompt_sets.reader import Capture, read_capture

__all__ = [
    "Capture",
    "CaptureOptions",
    "CaptureOutcome",
    "ProgressCallback",
    "PromptSetProgress",
    "SetPrompt",
    "parse_layers",
    "read_capture",
    "read_prompts",
    "run_capture",
]
