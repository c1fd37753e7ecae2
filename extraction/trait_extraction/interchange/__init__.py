"""Steering vectors of other tools: files are read as untrusted input, and written in their own formats."""
