"""Steering and monitoring of a request, resolved against the registry and the model."""
