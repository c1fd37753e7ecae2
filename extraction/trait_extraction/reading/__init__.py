"""Replies and activations read from a running service, with a cache for each stage."""
