"""Activation patching: the target prompt, run with streams of the source prompt."""
