"""Directions fitted to activations, the evidence for them and the choice of a layer."""
