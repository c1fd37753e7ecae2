"""Prompt sets: captured into shards, or projected token by token into DuckDB."""

from trait_client.prompt_sets.capture import CaptureOutcome, run_capture
from trait_client.prompt_sets.manifest import CaptureOptions, parse_layers
from trait_client.prompt_sets.progress import ProgressCallback, PromptSetProgress
from trait_client.prompt_sets.prompts import SetPrompt, text_prompt
from trait_client.prompt_sets.reader import Capture, read_capture
from trait_client.prompt_sets.sets import PromptSets, read_prompt_sets, read_prompts

__all__ = [
    "Capture",
    "CaptureOptions",
    "CaptureOutcome",
    "ProgressCallback",
    "PromptSetProgress",
    "PromptSets",
    "SetPrompt",
    "parse_layers",
    "read_capture",
    "read_prompt_sets",
    "read_prompts",
    "run_capture",
    "text_prompt",
]
